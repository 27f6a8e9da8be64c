import pytest

from budgetloader.bench.child import Child


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


def environment():
    import os

    return lambda name: os.environ.get(name)


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    from pathlib import Path

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


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
