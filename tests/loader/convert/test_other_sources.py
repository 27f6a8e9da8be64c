"""What else `convert` reads: `.beton` files, tars, and what a function of one's own gives."""

import tarfile

import pytest
from own_sources import tar_of
from PIL import Image

from budgetloader import Dataset, DatasetError
from budgetloader.cli import main
from budgetloader.convert.other_sources import any_source, callable_source

MODULE = """
import numpy as np
from PIL import Image
from budgetloader.convert.sources import Source
from own_sources import Mine

def source():
    return Source(["a", "b"], [0, 1], ("x", "y"), lambda i: Image.new("RGB", (20, 10)))

def jpegs(path):
    return Mine(path, classes=tuple(f"c{i}" for i in range(14)))

class Pairs:
    classes = ("x", "y", "z")
    def __len__(self):
        return 3
    def __getitem__(self, i):
        return np.full((8, 9, 3), i, np.uint8), i

def odd():
    return 3

def half():
    return type("Half", (), {"jpeg": None, "heights": []})()

nothing = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_own_data.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_own_data"
    __import__("sys").modules.pop("my_own_data", None)


def test_a_beton_is_a_source_and_keeps_labels_classes_and_images(beton, tmp_path, capsys):
    assert main(["convert", str(beton), str(tmp_path / "again.beton"), "--quality", "95", "--max-side", "100"]) == 0
    first, second = Dataset(beton), Dataset(tmp_path / "again.beton")
    assert (second.labels == first.labels).all() and second.classes == first.classes
    assert max(second.heights.max(), second.widths.max()) == 100 and "70 images" in capsys.readouterr().out


def test_a_tar_is_a_source(folder, beton, tmp_path):
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        tar.add(folder, "train")
    assert main(["convert", str(tmp_path / "train.tar"), str(tmp_path / "out.beton")]) == 0
    made, expected = Dataset(tmp_path / "out.beton"), Dataset(beton)
    assert sorted(made.labels) == sorted(expected.labels) and made.classes == expected.classes
    assert sorted(made.sizes) == sorted(expected.sizes)


def test_other_images_in_a_tar_are_read_and_damaged_ones_are_named(tmp_path):
    Image.new("RGB", (5, 4)).save(tmp_path / "x.png")
    png = (tmp_path / "x.png").read_bytes()
    source = any_source(tar_of(tmp_path / "x.tar", ("x/1.png", png, {}), ("x/2.png", b"x", {})))
    assert source.load(0).size == (5, 4) and source.names[1] == f"x/2.png in {tmp_path / 'x.tar'}"
    assert main(["convert", str(tmp_path / "x.tar"), str(tmp_path / "x.beton"), "--on-bad", "skip"]) == 0
    assert len(Dataset(tmp_path / "x.beton")) == 1


@pytest.mark.parametrize(
    ("function", "argument", "count"), [("source", None, 2), ("jpegs", "beton", 70), ("Pairs", None, 3)]
)
def test_a_function_of_ones_own_gives_the_source(module, beton, tmp_path, function, argument, count):
    more = [] if argument is None else [str(beton)]
    assert main(["convert", *more, str(tmp_path / "out.beton"), "--dataset", f"{module}:{function}"]) == 0
    made = Dataset(tmp_path / "out.beton")
    assert len(made) == count and len(made.classes) == {2: 2, 70: 14, 3: 3}[count]
    if argument:
        assert (made.labels == Dataset(beton).labels).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("my_own_data", "names no function; give MODULE:FUNCTION"),
        ("nowhere_at_all:f", "there is no module 'nowhere_at_all' here"),
        ("my_own_data:none", "has no 'none'"),
        ("my_own_data:nothing", "is a int; give a function"),
        ("my_own_data:odd", "gives a int; give a budgetloader.convert.Source"),
        ("my_own_data:half", "without widths"),
    ],
)
def test_functions_that_give_nothing_to_convert_are_said(module, text, message):
    with pytest.raises(DatasetError if "is a int" not in message else Exception, match=message):
        callable_source(text)


def test_the_source_may_be_left_out_for_a_function_alone(tmp_path, capsys):
    assert main(["convert", str(tmp_path / "x.beton")]) == 1
    assert "give the source, and the file to make" in capsys.readouterr().err
