"""The loader over every engine: the stream does not depend on which one it is."""

import numpy as np
import pytest
import torch
from test_engines import ENGINES, PIXELS, TOLERANCE
from test_loader import R3

from budgetloader import BudgetLoader, Dataset, EngineError, Schedule
from budgetloader.options import choose_crop

every_engine = pytest.mark.parametrize("engine", ENGINES)
every_real_engine = pytest.mark.parametrize("engine", PIXELS)


@pytest.fixture
def open_loader(engine, beton, small_beton):
    opened = []

    def open_loader(**options):
        path = small_beton if engine == "resident" else beton
        options = {"schedule": R3, "batch_size": 4, "image_size": 16, "engine": engine, "workers": 2, **options}
        opened.append(BudgetLoader(path, with_ids=True, **options))
        return opened[-1]

    yield open_loader
    for loader in opened:
        loader.close()


def ids_and_labels(loader):
    """(ids, labels) of every batch that is left, epoch by epoch."""
    return [
        (ids.tolist(), labels.tolist())
        for _ in range(loader.epoch, loader.schedule.epochs)
        for _, labels, ids in loader
    ]


@every_engine
@pytest.mark.parametrize("schedule", [R3, Schedule.flat("0.1", epochs=8)], ids=str)
def test_decoded_is_emitted_in_every_epoch(open_loader, engine, schedule):
    loader = open_loader(schedule=schedule)
    budget = schedule.budget(70, batch_size=4).batches
    assert [len(list(loader)) for _ in range(schedule.epochs)] == list(budget)
    assert [s.samples_decoded for s in loader.stats] == [s.samples_emitted for s in loader.stats]
    assert [s.samples_emitted for s in loader.stats] == [4 * b for b in budget]


@every_engine
def test_a_state_of_one_engine_resumes_on_every_other(open_loader, engine):
    reference = open_loader(engine="native")
    expected = ids_and_labels(reference)
    first = open_loader(engine="native")
    list(first)
    next(iter(first))
    resumed = open_loader()
    resumed.load_state_dict(first.state_dict())
    assert ids_and_labels(resumed) == expected[len(expected) - _left(first) :]


def _left(loader) -> int:
    budget = R3.budget(70, batch_size=4).batches
    return sum(budget[loader.epoch :]) - loader.step


@every_engine
def test_early_break_and_set_epoch_backwards(open_loader, engine):
    epochs = [[ids.tolist() for _, _, ids in open_loader(engine="native")]]
    loader = open_loader()
    for i, (_, _, ids) in enumerate(loader):
        assert ids.tolist() == epochs[0][i]
        if i == 1:
            break
    second = [ids.tolist() for _, _, ids in loader]
    loader.set_epoch(0)
    assert [ids.tolist() for _, _, ids in loader] == epochs[0]
    assert [ids.tolist() for _, _, ids in loader] == second


@every_real_engine
def test_evaluation_shows_every_sample_once_in_order(open_loader, engine):
    options = {"schedule": None, "train": False, "batch_size": 16, "dtype": "uint8", "image_size": 32}
    ours, reference = open_loader(**options), open_loader(**{**options, "engine": "native"})
    for _ in range(2):
        batches = list(ours)
        assert torch.cat([ids for _, _, ids in batches]).tolist() == list(range(70))
    for (a, _, _), (b, _, _) in zip(batches, reference, strict=True):
        assert (a.int() - b.int()).abs().float().mean() <= TOLERANCE[engine]


@pytest.mark.parametrize("engine", ["resident"])
@pytest.mark.parametrize("train", [True, False])
def test_small_images_are_padded_shifted_and_flipped(open_loader, small_beton, train):
    options = {"image_size": 40, "dtype": "uint8", "batch_size": 10}
    options |= {"schedule": Schedule.full(epochs=2)} if train else {"schedule": None, "train": False}
    resident, native = open_loader(**options, engine="auto"), open_loader(**options, engine="native")
    assert resident.engine == "resident" and "memory" in resident.engine_reason
    for a, b in zip(resident, native, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    with BudgetLoader(small_beton, train=False, batch_size=70, image_size=40, dtype="uint8") as plain:
        (originals, _) = next(iter(plain))
    images, _, ids = next(iter(resident))
    padded = np.pad(originals[ids].numpy(), ((0, 0), (0, 0), (4, 4), (4, 4)))
    shifts = range(9) if train else (4,)
    for image, source in zip(images.numpy(), padded, strict=True):
        views = [source[:, y : y + 40, x : x + 40] for y in shifts for x in shifts]
        flipped = [v[:, :, ::-1] for v in views] if train else []
        assert any(np.array_equal(image, v) for v in (*views, *flipped))


@pytest.mark.parametrize("engine", ENGINES)
def test_padding_where_an_engine_cannot_is_refused(open_loader, engine, small_beton):
    if engine in ("dali", "ffcv"):
        with pytest.raises(EngineError, match="does not pad"):
            BudgetLoader(small_beton, schedule=R3, batch_size=4, image_size=40, engine=engine)


def test_images_of_several_sizes_are_not_padded(beton):
    with pytest.raises(EngineError, match="crop='pad' needs"):
        BudgetLoader(beton, schedule=R3, batch_size=4, image_size=16, crop="pad")


def test_the_crop_that_auto_stands_for_is_said_and_does_not_depend_on_image_size(beton, small_beton, caplog):
    caplog.set_level("INFO", logger="budgetloader")
    for path, crop, why in ((small_beton, "pad", "all images are 40 × 40"), (beton, "resized", "not all of one small")):
        for image_size in (16, 40, 64):
            with BudgetLoader(path, schedule=R3, batch_size=4, image_size=image_size) as batches:
                assert batches.crop == crop and why in batches.crop_reason
                assert f"crop {crop} ({batches.crop_reason})" in repr(batches)
                assert next(iter(batches))[0].shape == (4, 3, image_size, image_size)
    assert "crop pad: all images are 40 × 40" in caplog.text


def test_large_images_of_one_size_are_not_padded(beton, monkeypatch):
    """An ImageNet that was resized to 224 × 224 once and for all."""
    dataset = Dataset(beton)
    dataset.heights[:] = dataset.widths[:] = 224
    assert choose_crop("auto", dataset)[0] == "resized"
    assert choose_crop("pad", dataset) == ("pad", "it was asked for")
    dataset.heights[:] = dataset.widths[:] = 64
    assert choose_crop("auto", dataset)[0] == "pad"


def test_padded_images_are_shifted_before_they_are_resized(small_beton):
    """The resident engine by matrices, the native one by its kernel, and both by the shift alone where sizes agree."""
    options = {"schedule": Schedule.full(epochs=1), "batch_size": 10, "dtype": "uint8", "crop": "pad"}
    for size in (24, 56):
        made = []
        for engine in ("resident", "native"):
            with BudgetLoader(small_beton, engine=engine, image_size=size, **options) as batches:
                made.append(torch.cat([images for images, _ in batches]).int())
        assert (made[0] - made[1]).abs().float().mean() <= TOLERANCE["resident"]


@pytest.mark.parametrize("engine", ["resident"])
def test_images_of_several_sizes_cannot_be_resident(open_loader, beton, engine):
    with pytest.raises(EngineError, match="one size"):
        BudgetLoader(beton, schedule=R3, batch_size=4, image_size=40, engine="resident")
