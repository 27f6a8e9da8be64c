"""Keys, what is drawn from them, and the adapters of image transforms: the pure part of augmentation."""

import random
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import v2

from budgetloader import ArgumentError, ArgumentTypeError, transforms
from budgetloader.transforms import Chain, PerBatch, PerGroup, PerSample, as_transform, rows
from budgetloader.transforms.draws import Draws

keys_of = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=8).map(lambda keys: np.array(keys, np.uint64))


def images(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 8, 8, 3), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)


@given(keys=keys_of, draws=st.integers(1, 9))
def test_a_samples_numbers_do_not_depend_on_the_samples_beside_it(keys, draws):
    drawn = transforms.uniform(keys, draws)
    assert drawn.shape == (len(keys), draws) and (drawn >= 0).all() and (drawn < 1).all()
    for row, key in zip(drawn, keys, strict=True):
        np.testing.assert_array_equal(row, transforms.uniform(np.array([key]), draws)[0])
    np.testing.assert_array_equal(transforms.uniform(keys, draws + 4)[:, :draws], drawn)


@given(keys=keys_of)
def test_derived_keys_are_others(keys):
    first, second = transforms.derived(keys, 1), transforms.derived(keys, 2)
    assert not (first == keys).any() and not (first == second).any() and first.dtype == np.uint64


@given(seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 2**32 - 1), position=st.integers(0, 2**60))
def test_keys_are_a_function_of_seed_epoch_position_and_view(seed, epoch, position):
    positions = np.array([position, position + 1])
    keys = transforms.sample_keys(positions, seed=seed, epoch=epoch)
    assert keys[0] == transforms.sample_keys(positions[:1], seed=seed, epoch=epoch)[0] != keys[1]
    assert keys[0] != transforms.sample_keys(positions, seed=seed, epoch=epoch, view=1)[0]


def test_numbers_are_uniform():
    drawn = transforms.uniform(transforms.sample_keys(np.arange(20_000), seed=3, epoch=7), 2)
    counts = np.histogram(drawn[:, 1], bins=20, range=(0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 43.8  # chi-square of 19 degrees, 0.1 %
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.03


RANDOM = {
    "rand": lambda x: torch.rand(3),
    "randint": lambda x: torch.randint(9, (4,)),
    "randperm": lambda x: torch.randperm(9),
    "rand_like": lambda x: torch.rand_like(x),
    "normal": lambda x: torch.normal(x, x),
    "multinomial": lambda x: torch.multinomial(x, 9, replacement=True),
    "uniform_": lambda x: torch.empty(3).uniform_(0, 1),
    "bernoulli_": lambda x: torch.empty(30).bernoulli_(0.5),
    "beta": lambda x: torch.distributions.Beta(x, x).sample(),
    "gamma": lambda x: torch.distributions.Gamma(x, x).sample(),
    "uniform": lambda x: torch.distributions.Uniform(x, 2 * x).rsample(),
}


@pytest.mark.parametrize("name", RANDOM)
def test_torchs_random_functions_draw_from_the_key_and_leave_the_process_alone(name):
    weights, state = torch.ones(2, 3), torch.get_rng_state()
    with Draws() as draws:
        draws.seed(2**64 - 1)
        first, second = RANDOM[name](weights), RANDOM[name](weights)
        draws.seed(2**64 - 1)
        again = RANDOM[name](weights)
        draws.seed(6)
        other = RANDOM[name](weights)
    assert torch.equal(first, again) and not torch.equal(first, second) and not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


def test_another_thread_draws_as_before():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    found = []
    with Draws() as draws:
        draws.seed(5)
        thread = threading.Thread(target=lambda: found.append(torch.rand(3)))
        thread.start()
        thread.join()
    assert torch.equal(found[0], expected)


AUGMENTATIONS = {
    "RandAugment": v2.RandAugment(),
    "TrivialAugmentWide": v2.TrivialAugmentWide(),
    "AugMix": v2.AugMix(),
    "ColorJitter": v2.ColorJitter(0.4, 0.4, 0.4, 0.1),
    "RandomErasing": v2.RandomErasing(p=0.5, value=7),
    "Compose": v2.Compose([v2.RandomApply([v2.GaussianBlur(3)], p=0.5), v2.RandomGrayscale(0.5), v2.RandomRotation(9)]),
}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_torchvisions_transforms_are_called_unchanged_and_by_key(name):
    transform = as_transform(AUGMENTATIONS[name])
    assert isinstance(transform, PerSample) and transform.rows == 1 and transform.on == "host"
    keys = transforms.sample_keys(np.arange(12), seed=1, epoch=0)
    whole, targets = transform(images(12), torch.arange(12), keys)
    assert targets.tolist() == list(range(12)) and not torch.equal(whole, images(12))
    parts = [transform(images(12)[s], None, keys[s])[0] for s in (slice(0, 5), slice(5, 6), slice(6, 12))]
    assert torch.equal(torch.cat(parts), whole)


def test_a_class_that_is_made_of_torchvisions_is_one_of_them():
    class Mine(v2.RandomErasing):
        pass

    assert isinstance(as_transform(Mine(p=1)), PerSample)


@pytest.mark.parametrize("name", ["ColorJiggle", "RandomAffine", "RandomErasing"])
def test_kornias_transforms_are_called_unchanged_and_by_key(name):
    augmentation = pytest.importorskip("kornia").augmentation
    options = {"ColorJiggle": (0.4, 0.4), "RandomAffine": (20.0,), "RandomErasing": ()}
    transform = as_transform(getattr(augmentation, name)(*options[name], p=1.0))
    keys = transforms.sample_keys(np.arange(6), seed=1, epoch=0)
    whole, _ = transform(images(6), None, keys)
    assert whole.dtype == torch.uint8 and not torch.equal(whole, images(6))
    assert torch.equal(
        torch.cat([transform(images(6)[s], None, keys[s])[0] for s in (slice(0, 2), slice(2, 6))]), whole
    )


@pytest.mark.parametrize("mix", [v2.MixUp(num_classes=4), v2.CutMix(num_classes=4)])
def test_groups_are_mixed_among_themselves_with_soft_labels(mix):
    transform = PerGroup(mix)
    keys, labels = transforms.sample_keys(np.arange(8), seed=1, epoch=0), torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    mixed, soft = transform(images(8), labels, keys)
    assert mixed.dtype == torch.uint8 and soft.shape == (8, 4)
    torch.testing.assert_close(soft.sum(1), torch.ones(8))
    pairs = labels.view(4, 2)
    for pair, given_ in zip(pairs, soft.view(4, 2, 4), strict=True):
        assert all(set(row.nonzero().flatten().tolist()) <= set(pair.tolist()) for row in given_)
    halves = [transform(images(8)[s], labels[s], keys[s]) for s in (slice(0, 4), slice(4, 8))]
    assert torch.equal(torch.cat([h[0] for h in halves]), mixed) and torch.equal(
        torch.cat([h[1] for h in halves]), soft
    )


def test_a_last_sample_without_a_partner_stays_as_it_is():
    mixed, soft = PerGroup(v2.MixUp(num_classes=4))(images(1), torch.tensor([2]), np.array([7], np.uint64))
    assert (mixed.int() - images(1).int()).abs().max() <= 1
    torch.testing.assert_close(soft, torch.tensor([[0.0, 0, 1, 0]]))


def test_a_batch_transform_is_called_once_with_floats():
    seen = []

    def flip_some(batch):
        seen.append((batch.dtype, batch.max().item() <= 1))
        return torch.where(torch.rand(len(batch), 1, 1, 1) < 0.5, batch.flip(3), batch)

    keys = transforms.sample_keys(np.arange(16), seed=1, epoch=0)
    first, _ = PerBatch(flip_some)(images(16), None, keys)
    again, _ = PerBatch(flip_some)(images(16), None, keys)
    other, _ = PerBatch(flip_some)(images(16), None, keys[::-1])
    assert seen[0] == (torch.float32, True) and torch.equal(first, again) and not torch.equal(first, other)
    assert all(torch.equal(a, b) or torch.equal(a, b.flip(2)) for a, b in zip(first, images(16), strict=True))


def test_images_and_targets_may_be_transformed_together():
    def shifted(image, boxes):
        by = int(torch.randint(1, 4, ()))
        return image.roll(by, 2), boxes + by

    boxes = [torch.zeros(k, 4) for k in (1, 3, 2)]
    moved, changed = PerSample(shifted, with_targets=True)(images(3), boxes, np.arange(3, dtype=np.uint64))
    assert [len(b) for b in changed] == [1, 3, 2]
    for image, before, after in zip(images(3), moved, changed, strict=True):
        assert torch.equal(before, image.roll(int(after[0, 0]), 2))


def test_a_chain_gives_each_transform_keys_of_its_own():
    seen = []

    def watch(pictures, targets, keys):
        seen.append(keys.copy())
        return pictures, targets

    keys = np.arange(4, dtype=np.uint64)
    as_transform([watch, watch, watch])(images(4), None, keys)
    assert np.array_equal(seen[0], keys) and len({tuple(k) for k in seen}) == 3
    assert Chain([PerSample(v2.RandAugment()), PerGroup(v2.CutMix(num_classes=4), samples=6)]).rows == 6
    assert Chain([PerSample(v2.RandAugment()), PerBatch(lambda x: x)]).rows is None
    assert repr(as_transform([v2.RandAugment(), PerGroup(v2.MixUp(num_classes=4))])) == "RandAugment + MixUp"


@pytest.mark.parametrize(
    ("given_", "error", "message"),
    [
        (3, ArgumentTypeError, "transform 3 cannot be called"),
        ([], ArgumentError, "holds no transform"),
        (v2.MixUp(num_classes=4), ArgumentError, r"for pairs give transforms.PerGroup\(MixUp"),
        ([PerSample(v2.RandAugment()), PerBatch(v2.RandAugment(), on="device")], ArgumentError, "same on="),
    ],
)
def test_what_cannot_be_a_transform_is_refused(given_, error, message):
    with pytest.raises(error, match=message):
        as_transform(given_)


@pytest.mark.parametrize("options", [{"dtype": "int8"}, {"on": "gpu"}])
def test_options_that_adapters_do_not_have_are_refused(options):
    with pytest.raises(ArgumentError, match=next(iter(options.values()))):
        PerSample(v2.RandAugment(), **options)
    with pytest.raises(ArgumentError, match="samples 0"):
        PerGroup(v2.RandAugment(), samples=0)

    class Wrong:
        rows = -1

        def __call__(self, pictures, targets, keys):
            return pictures, targets

    with pytest.raises(ArgumentError, match="rows = -1"):
        as_transform(Wrong())


def leaves(count):
    arrays = st.just(torch.arange(count)) | st.just(np.arange(count)) | st.just([f"{i}" for i in range(count)])

    def around(inner):
        return st.tuples(inner, inner) | st.dictionaries(st.text(max_size=2), inner, min_size=1)

    return st.recursive(arrays, around, max_leaves=4)


@given(data=st.data(), count=st.integers(1, 9))
def test_targets_come_together_again_from_their_parts_and_samples(data, count):
    targets = data.draw(leaves(count))
    cut = data.draw(st.integers(0, count))
    assert rows.count(targets) == count and rows.equal(rows.copied(targets), targets)
    parts = [rows.part(targets, part) for part in (slice(0, cut), slice(cut, count))]
    assert rows.equal(rows.joined(parts), targets)
    stacked = rows.stacked([rows.single(targets, row) for row in range(count)])
    assert rows.count(stacked) == count


def test_python_and_numpy_are_left_to_themselves():
    """PerSample does not seed them: a batch that is made twice shows it, see test_stage."""
    state = random.getstate(), np.random.get_state()[1].tolist()
    PerSample(v2.RandAugment())(images(2), None, np.arange(2, dtype=np.uint64))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == state
