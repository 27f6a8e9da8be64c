import contextlib
import subprocess
from pathlib import Path

import pytest
from traps import trap

from budgetloader.bench.child import Child, once, together


def counter(*, start):
    """What the process under test answers with."""
    total = start

    def add(*, number=0):
        nonlocal total
        total += number
        print("a library's own words")
        if number < 0:
            raise ValueError("below zero")
        return {"total": total}

    return add


@contextlib.contextmanager
def noted(*, path):
    """What the process under test answers with; it notes its end."""
    yield lambda: {"left": Path(path).exists()}
    Path(path).write_text("closed")


def status(*, number):
    return number


def environment():
    import os

    return lambda name: os.environ.get(name)


def test_a_child_keeps_its_state_between_questions_and_its_prints_are_not_answers():
    with Child("test_child:counter", name="counter", arguments={"start": 2}) as child:
        assert [child.ask(number=n)["total"] for n in (1, 2)] == [3, 5]


def test_a_childs_environment_is_set_before_anything_is_imported():
    with Child("test_child:environment", name="environment", environment={"SET_FOR_TEST": "yes"}) as child:
        assert child.ask(name="SET_FOR_TEST") == "yes"


def test_a_child_that_fails_is_named_with_its_status():
    with Child("test_child:counter", name="counter", arguments={"start": 0}) as child:
        with pytest.raises(RuntimeError, match="counter ended with status 1"):
            child.ask(number=-1)
        with pytest.raises(RuntimeError, match="counter ended with status 1"):
            child.ask(number=1)


def test_a_child_that_cannot_be_made_is_named():
    child = Child("test_child:counter", name="counter", arguments={"wrong": 0})
    with child, pytest.raises(RuntimeError, match="counter ended"):
        child.ask()


def test_children_that_are_asked_together_work_at_the_same_time_and_are_closed(tmp_path):
    paths = [tmp_path / "a", tmp_path / "b"]
    made = (Child("test_child:noted", name=path.name, arguments={"path": str(path)}) for path in paths)
    with together(made) as children:
        for child in children:
            child.send()
            child.send()
        assert [child.answer() for child in children * 2] == [{"left": False}] * 4
    assert all(path.read_text() == "closed" for path in paths)


def test_a_child_that_is_killed_is_named():
    with Child("test_child:counter", name="counter", arguments={"start": 0}) as child:
        child.ask(number=1)
        child.kill()
        with pytest.raises(RuntimeError, match="counter ended with status -9"):
            child.ask(number=1)


@pytest.mark.parametrize("number", [0, 3])
def test_a_function_that_runs_once_gives_its_process_the_status(number):
    assert subprocess.run(once("test_child:status", number=number)).returncode == number


def test_modules_that_lie_in_the_working_directory_are_not_run_by_a_child(tmp_path):
    trap(tmp_path, "json", "loader", "runpy", "bench")
    assert subprocess.run(once("test_child:status", number=5), cwd=tmp_path).returncode == 5
    assert not (tmp_path / "was_run").exists()
