"""What version 0.1 gave, recorded then: plans, streams, pixels, a state and a file. None of it may change.

One thing did: with sampling="static", what stands in for a sample that does not decode is drawn from the static draw,
and no longer from the whole set.
"""

import hashlib
import json
import lzma
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from budgetloader import BudgetLoader, Dataset, Schedule, engines
from budgetloader.plans import EvaluationPlanner, Planner, stream
from budgetloader.selections import Wanted
from budgetloader.shard import Shard

FOLDER = Path(__file__).parent / "recorded"
RECORDED = json.loads((FOLDER / "v0_1.json").read_text())
R3 = Schedule.paper("R3", epochs=6)
ENGINES = [
    pytest.param(name, marks=pytest.mark.skipif(not engines.installed(name), reason=f"{name} is not installed"))
    for name in engines.NAMES
    if name != "auto"
]


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """A file of 24 images of 40 × 40 that version 0.1 wrote."""
    path = tmp_path_factory.mktemp("recorded") / "v0_1.beton"
    path.write_bytes(lzma.decompress((FOLDER / "v0_1.beton.xz").read_bytes()))
    return path


class Index(SimpleNamespace):
    def __len__(self):
        return len(self.labels)


@pytest.fixture(scope="module")
def index():
    random, count = np.random.default_rng(0), 997
    heights, widths, labels = (random.integers(low, high, count) for low, high in ((50, 500), (50, 500), (0, 10)))
    return Index(heights=heights, widths=widths, labels=labels)


def update(state, *arrays):
    for array in arrays:
        state.update(np.ascontiguousarray(array, np.int64).tobytes())


def rows(plan):
    return np.column_stack((plan.samples, plan.windows, plan.flips))


@pytest.mark.parametrize("name", RECORDED["plans"])
def test_plans_are_those_of_version_0_1(index, name):
    sampling, crop, *world = name.split()
    state = hashlib.sha256()
    if sampling == "evaluation":
        for plan in stream(EvaluationPlanner(index, batch_size=16, crop=crop), epoch=0, step=0):
            update(state, plan.positions, rows(plan), plan.labels)
    else:
        for rank in range(int(world[0])):
            options = {"wanted": Wanted(sampling), "crop": crop, "shard": Shard(rank, int(world[0]))}
            planner = Planner(index, schedule=R3, batch_size=16, seed=2**63 + 5, **options)
            for plan in stream(planner, epoch=0, step=0):
                update(state, plan.positions, rows(plan), plan.labels)
            update(state, rows(planner.replacement(planner.plan(1, 3), 2, attempt=4)))
    assert state.hexdigest()[:32] == RECORDED["plans"][name]


def whole(path, **options):
    """Hashes of a whole schedule: of ids and labels, and of pixels."""
    ids_and_labels, pixels = hashlib.sha256(), hashlib.sha256()
    options = {"schedule": R3, "batch_size": 5, "workers": 2, "dtype": "uint8", "seed": 9, **options}
    with BudgetLoader(path, with_ids=True, **options) as batches:
        for _ in batches.epochs():
            for images, labels, ids in batches:
                update(ids_and_labels, ids.numpy(), labels.numpy())
                pixels.update(np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy()).tobytes())
    return ids_and_labels.hexdigest()[:32], pixels.hexdigest()[:32]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_stream_of_every_engine_is_that_of_version_0_1(old, engine):
    assert whole(old, engine=engine, crop="resized", image_size=24)[0] == RECORDED["streams"]["independent"]


@pytest.mark.parametrize("name", RECORDED["pixels"])
def test_pixels_are_those_of_version_0_1(old, name):
    """Of the engines that compute them in whole numbers; what others may differ by is in test_engines.py."""
    engine, crop, sampling = name.split()
    size = {"resized": 24, "pad": 40}[crop]
    stream, pixels = whole(old, engine=engine, crop=crop, image_size=size, sampling=sampling)
    assert (stream, pixels) == (RECORDED["streams"][sampling], RECORDED["pixels"][name])


def test_a_file_of_version_0_1_opens_as_it_was(old):
    dataset = Dataset(old)
    assert dataset.fingerprint == RECORDED["state"]["dataset"] and dataset.checksums is None
    assert len(dataset) == 24 and dataset.label_field == "label" and len(dataset.classes) > 1


def test_a_state_of_version_0_1_resumes_where_it_was_taken(old):
    options = {"schedule": R3, "batch_size": 5, "image_size": 40, "seed": 9, "with_ids": True}
    with BudgetLoader(old, **options) as batches:
        expected = [ids.tolist() for epoch in batches.epochs() for _, _, ids in batches if epoch >= 2]
    with BudgetLoader(old, **options) as batches:
        batches.load_state_dict(RECORDED["state"])
        assert (batches.epoch, batches.step) == (2, 2)
        assert [ids.tolist() for _ in batches.epochs() for _, _, ids in batches] == expected[2:]
        assert batches.state_dict() == {**RECORDED["state"], "epoch": 6, "step": 0}
