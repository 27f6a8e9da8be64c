import ast
import subprocess
import sys
from pathlib import Path

import pytest

import budgetloader

LAYERS = (  # each imports from its own line or those above it
    {"apart", "errors", "limits", "parallel", "paths", "pickles", "pillow", "rng", "runs", "stats"},
    {"colour", "console"},
    {"schedule"},
    {"budget", "position", "shard", "theory"},
    {"beton", "jpeg", "order", "resize", "windows"},
    {"batch", "dataset", "sources"},
    {"convert", "engines", "generate", "verify"},
    {"loader", "prepare", "sampler"},
    {"service", "noise", "throughput"},
    {"doctor", "training"},
    {"commands"},
    {"cli"},
    {"__main__"},
)
SHORTCUTS = {("schedule", "budget")}  # Schedule.budget(), for those who call it
TRAINING = ("training.py",)  # what brings the loader and models together
OWNERS = {"nvidia": "engines/dali.py", "ffcv": "engines/ffcv.py", "ray": "service/"}


def imports(source: str) -> set[str]:
    """The modules that a source imports, those for the type checker alone left out."""
    tree = ast.parse(source)
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in set(ast.walk(tree)) - typing_only:
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return found


def layer(part: str) -> int:
    return next(number for number, names in enumerate(LAYERS) if part in names)


def violations(path: str, source: str) -> list[str]:
    """What a file imports that it must not."""
    here = path.removesuffix(".py").split("/")[0]
    wrong = []
    for name in imports(source):
        top, *inner = name.split(".")
        if top in OWNERS and not path.startswith(OWNERS[top]):
            wrong.append(f"{path} imports {top}")
        if top != "budgetloader" or here == "__init__" or inner[:1] == [here]:
            continue
        if path in TRAINING and inner[:1] == ["models"]:
            continue
        if here == "models" or inner[:1] in (["models"], ["bench"]):
            wrong.append(f"{path} imports {name}")
            continue
        known = {part for names in LAYERS for part in names}
        if inner[0] in known and layer(inner[0]) > layer(here) and (here, inner[0]) not in SHORTCUTS:
            wrong.append(f"{path} imports {name}, which is above it")
    return wrong


def found(root: Path) -> list[Path]:
    """The package's files; in a checkout, models/ and bench/ are links."""
    folders = (root, *(path for path in root.iterdir() if path.is_dir()))
    return [path for folder in folders for path in folder.glob("*.py")]


def test_the_layers_import_in_one_direction():
    root = Path(budgetloader.__file__).parent  # a checkout, or where it is installed
    files = [p.relative_to(root).as_posix() for p in found(root) if p.parent.name != "bench"]
    assert len(files) > 40 and "models/fit.py" in files and "service/server.py" in files
    assert [w for file in files for w in violations(file, (root / file).read_text())] == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("order.py", "from budgetloader.loader import BudgetLoader"),
        ("engines/native.py", "def f():\n    from budgetloader import service"),
        ("models/fit.py", "import budgetloader"),
        ("loader.py", "from budgetloader.bench import job"),
        ("loader.py", "from budgetloader.models import fit"),
        ("training.py", "from budgetloader.bench import job"),
        ("engines/native.py", "import nvidia.dali"),
        ("loader.py", "import ray"),
    ],
)
def test_the_test_of_the_layers_can_fail(path, source):
    assert len(violations(path, source)) == 1


def imported(code: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after `code`."""
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    return set(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    )


def test_import_loader_loads_neither_torch_nor_an_engine():
    heavy = {"torch", "numba", "cv2", "simplejpeg", "PIL", "rich", "ffcv", "nvidia.dali", "ray"}
    assert not imported("import budgetloader") & heavy
    assert (
        not imported("import budgetloader; budgetloader.Schedule.paper('R3', epochs=120); budgetloader.theory") & heavy
    )


def test_the_test_above_can_fail():
    assert {"torch", "numba", "simplejpeg"} <= imported("import budgetloader.engines.native")


def import_seconds(module: str) -> float:
    """The least of some fresh interpreters' times for an import, in processor time."""
    script = f"import time; began = time.process_time(); import {module}; print(time.process_time() - began)"
    command = [sys.executable, "-c", script]
    return min(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(3))


def test_import_loader_takes_under_0_3_seconds():
    assert import_seconds("budgetloader") < 0.3


def test_the_test_of_the_seconds_can_fail():
    assert import_seconds("torch") > 0.3


def test_unknown_names_are_refused():
    import budgetloader

    with pytest.raises(AttributeError, match="Warp"):
        _ = budgetloader.Warp
    assert set(budgetloader.__all__) <= set(dir(budgetloader))


def test_help_of_the_command_line_loads_nothing_heavy():
    heavy = {"torch", "numpy", "numba", "simplejpeg", "PIL", "rich", "ray", "budgetloader.models"}
    help_ = "from budgetloader import cli\ntry: cli.main(['--help'])\nexcept SystemExit: pass"
    loaded = imported(help_)
    assert "budgetloader.commands.train" in loaded and not loaded & heavy
