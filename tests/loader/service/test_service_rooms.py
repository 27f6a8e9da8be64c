"""The service's files import in one direction."""

import ast
from pathlib import Path

import budgetloader.service

LAYERS = (  # each imports from lines above it, and nothing from its own
    {"__init__"},
    {"blocks", "guard", "registry", "status", "stopping", "wire"},
    {"cache", "exchange", "failures", "fetching", "history", "protocol", "session", "stores"},
    {"connection", "lending", "link", "page", "top", "worker"},
    {"assembler", "coordinator", "maker", "metrics"},
    {"bridge", "client", "server"},
    {"join"},
    {"commands"},
)
FOLDER = Path(budgetloader.service.__file__).parent
PACKAGE = "budgetloader.service"


def imported(source):
    """The service's files that a source imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
            inner = (node.module or "").removeprefix(PACKAGE).lstrip(".")
            for name in node.names:
                file = inner or (name.name if (FOLDER / f"{name.name}.py").exists() else "__init__")
                yield file


def violations(file, source):
    level = {name: number for number, names in enumerate(LAYERS) for name in names}
    return [f"{file} imports {name}" for name in imported(source) if level[name] >= level[file]]


def test_the_services_files_import_in_one_direction():
    files = {path.stem: path.read_text() for path in FOLDER.glob("*.py")}
    assert set(files) == set().union(*LAYERS)
    assert [wrong for file, source in files.items() for wrong in violations(file, source)] == []


def test_the_test_above_can_fail():
    assert violations("wire", "def f():\n    from budgetloader.service import registry")
    assert violations("metrics", "from budgetloader.service.server import status")


def test_every_file_and_function_can_be_read_at_once():
    for path in FOLDER.glob("*.py"):
        source = path.read_text()
        assert source.count("\n") <= 400, path.name
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path.name}: {node.name}"


def loaded(file):
    """What importing a file of the service loads: the service's files, and Ray."""
    source = (FOLDER / f"{file}.py").read_text()
    body = "\n".join(
        ast.unparse(node) for node in ast.parse(source).body if isinstance(node, (ast.Import, ast.ImportFrom))
    )
    found = {file} | ({"ray"} if "import ray" in body else set())
    return found.union(*(loaded(name) for name in imported(body)))


def test_a_trainer_never_imports_ray():
    assert {"protocol", "maker", "lending"} <= loaded("client") and "ray" not in loaded("client")
    assert "ray" in loaded("coordinator"), "the test would show nothing otherwise"
