"""Several images of each sample: random crops of training, and the crops of an evaluation."""

import hashlib
import json

import numpy as np
import pytest
import torch
from conftest import damage
from hypothesis import given
from hypothesis import strategies as st
from test_engines import PIXELS, TOLERANCE
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from budgetloader import ArgumentError, BudgetLoader, Dataset, Schedule
from budgetloader.engines import rows
from budgetloader.transforms import PerGroup, uniform
from budgetloader.views import crops_of, view_seed

SCHEDULE = Schedule.of(["0.5", 1])
sides = st.lists(st.integers(1, 4000), min_size=1, max_size=9).map(np.array)


@given(heights=sides, share=st.floats(0.01, 1.0))
def test_every_crop_is_a_square_inside_its_image(heights, share):
    widths = heights[::-1]
    for place in (*crops_of("ten"), *crops_of((share, 1))):
        top, left, height, width, flip = place(heights, widths).T
        assert (top >= 0).all() and (left >= 0).all() and (height == width).all() and (height >= 1).all()
        assert (top + height <= heights).all() and (left + width <= widths).all() and set(flip) <= {0, 1}


def test_five_and_ten_crops_are_torchvisions():
    image = torch.arange(40 * 65).view(1, 40, 65)
    heights, widths = np.array([40]), np.array([65])

    def shown(name):
        for place in crops_of(name):
            top, left, height, width, flip = place(heights, widths)[0]
            part = image[:, top : top + height, left : left + width]
            yield (part.flip(2) if flip else part).numpy().tobytes()

    five, ten = (
        [part.contiguous().numpy().tobytes() for part in crop(image, [35, 35])]
        for crop in (functional.five_crop, functional.ten_crop)
    )
    assert list(shown("five")) == five and set(shown("ten")) == set(ten)  # here each beside its mirror image's place


def test_views_have_seeds_of_their_own():
    seeds = [view_seed(seed, view) for seed in (0, 1) for view in range(50)]
    assert len(set(seeds)) == 100 and view_seed(7, 0) == 7 and all(0 <= seed < 2**64 for seed in seeds)


def made(path, *, start=None, stop=None, **options):
    """(hash of images, labels, ids) of every batch, and the state after `stop` of them."""
    options = {"schedule": SCHEDULE, "batch_size": 8, "image_size": 16, "workers": 2, "dtype": "uint8", **options}
    found = []
    with BudgetLoader(path, with_ids=True, **options) as batches:
        if start is not None:
            batches.load_state_dict(start)
        for _ in batches.epochs():
            for images, labels, ids in batches:
                assert images.shape == (options["views"], len(ids), 3, 16, 16) and len(labels) == len(ids)
                assert all(view.is_contiguous(memory_format=torch.channels_last) for view in images)
                pixels = images.permute(0, 1, 3, 4, 2).contiguous().numpy().tobytes()
                found.append((hashlib.sha256(pixels).hexdigest(), labels.tolist(), ids.tolist()))
                if len(found) == stop:
                    return found, json.loads(json.dumps(batches.state_dict()))
        assert all(s.samples_decoded == s.samples_emitted or s.samples_replaced for s in batches.stats)
    return found, None


@pytest.mark.parametrize("engine", PIXELS)
def test_every_engine_gives_the_same_views_of_the_same_samples(beton, small_beton, engine):
    path = small_beton if engine == "resident" else beton
    options = {"schedule": SCHEDULE, "batch_size": 8, "image_size": 16, "views": 3, "dtype": "uint8", "with_ids": True}
    with BudgetLoader(path, engine=engine, **options) as ours, BudgetLoader(path, engine="native", **options) as native:
        for (a, labels, ids), (b, others, numbers) in zip(ours, native, strict=True):
            assert torch.equal(labels, others) and torch.equal(ids, numbers)
            assert (a.int() - b.int()).abs().float().mean() <= 2 * TOLERANCE[engine] + 0.05


def test_the_first_view_is_what_there_is_without_others(beton):
    options = {"schedule": SCHEDULE, "batch_size": 8, "image_size": 16, "dtype": "uint8"}
    with BudgetLoader(beton, views=2, **options) as two, BudgetLoader(beton, **options) as one:
        assert two.batch_size == 8 and len(two) == len(one)
        for ((first, second), labels), (images, others) in zip(two, one, strict=True):
            assert torch.equal(first, images) and torch.equal(labels, others)
            assert (first.int() - second.int()).abs().float().mean() > 5


def test_views_do_not_depend_on_threads_and_a_state_resumes_them(beton):
    whole, _ = made(beton, views=2)
    assert made(beton, views=2, workers=1, prefetch=1)[0] == whole
    taken, state = made(beton, views=2, stop=6)
    assert taken + made(beton, views=2, start=state)[0] == whole


def test_views_are_the_same_on_2_and_4_ranks(beton):
    def all_of(rank, world_size):
        options = {"schedule": SCHEDULE, "batch_size": 8, "image_size": 16, "dtype": "uint8", "views": 2}
        with BudgetLoader(beton, rank=rank, world_size=world_size, **options) as batches:
            return [images.clone() for images, _ in batches]

    alone = all_of(0, 1)
    for ranks in (2, 4):
        parts = [all_of(rank, ranks) for rank in range(ranks)]
        assert all(torch.equal(torch.cat(shares, 1), images) for *shares, images in zip(*parts, alone, strict=True))


def test_each_view_is_augmented_by_a_key_of_its_own(beton):
    def draw(images, targets, keys):
        images[:] = torch.from_numpy(uniform(keys)[:, 0] * 256).to(torch.uint8).view(-1, 1, 1, 1)
        return images, targets

    options = {"schedule": SCHEDULE, "batch_size": 8, "image_size": 16, "dtype": "uint8", "transform": draw}
    with BudgetLoader(beton, views=2, **options) as two, BudgetLoader(beton, **options) as one:
        (first, second), _ = next(iter(two))
        assert torch.equal(first, next(iter(one))[0]) and not torch.equal(first, second)


def test_a_view_that_does_not_decode_is_replaced_with_a_window_of_its_own(beton, tmp_path):
    broken = damage(beton, tmp_path / "broken.beton", samples=tuple(range(0, 70, 7)))
    whole, _ = made(broken, views=2, on_corrupt="replace", engine="native")
    assert not {sample for _, _, ids in whole for sample in ids} & set(range(0, 70, 7))
    assert made(broken, views=2, on_corrupt="replace", engine="native", workers=1)[0] == whole
    labels = Dataset(broken).labels
    assert all(given_ == labels[ids].tolist() for _, given_, ids in whole)


def test_views_that_overlap_are_decoded_once_with_the_pixels_of_each_alone(beton, monkeypatch):
    """For native the pixels are the same bits; how many were cut from what was decoded for another is counted."""
    options = {"schedule": SCHEDULE, "batch_size": 8, "image_size": 24, "dtype": "uint8", "views": 4, "workers": 2}

    def all_of(**more):
        with BudgetLoader(beton, engine="native", with_ids=True, **options, **more) as batches:
            found = [images.clone() for _ in batches.epochs() for images, _, _ in batches]
            assert all(s.samples_decoded == s.samples_emitted for s in batches.stats)
            return found, [stats.samples_shared for stats in batches.stats]

    together, shared = all_of()
    assert all(shared) and sum(shared) > 0.2 * 4 * 103
    monkeypatch.setattr(rows, "unite", lambda *_: None)
    alone, none = all_of()
    assert none == [0, 0] and all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))
    one_by_one, none = all_of(decode_scaling=True)  # which may decode each window smaller in a way of its own
    assert none == [0, 0] and len(one_by_one) == len(alone)


def test_windows_are_united_where_that_is_less_to_decode():
    windows = np.array([[0, 0, 100, 100], [0, 10, 100, 100], [300, 300, 40, 40], [0, 0, 100, 100], [301, 300, 40, 40]])
    samples, which = np.array([7, 7, 7, 8, 7]), np.arange(5)
    shown, leaders = windows.copy(), np.arange(5)
    rows.unite(which, samples, shown, leaders)
    assert leaders.tolist() == [0, 0, 2, 3, 2]
    assert shown[0].tolist() == [0, 0, 100, 110] and shown[2].tolist() == [300, 300, 41, 40]
    assert shown[3].tolist() == windows[3].tolist()


@pytest.mark.parametrize(("crops", "count"), [("five", 5), ("ten", 10), ((0.875, 1.0), 2), (0.875, None)])
def test_an_evaluation_has_several_crops_of_each_sample(beton, crops, count):
    options = {"train": False, "batch_size": 32, "image_size": 24, "dtype": "uint8", "with_ids": True}
    with BudgetLoader(beton, crops=crops, **options) as batches, BudgetLoader(beton, **options) as plain:
        for (images, labels, ids), (centre, others, numbers) in zip(batches, plain, strict=True):
            assert torch.equal(labels, others) and torch.equal(ids, numbers)
            if count is None:
                assert torch.equal(images, centre)
                continue
            assert images.shape == (count, len(ids), 3, 24, 24)
            assert torch.equal(images[4 if crops in ("five", "ten") else 0], centre)
            if crops == "ten":  # a mirrored window is resampled like the other, but for the last bit
                assert (images[5:].int() - images[:5].flip(4).int()).abs().max() <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": 0}, "views 0"),
        ({"views": 1000}, "more than 256"),
        ({"crops": "five"}, "are of an evaluation"),
        ({"train": False, "schedule": None, "views": 2}, "for an evaluation give crops='five'"),
        ({"train": False, "schedule": None, "crops": "six"}, "crops 'six' is not known"),
        ({"train": False, "schedule": None, "crops": (0.5, 1.5)}, "crops 1.5 is no share"),
        ({"train": False, "schedule": None, "crops": ()}, "from 1 to 256 shares"),
        ({"train": False, "schedule": None, "crops": True}, "crops True is no share"),
    ],
)
def test_what_cannot_be_shown_is_refused(beton, options, message):
    with pytest.raises(ArgumentError, match=message):
        BudgetLoader(beton, **{"schedule": SCHEDULE, "batch_size": 8, "image_size": 16, **options})


def test_crops_of_images_that_are_shown_whole_are_refused(small_beton):
    with pytest.raises(ArgumentError, match="give crop='resized'"):
        BudgetLoader(small_beton, train=False, batch_size=8, image_size=16, crops="five")


def test_a_transform_that_mixes_views_labels_is_refused(beton):
    mix = PerGroup(v2.MixUp(num_classes=14))
    options = {"schedule": SCHEDULE, "batch_size": 8, "image_size": 16, "views": 2, "transform": mix}
    with BudgetLoader(beton, **options) as batches, pytest.raises(ArgumentError, match="different targets"):
        next(iter(batches))
