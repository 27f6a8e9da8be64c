"""Data made ready for `budgetloader train` and the benches; where they come from is in the tests of those."""

import io
import sys

import pytest
from PIL import Image
from rich.console import Console

from budgetloader.console import bars
from budgetloader.errors import DatasetError
from budgetloader.prepare import prepare

OPTIONS = {"evaluation": None, "images": 0, "seed": 0}


@pytest.fixture
def parent(tmp_path):
    """Sets under names that are not looked for, with three images of a class each."""
    for i in range(6):
        path = tmp_path / "images" / ("training", "testing")[i % 2] / "cat" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    return tmp_path / "images"


@pytest.mark.parametrize("disable", [False, True])
def test_a_conversion_says_its_classes_and_warns_of_sets(parent, tmp_path, disable):
    text = io.StringIO()
    with bars(Console(file=text, width=200), disable=disable) as progress:
        data = prepare(parent, folder=tmp_path / "data", progress=progress, **OPTIONS)
    assert (len(data.train), len(data.evaluation)) == (4, 2)
    said = text.getvalue()
    assert ("train.beton: 4 images of 2 classes, 2 to 2 of each" in said) != disable
    assert ("the classes testing and training" in said) != disable


def test_the_digits_without_their_package_are_one_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with bars(Console(file=io.StringIO())) as progress, pytest.raises(DatasetError, match=r"budgetloader\[bench\]"):
        prepare(None, folder=tmp_path, progress=progress, builtin="digits", **OPTIONS)
