"""Sets that grow by files behind the first, which nobody writes to again."""

import numpy as np
import pytest
from PIL import Image

from budgetloader import BudgetLoader, Dataset, DatasetError, Schedule, shards
from budgetloader.cli import main
from budgetloader.convert.appending import append
from budgetloader.convert.converting import convert
from budgetloader.convert.sources import Source


def images(classes, count, *, first=0):
    """A source of small images of one colour each, which others have in another size."""
    shape = (12, 16 + first, 3)
    made = [Image.fromarray(np.full(shape, (first + i) * 3 % 256, np.uint8)) for i in range(count)]
    labels = [i % (len(classes) or 2) for i in range(count)]
    return Source([f"{i}" for i in range(count)], labels, classes, made.__getitem__)


@pytest.fixture
def train(tmp_path):
    convert(images(("a", "b"), 10), tmp_path / "train.beton")
    return tmp_path / "train.beton"


def test_what_is_added_comes_behind_what_there_is_which_stays_as_it_was(train):
    before = train.read_bytes()
    made, report = append(images(("b", "c"), 6, first=20), train)
    assert made == train.with_name("train.0001.beton") and report.samples == 6
    append(images(("c",), 4, first=40), train)
    assert train.read_bytes() == before
    assert [path.name for path in shards(train)] == ["train.beton", "train.0001.beton", "train.0002.beton"]
    options = {"schedule": Schedule.full(epochs=1), "batch_size": 20, "image_size": 8, "engine": "native", "workers": 1}
    with BudgetLoader(shards(train), with_ids=True, **options) as batches:
        _, labels, ids = next(iter(batches))
        assert batches.dataset.classes == ("a", "b", "c") and sorted(ids.tolist()) == list(range(20))
    names = dict(zip(ids.tolist(), (batches.dataset.classes[label] for label in labels.tolist()), strict=True))
    assert [names[i] for i in (0, 1, 10, 11, 16)] == ["a", "b", "b", "c", "c"]


@pytest.mark.slow
def test_the_command_says_what_it_made(train, folder, capsys):
    assert main(["convert", str(folder), str(train), "--append", "--max-side", "32"]) == 0
    assert "train.0001.beton: 70 images" in capsys.readouterr().out and len(Dataset(train)) == 10
    assert main(["convert", str(folder), str(train), "--append", "--overwrite"]) == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda: images(("a", "b"), 10), "are the same samples"),
        (lambda: images((), 3, first=50), "names its classes, unlike what is added"),
    ],
)
def test_what_does_not_go_with_the_set_leaves_nothing_behind(train, source, message):
    with pytest.raises(DatasetError, match=message):
        append(source(), train)
    assert [path.name for path in train.parent.iterdir()] == ["train.beton"]


def test_a_set_that_is_not_there_or_has_a_gap_is_said(train, tmp_path):
    with pytest.raises(DatasetError, match="none.beton does not exist; make it with"):
        append(images(("a",), 1), tmp_path / "none.beton")
    for number in (1, 2):
        append(images(("a",), 2, first=20 * number), train)
    train.with_name("train.0001.beton").unlink()
    with pytest.raises(DatasetError, match=r"train.0001.beton is missing, and .*train.0002.beton is there"):
        shards(train)


def test_other_files_beside_it_are_none_of_the_set(train):
    for name in ("train.1.beton", "train.0001.beton.partial", "xtrain.0001.beton", "train.00011.beton"):
        train.with_name(name).write_bytes(b"")
    assert shards(train) == [train]
