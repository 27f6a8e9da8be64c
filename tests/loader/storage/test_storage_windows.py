"""Fetching only the headers and rows that a crop needs: the same pixels, from fewer bytes."""

import numpy as np
import pytest
from stores import nothing_is_held

from budgetloader import ArgumentError, BudgetLoader, Dataset, Schedule, engines
from budgetloader.jpeg import Cropper
from budgetloader.plans import Planner
from budgetloader.storage.dataset import RemoteDataset
from budgetloader.storage.windows import Rows, joined

FULL = Schedule.full(epochs=2)
ENGINES = [name for name in ("native", "ffcv", "dali") if engines.installed(name)]


def learned(dataset, sample):
    rows = Rows(dataset.heights, dataset.sizes)
    size = rows.head_bytes(sample)
    while not rows.learn(sample, dataset.jpeg(sample)[:size]):
        size *= 2
    return rows


def test_headers_and_rows_alone_are_cropped_to_the_same_bytes(dataset):
    planner, cropper, share = Planner(dataset, schedule=FULL, batch_size=70, seed=3), Cropper(), []
    for epoch in range(2):
        plan = planner.plan(epoch, 0)
        for sample, window in zip(plan.samples.tolist(), plan.windows.tolist(), strict=True):
            whole, rows = dataset.jpeg(sample), learned(dataset, sample)
            top, left, height, width = window
            holed = np.zeros_like(whole)
            spans = rows.spans(sample, top=top, height=height)
            for start, stop in spans:
                holed[start:stop] = whole[start:stop]
            expected, *place = cropper.crop(whole, top=top, left=left, height=height, width=width)
            expected = expected.copy()
            found, *where = cropper.crop(holed, top=top, left=left, height=height, width=width)
            assert np.array_equal(found, expected) and where == place
            share.append(sum(stop - start for start, stop in spans) / len(whole))
    assert 0.5 < np.mean(share) < 0.8


def test_a_jpeg_that_cannot_be_cropped_is_needed_whole(dataset):
    rows = Rows(dataset.heights, dataset.sizes)
    assert rows.learn(0, np.zeros(int(dataset.sizes[0]), np.uint8)), "no JPEG, to its last byte"
    assert rows.spans(0, top=5, height=3) == [(0, int(dataset.sizes[0]))]
    assert not rows.known(1) and not rows.learn(1, dataset.jpeg(1)[:100])


def test_spans_are_joined_over_gaps_that_are_cheaper_than_a_request():
    assert joined([(10, 20), (0, 8), (30, 30)], gap_bytes=2) == [(0, 20)]
    assert joined([(10, 20), (0, 8)], gap_bytes=1) == [(0, 8), (10, 20)]
    assert joined([(0, 20), (5, 10)], gap_bytes=0) == [(0, 20)]


def pixels(dataset, **options):
    shape = {"schedule": FULL, "batch_size": 8, "image_size": 32, "dtype": "uint8", "workers": 2, **options}
    with BudgetLoader(dataset, **shape) as batches:
        return [images.clone() for _ in batches.epochs() for images, _ in batches]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_pixels_are_those_of_the_local_file(web, beton, engine):
    far = RemoteDataset(f"{web.url}/train.beton", fetch="window")
    opened = far.traffic.fetched_bytes
    expected, found = pixels(beton, engine=engine), pixels(far, engine=engine)
    assert len(expected) == len(found) and all((a == b).all() for a, b in zip(expected, found, strict=True))
    whole = 2 * far.sizes.sum()
    fetched = far.traffic.fetched_bytes - opened
    if engine == "dali":  # on a CPU it decodes whole images
        assert fetched >= whole / 2, "each sample whole, at least once"
    else:
        assert fetched < 0.85 * whole  # these images are small, and their headers are a larger part than is usual
    assert nothing_is_held(far) and (far.jpeg(5) == Dataset(beton).jpeg(5)).all()


def test_stand_ins_and_whole_images_are_fetched_whole(web, beton, small_beton):
    web.files["small.beton"] = small_beton.read_bytes()
    far = RemoteDataset(f"{web.url}/train.beton", fetch="window")
    expected = pixels(beton, engine="native", on_corrupt="replace")
    found = pixels(far, engine="native", on_corrupt="replace")
    assert all((a == b).all() for a, b in zip(expected, found, strict=True))
    padded = {"engine": "native", "crop": "pad", "image_size": 40}
    small = RemoteDataset(f"{web.url}/small.beton", fetch="window")
    expected, found = pixels(small_beton, **padded), pixels(small, **padded)
    assert all((a == b).all() for a, b in zip(expected, found, strict=True))


def test_windows_do_not_go_with_what_needs_whole_samples(web, tmp_path):
    url = f"{web.url}/train.beton"
    for options in ({"cache": tmp_path}, {"verify": True}):
        with pytest.raises(ArgumentError, match="needs whole samples"):
            RemoteDataset(url, fetch="window", **options)
    with pytest.raises(ArgumentError, match="fetch"):
        RemoteDataset(url, fetch="rows")
