"""Augmentation through the whole loader: the same on every engine, any threads and ranks, after a resume and a kill."""

import hashlib
import json
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from test_engines import ENGINES
from torchvision.transforms import v2

from budgetloader import ArgumentError, BudgetLoader, Schedule
from budgetloader.transforms import PerGroup, uniform

SCHEDULE = Schedule.of(["0.5", 1, "0.25"])


def recipe():
    """Of samples, and of pairs of them."""
    mix = v2.RandomChoice([v2.MixUp(num_classes=14), v2.CutMix(num_classes=14)])
    return [v2.RandAugment(), v2.RandomErasing(p=0.25), PerGroup(mix)]


def made(path, *, start=None, stop=None, **options):
    """(hash of images and targets, ids) of every batch, and the state after `stop` of them."""
    options = {"schedule": SCHEDULE, "batch_size": 8, "image_size": 16, "workers": 2, "engine": "native", **options}
    options = {"transform": recipe(), "dtype": "uint8", "with_ids": True, **options}
    found = []
    with BudgetLoader(path, **options) as batches:
        if start is not None:
            batches.load_state_dict(start)
        for _ in batches.epochs():
            for images, targets, ids in batches:
                found.append((hashed(images, targets), ids.tolist()))
                if len(found) == stop:
                    return found, json.loads(json.dumps(batches.state_dict()))
        assert all(stats.samples_decoded == stats.samples_emitted for stats in batches.stats)
    return found, None


def hashed(images, targets):
    values = (images.permute(0, 2, 3, 1).contiguous().numpy(), targets.contiguous().numpy())
    return hashlib.sha256(b"".join(value.tobytes() for value in values)).hexdigest()[:16]


@pytest.fixture(scope="module")
def whole(beton):
    return made(beton)[0]


@pytest.mark.parametrize("options", [{"workers": 1, "prefetch": 1}, {"workers": 4, "prefetch": 5}, {"dtype": "uint8"}])
def test_augmentation_does_not_depend_on_threads_or_prefetch(beton, whole, options):
    assert made(beton, **options)[0] == whole


def test_a_state_resumes_augmentation_in_mid_epoch(beton, whole):
    taken, state = made(beton, stop=6)
    assert taken + made(beton, start=state)[0] == whole


def rows(path, rank, world_size, **options):
    """(epoch, step, row of the batch) → bytes of the image and its soft label, of one rank."""
    found = {}
    options = {"batch_size": 8, "image_size": 16, "workers": 2, "dtype": "uint8", "transform": recipe(), **options}
    with BudgetLoader(path, schedule=SCHEDULE, rank=rank, world_size=world_size, **options) as batches:
        for epoch in batches.epochs():
            for step, (images, targets) in enumerate(batches):
                share = len(images)
                for row in range(share):
                    found[epoch, step, rank * share + row] = images[row].contiguous(), targets[row]
    return found


def test_augmentation_is_the_same_on_1_2_and_4_ranks(beton):
    """Pairs too: a rank's share of 2 or 4 is whole pairs."""
    alone = rows(beton, 0, 1)
    for ranks in (2, 4):
        shared = {}
        for rank in range(ranks):
            shared |= rows(beton, rank, ranks)
        full = [place for place in shared if place[:2] not in {(1, 8)}]  # the short last batch of a full epoch
        assert len(full) == 64 + 32 + 16
        assert all(torch.equal(a, b) for place in full for a, b in zip(alone[place], shared[place], strict=True))


def test_targets_are_looked_up_before_the_transform_sees_them(beton):
    """By the samples that are shown; the transform may make them anything."""
    numbers = np.arange(70.0)

    def doubled(images, targets, keys):
        assert targets["number"].dtype == torch.float64 and len(targets["name"]) == len(images)
        return images, {**targets, "number": targets["number"] * 2}

    targets = {"number": numbers, "name": lambda ids: [f"sample {i}" for i in ids]}
    options = {"schedule": SCHEDULE, "batch_size": 8, "image_size": 16, "with_ids": True, "targets": targets}
    with BudgetLoader(beton, transform=doubled, **options) as batches:
        for _ in batches.epochs():
            for _, found, ids in batches:
                assert found["number"].tolist() == (2 * numbers[ids]).tolist()
                assert found["name"] == [f"sample {i}" for i in ids]


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_gets_the_same_keys_and_its_own_pixels(beton, small_beton, engine):
    """What a transform draws is the same; what it is drawn on are the engine's pixels."""
    drawn = {}

    def draw(images, targets, keys):
        return images, torch.from_numpy(uniform(keys, 2))

    path = small_beton if engine == "resident" else beton
    for name in (engine, "native"):
        options = {"schedule": SCHEDULE, "batch_size": 8, "image_size": 16, "workers": 2, "engine": name}
        with BudgetLoader(path, transform=draw, **options) as batches:
            drawn[name] = [targets for _ in batches.epochs() for _, targets in batches]
            assert [s.samples_decoded for s in batches.stats] == [s.samples_emitted for s in batches.stats]
    assert all(torch.equal(a, b) for a, b in zip(drawn[engine], drawn["native"], strict=True))


def test_an_epoch_that_is_left_early_is_followed_by_the_next_ones_batches(beton, whole):
    options = {"schedule": SCHEDULE, "batch_size": 8, "image_size": 16, "dtype": "uint8", "with_ids": True}
    with BudgetLoader(beton, transform=recipe(), **options) as batches:
        first = [next(iter(batches)) for _ in range(2)]
        assert hashed(*first[0][:2]) == hashed(*first[1][:2]) == whole[0][0]
        for number, _ in enumerate(batches):
            if number == 2:
                break
        assert [(hashed(images, targets), ids.tolist()) for images, targets, ids in batches] == whole[4:13]


def test_evaluation_is_transformed_too_and_always_alike(beton):
    options = {"train": False, "batch_size": 32, "image_size": 16, "dtype": "uint8", "transform": v2.RandAugment()}
    with BudgetLoader(beton, **options) as batches:
        once, again = ([images.clone() for images, _ in batches] for _ in range(2))
    assert [len(images) for images in once] == [32, 32, 6]
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_a_transform_gets_images_of_each_epochs_size(beton, dtype):
    def inverted(images, targets, keys):
        return 255 - images, targets

    options = {"schedule": SCHEDULE, "batch_size": 8, "image_size": "16@1,24@1,8@1", "dtype": dtype, "mean": (0, 0, 0)}
    with BudgetLoader(beton, transform=inverted, **options) as ours, BudgetLoader(beton, **options) as plain:
        for _ in range(3):
            for (a, _), (b, _) in zip(ours, plain, strict=True):
                largest = 255 / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1) / 255 if dtype == "float32" else 255
                torch.testing.assert_close(a, (largest - b).to(a.dtype), rtol=0, atol=1e-5)


def test_normalisation_comes_behind(beton):
    def black(images, targets, keys):
        return torch.zeros_like(images), targets

    with BudgetLoader(
        beton, schedule=SCHEDULE, batch_size=8, image_size=16, transform=black, mean=(0.5,) * 3
    ) as batches:
        images, _ = next(iter(batches))
    torch.testing.assert_close(images[0, :, 0, 0], torch.tensor([-0.5 / 0.229, -0.5 / 0.224, -0.5 / 0.225]))


def test_the_verdict_says_what_the_transform_costs(beton):
    def costly(images, targets, keys):
        for _ in range(40):
            images = images.float().mul(1.0).to(torch.uint8)
        return images, targets

    options = {"schedule": Schedule.full(epochs=3), "batch_size": 8, "image_size": 64}
    with BudgetLoader(beton, transform=costly, **options) as batches, BudgetLoader(beton, **options) as plain:
        for loader in (batches, plain):
            for _ in loader.epochs():
                for _ in loader:
                    pass
        verdict = batches.verdict()
        assert 0 < verdict.transform_share < 1 and "transform takes" in str(verdict)
        assert all(0 < stats.transform_seconds < stats.engine_busy_seconds for stats in batches.stats)
        assert plain.verdict().transform_share == 0 and "transform" not in str(plain.verdict())


def test_a_transform_that_is_none_is_refused_before_an_engine_is_made(beton):
    with pytest.raises(ArgumentError, match="holds no transform"):
        made(beton, transform=[])


TRAINER = """
import json, sys
sys.path.insert(0, sys.argv[1])
from test_transformed_loader import BudgetLoader, SCHEDULE, hashed, recipe
options = {"schedule": SCHEDULE, "batch_size": 8, "image_size": 16, "workers": 2, "dtype": "uint8"}
with BudgetLoader(sys.argv[2], transform=recipe(), **options) as batches:
    state = json.loads(sys.argv[3])
    if state:
        batches.load_state_dict(state)
    for _ in batches.epochs():
        for images, targets in batches:
            print(json.dumps([hashed(images, targets), batches.state_dict()]), flush=True)
"""


def trained(path, state, *, kill_at=None):
    """Hashes of the batches of a process, which may be killed, and the state after the last one that it printed."""
    folders = (ROOT / "tests" / "loader", ROOT / "tests", ROOT / "src")
    code = f"import sys; sys.path[:0] = {[str(folder) for folder in folders[1:]]}\n{TRAINER}"
    command = [sys.executable, "-c", code, str(folders[0]), str(path), json.dumps(state)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    hashes = []
    for line in process.stdout:
        found, state = json.loads(line)
        hashes.append(found)
        if len(hashes) == kill_at:
            process.send_signal(signal.SIGKILL)
            break
    process.communicate()
    assert process.returncode == (-signal.SIGKILL if kill_at else 0)
    return hashes, state


@pytest.mark.long
def test_a_run_that_is_killed_in_mid_epoch_goes_on_with_the_same_batches(beton, whole):
    first, state = trained(beton, None, kill_at=6)
    rest, _ = trained(beton, state)
    assert first + rest == [found for found, _ in whole]


def test_the_test_of_the_hashes_can_fail(beton, whole):
    other, _ = made(beton, seed=1, stop=3)
    assert all(a[0] != b[0] for a, b in zip(other, whole, strict=False))
    assert np.unique([found for found, _ in whole]).size == len(whole)
