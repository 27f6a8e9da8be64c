"""No file above 400 lines, no function above 60: what grows past that wants another look."""

import ast
from pathlib import Path

import pytest
from conftest import ROOT

FILE_LINES, FUNCTION_LINES = 400, 60
# What is over, and whose it is. Nothing new belongs here; an entry that is no longer needed fails the test.
EXCEPTIONS: set[str] = set()


def too_long(name: str, source: str) -> set[str]:
    """The file, and the functions in it, that are over."""
    found = {name} if source.count("\n") > FILE_LINES else set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno is not None
            if node.end_lineno - node.lineno >= FUNCTION_LINES:
                found.add(f"{name}: {node.name}")
    return found


def sources() -> list[Path]:
    """Every file, once: loader/ has links to two of the others."""
    folders = [ROOT / name for name in ("loader", "models", "bench", "tests", "examples", "tools")]
    if not folders[1].is_dir():
        pytest.skip("this is no checkout")
    files = [path for folder in folders for path in folder.rglob("*.py")]
    return [path for path in files if path.resolve() == path]


def test_files_and_functions_are_short():
    files = sources()
    assert len(files) > 140
    found = set().union(*(too_long(path.relative_to(ROOT).as_posix(), path.read_text()) for path in files))
    assert found == EXCEPTIONS


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (["def f():"] + ["    pass"] * 59, set()),
        (["def f():"] + ["    pass"] * 60, {"x.py: f"}),
        (["class A:", "    async def f():"] + ["        pass"] * 60, {"x.py: f"}),
        (["pass"] * 400, set()),
        (["pass"] * 401, {"x.py"}),
    ],
)
def test_the_test_of_sizes_can_fail(lines, found):
    assert too_long("x.py", "\n".join(lines) + "\n") == found
