"""Rows of a batch in compiled calls: the pixels of one row at a time, and what is left to that."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import damage

from budgetloader import BudgetLoader, Dataset, EngineError, Schedule
from budgetloader.engines import rows, turbojpeg
from budgetloader.engines.base import Job, Output, Work
from budgetloader.engines.buffers import BufferPool
from budgetloader.engines.rendering import Renderer
from budgetloader.engines.row_kernels import divisor_of
from budgetloader.engines.rows import RowRenderer
from budgetloader.joined import JoinedDataset, join
from budgetloader.plans import Planner, stream

CASES = [
    {"dtype": "uint8"},
    {"dtype": "float32", "layout": "contiguous"},
    {"dtype": "float16", "interpolation": "linear"},
    {"dtype": "uint8", "decode_scaling": True},
    {"dtype": "uint8", "fast_decode": True},
]


@pytest.fixture(autouse=True, params=["system", "simplejpeg"])
def decoder(request, monkeypatch):
    if request.param == "simplejpeg":
        monkeypatch.setattr(turbojpeg, "library", lambda: None)
    elif turbojpeg.library() is None:
        pytest.skip("the system has no libjpeg-turbo")
    return request.param


def rendered(dataset, *, count=3, batch_size=20, crop="resized", **output):
    """(which rows the compiled calls made, their batch, the batch of one row at a time) for some batches."""
    output = Output(**{"image_size": 32, "crop": crop, **output})
    planner = Planner(dataset, schedule=Schedule.full(epochs=2), batch_size=batch_size, seed=3, crop=crop)
    job = Job(dataset, output, batch_size, 1, 1, "raise", planner.replacement)
    one, many, pool = Renderer(job, Work(), output), RowRenderer(job, output), BufferPool(output, batch_size)
    for plan in itertools.islice(stream(planner, epoch=0, step=0), count):
        ours, reference = pool.take(len(plan)), pool.take(len(plan))
        done = many.render(plan, np.arange(len(plan)), pool.images(ours))
        for row in np.flatnonzero(done):
            one.fill(plan, row, pool.image(reference, row))
        yield done, ours, reference


@pytest.mark.parametrize("output", CASES, ids=str)
def test_pixels_are_those_of_one_row_at_a_time(beton, output):
    for done, ours, reference in rendered(Dataset(beton), **output):
        assert done.all()
        np.testing.assert_array_equal(ours, reference)


def test_images_that_are_padded_too(small_beton):
    for size in (40, 24):
        for done, ours, reference in rendered(Dataset(small_beton), crop="pad", dtype="uint8", image_size=size):
            assert done.all()
            np.testing.assert_array_equal(ours, reference)


def test_with_little_room_they_are_resized_one_by_one(beton, monkeypatch):
    monkeypatch.setattr(rows, "_AT_ONCE_BYTES", 1)
    for done, ours, reference in rendered(Dataset(beton), dtype="uint8"):
        assert done.all()
        np.testing.assert_array_equal(ours, reference)


def test_the_systems_library_decodes_where_there_is_one(beton, decoder, monkeypatch):
    decode_nothing = SimpleNamespace(decode_jpeg=lambda *_, **__: np.empty((0, 0, 3), np.uint8))
    monkeypatch.setattr(rows, "simplejpeg", decode_nothing)  # rows that are left to it are not made
    for done, _, _ in rendered(Dataset(beton), dtype="uint8"):
        assert done.all() if decoder == "system" else not done.any()


def test_files_that_are_joined(beton, small_beton):
    for done, ours, reference in rendered(join([beton, small_beton]), dtype="uint8"):
        assert done.all()
        np.testing.assert_array_equal(ours, reference)


def test_what_is_damaged_is_left_and_the_rest_made(beton, tmp_path):
    broken = Dataset(damage(beton, tmp_path / "broken.beton", samples=(3, 40)))
    for done, ours, reference in rendered(broken, dtype="uint8", batch_size=70, count=1):
        assert np.count_nonzero(~done) == 2
        np.testing.assert_array_equal(ours[done], reference[done])


def test_files_that_are_read_or_verified_and_other_kinds_are_left(beton, small_beton):
    class Remote(Dataset):
        """Whose map has holes, as that of a file in object storage may."""

        plans_mapped = False

    for left in (Dataset(beton, mapped=False), Dataset(beton, verify=True), Remote(beton)):
        assert not any(done.any() for done, _, _ in rendered(left, dtype="uint8", count=1))
        for done, ours, reference in rendered(JoinedDataset([Dataset(small_beton), left]), dtype="uint8", count=1):
            assert 0 < np.count_nonzero(done) < len(done)
            np.testing.assert_array_equal(ours[done], reference[done])


@pytest.mark.parametrize("options", [{"mapped": False}, {"verify": True}], ids=str)
def test_a_loader_gives_the_same_batches_from_files_that_are_left(beton, options):
    shape = {"schedule": Schedule.of(["0.5"]), "batch_size": 8, "image_size": 48, "dtype": "uint8", "engine": "native"}
    for scaling in (False, True):
        made = []
        for dataset in (Dataset(beton), Dataset(beton, **options)):
            with BudgetLoader(dataset, decode_scaling=scaling, **shape) as batches:
                made.append([images.clone().numpy() for images, _ in batches])
        assert all(np.array_equal(a, b) for a, b in zip(*made, strict=True))


@pytest.mark.parametrize(
    ("window", "target", "divisor"),
    [
        ((63, 90), 32, 1),
        ((64, 90), 32, 2),
        ((127, 500), 32, 2),
        ((128, 128), 32, 4),
        ((999, 999), 32, 8),
        ((9, 9), 9, 1),
    ],
)
def test_a_window_is_decoded_smaller_where_it_stays_as_large_as_the_target(window, target, divisor):
    assert divisor_of(*window, target) == divisor


@pytest.mark.parametrize(("option", "mean", "most"), [("decode_scaling", 2.0, 60), ("fast_decode", 1.5, 60)])
def test_the_difference_in_pixels_is_small_and_there(beton, option, mean, most):
    """As docs/speed.md says: on average below 2 of 255, where a window off by one pixel would differ by more."""
    differences = []
    for exact, other in zip(
        rendered(Dataset(beton), dtype="uint8"), rendered(Dataset(beton), dtype="uint8", **{option: True}), strict=True
    ):
        differences.append(np.abs(exact[1].astype(int) - other[1]))
    difference = np.stack(differences)
    assert 0 < difference.mean() <= mean and difference.max() <= most


@pytest.mark.parametrize("engine", ["dali", "ffcv"])
def test_engines_that_decode_no_image_smaller_say_so(beton, engine):
    options = {"schedule": Schedule.full(epochs=1), "batch_size": 8, "image_size": 16, "engine": engine}
    with pytest.raises(EngineError, match="decode_scaling=False|not installed"):
        BudgetLoader(beton, decode_scaling=True, **options)


@pytest.mark.parametrize("option", ["decode_scaling", "fast_decode"])
def test_options_are_true_or_false(beton, option):
    with pytest.raises(EngineError, match=f"{option} 'yes' is neither True nor False"):
        BudgetLoader(beton, schedule=Schedule.full(epochs=1), batch_size=8, image_size=16, **{option: "yes"})
