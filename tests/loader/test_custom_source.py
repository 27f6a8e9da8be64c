"""A source of one's own in place of a file: the protocol, and what is checked of it."""

import numpy as np
import pytest
from own_sources import Mine, jpeg

from budgetloader import BudgetLoader, CorruptSampleError, DatasetError, Schedule
from budgetloader.custom_source import GivenDataset

OPTIONS = {"schedule": Schedule.of([1, "0.5"]), "batch_size": 8, "image_size": 16, "workers": 2, "with_ids": True}


def batches_of(path, **options):
    with BudgetLoader(path, **{**OPTIONS, **options}) as batches:
        stream = (batch for _ in batches.epochs() for batch in batches)
        return [(ids.tolist(), labels.tolist(), images.clone()) for images, labels, ids in stream]


@pytest.mark.parametrize("engine", ["native", "dali"])
@pytest.mark.parametrize("world_size", [1, 2])
def test_its_batches_are_those_of_the_file(beton, engine, world_size):
    pytest.importorskip("nvidia.dali") if engine == "dali" else None
    options = {"engine": engine, "rank": world_size - 1, "world_size": world_size}
    for one, other in zip(batches_of(Mine(beton), **options), batches_of(beton, **options), strict=True):
        assert one[:2] == other[:2] and (one[2] == other[2]).all()


def test_what_else_it_has_is_found(beton):
    made = GivenDataset(Mine(beton, classes=[f"c{i}" for i in range(14)], path="here", extra=3))
    assert (made.classes[1], made.path, made.extra, len(made)) == ("c1", "here", 3, 70)
    with pytest.raises(AttributeError):
        _ = made.nothing


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heights": np.ones(3)}, r"heights are float64 \[3\]"),
        ({"labels": [[1]]}, r"labels are int64 \[1, 1\]"),
        ({"widths": np.ones(69, int)}, "70, 69 and 70 heights, widths and labels"),
        ({name: np.zeros(0, int) for name in ("heights", "widths", "labels")}, "0, 0 and 0 heights"),
        ({"heights": np.r_[np.ones(69, int), 0]}, r"heights\[69\] is 0"),
        ({"widths": np.full(70, 65_535), "heights": np.full(70, 65_535)}, "sample 0 has more pixels"),
        ({"classes": ["a"]}, "labels that none of its 1 classes has"),
    ],
)
def test_arrays_that_cannot_be_are_refused(beton, changes, message):
    with pytest.raises(DatasetError, match=message):
        BudgetLoader(Mine(beton, **changes), **OPTIONS)


@pytest.mark.parametrize(
    ("gives", "error", "message"),
    [
        (lambda: "text", DatasetError, "gave str; give bytes"),
        (lambda: np.zeros((2, 2), np.uint8), DatasetError, "gave ndarray; give bytes"),
        (lambda: np.zeros(9), DatasetError, "gave ndarray; give bytes"),
        (lambda: b"no jpeg", CorruptSampleError, "does not decode"),
        (lambda: jpeg(size=(9, 9)), CorruptSampleError, "its size is not the one in the index"),
    ],
)
def test_what_is_no_jpeg_of_the_size_that_was_said_never_reaches_a_decoder(beton, gives, error, message):
    source = Mine(beton)
    source.jpeg = lambda sample: gives()
    with BudgetLoader(source, engine="native", **OPTIONS) as batches, pytest.raises(error, match=message):
        next(iter(batches))
