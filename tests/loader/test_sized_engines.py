"""Image size by epoch, over every engine: each epoch's images are those of a loader of that one size."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import damage
from test_engines import ENGINES, create, planner, produce

from budgetloader import BudgetLoader, Dataset, EngineError, Schedule, SizeSchedule
from budgetloader.engines import Batch, DirectEngine
from budgetloader.engines.base import Job, Output
from budgetloader.engines.buffers import BufferPool
from budgetloader.plans import stream
from budgetloader.targets import Rows

SCHEDULE = Schedule.of(["0.5", 1, "0.3", "0.5"])
SIZES = "24@1,32@2,16"
SIZES_OF = (24, 32, 32, 16)
by_name = pytest.mark.parametrize("engine", ENGINES)


@pytest.fixture
def open_loader(engine, beton, small_beton):
    opened = []

    def open_loader(**options):
        path = small_beton if engine == "resident" else beton
        options = {"schedule": SCHEDULE, "batch_size": 8, "image_size": SIZES, "dtype": "uint8", **options}
        options = {"engine": engine, "workers": 2, "crop": "resized", "with_ids": True, **options}
        opened.append(BudgetLoader(path, **options))
        return opened[-1]

    yield open_loader
    for loader in opened:
        loader.close()


def left(loader):
    """(images, labels, ids) of all that is left, by epoch."""
    return {epoch: [tuple(map(torch.clone, batch)) for batch in loader] for epoch in loader.epochs()}


def same(ours, reference):
    return len(ours) == len(reference) and all(
        torch.equal(a, b) for x, y in zip(ours, reference, strict=True) for a, b in zip(x, y, strict=True)
    )


@by_name
def test_each_epoch_is_that_of_a_loader_of_its_size(open_loader, engine):
    sized = open_loader()
    assert str(sized.image_sizes) == "24@1,32@2,16@1" and "image_size 24@1,32@2,16@1" in repr(sized)
    ours = left(sized)
    assert [len(ours[epoch]) for epoch in range(4)] == list(SCHEDULE.budget(70, batch_size=8).batches)
    assert [s.image_size for s in sized.stats] == [24, 32, 32, 16]
    assert [s.samples_decoded for s in sized.stats] == [s.samples_emitted for s in sized.stats]
    for size, epochs in ((24, [0]), (32, [1, 2]), (16, [3])):
        plain = open_loader(image_size=size)
        for epoch in epochs:
            plain.set_epoch(epoch)
            batches = [tuple(map(torch.clone, batch)) for batch in plain]
            assert batches[0][0].shape == (8, 3, size, size)
            assert same(ours[epoch], batches)


@by_name
def test_a_state_resumes_on_both_sides_of_a_change(open_loader, engine):
    whole = left(open_loader(seed=3))
    last = len(whole[0]) - 1
    for epoch, step in ((0, last), (0, last + 1), (1, 0), (2, 1)):
        loader = open_loader(seed=3)
        for place in loader.epochs():
            for number, _ in enumerate(loader, start=1):
                if (place, number) == (epoch, step):
                    break
            if place == epoch:
                break
        state = loader.state_dict()
        if (epoch, step) == (1, 0):
            state = {**state, "epoch": 1, "step": 0}
        resumed = open_loader(seed=3)
        resumed.load_state_dict(state)
        rest = left(resumed)
        expected = {e: batches[step if e == epoch else 0 :] for e, batches in whole.items() if e >= epoch}
        assert all(same(rest[e], batches) for e, batches in expected.items() if batches)


@by_name
def test_an_engine_has_batches_of_two_sizes_under_way(engine, beton, small_beton):
    """Nothing is drained where the size changes: plans of both sizes are submitted before the first is taken."""
    data = Dataset(small_beton if engine == "resident" else beton)
    plans = list(itertools.islice(stream(planner(data), epoch=0, step=0), 6))
    changing = list(SizeSchedule.of([16, 48]).sized(replace(plan, epoch=i % 2) for i, plan in enumerate(plans)))
    made = []
    for size, todo in ((48, changing), (16, changing[::2]), (48, changing[1::2])):
        worker = create(engine, data, capacity=6, image_size=size, dtype="uint8")
        made.append(produce(worker, todo))
        worker.close()
    together, small, large = made
    assert [b.images.shape[-1] for b in together] == [16, 48] * 3
    for ours, alone in ((together[::2], small), (together[1::2], large)):
        assert all(torch.equal(a.images, b.images) for a, b in zip(ours, alone, strict=True))


@by_name
@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_each_batch_at_its_size(open_loader, engine, world_size):
    whole = open_loader()
    ranks = [open_loader(rank=rank, world_size=world_size) for rank in range(world_size)]
    for epoch in whole.epochs():
        parts = [list(loader) for loader in ranks]
        for step, (images, _, ids) in enumerate(whole):
            shares = [part[step] for part in parts]
            shown = np.concatenate([share[2].numpy() for share in shares])
            assert set(shown.tolist()) == set(ids.tolist())  # a short batch is filled up among ranks
            assert all(share[0].shape[-1] == images.shape[-1] == SIZES_OF[epoch] for share in shares)


@pytest.mark.parametrize("engine", ["native"])
def test_stand_ins_have_their_batchs_size(engine, beton, tmp_path):
    broken = damage(beton, tmp_path / "broken.beton", samples=tuple(range(0, 70, 3)))
    options = {"schedule": SCHEDULE, "batch_size": 8, "image_size": SIZES, "dtype": "uint8", "on_corrupt": "replace"}
    with BudgetLoader(broken, engine=engine, workers=2, **options) as loader:
        for epoch in loader.epochs():
            assert all(images.shape[-1] == SIZES_OF[epoch] for images, _ in loader)
        assert sum(s.samples_replaced for s in loader.stats) > 0


def test_an_engine_that_ignores_the_plans_size_is_an_error(beton):
    class Fixed(DirectEngine):
        def __init__(self, job):
            super().__init__(capacity=job.capacity)
            self.size = job.output.image_size
            assert job.sizes == (16, 24, 32)

        def make(self, plan):
            images = torch.zeros(len(plan), 3, self.size, self.size)
            return Batch(images, torch.from_numpy(plan.labels), plan)

    options = {"schedule": SCHEDULE, "batch_size": 8, "image_size": SIZES}
    why = "made images of 32 pixels in epoch 0, and the plan says 24"
    with BudgetLoader(beton, engine=Fixed, **options) as batches, pytest.raises(EngineError, match=why):
        next(iter(batches))


def test_evaluation_has_one_size(beton):
    with BudgetLoader(beton, train=False, batch_size=70, image_size="40", dtype="uint8") as batches:
        assert next(iter(batches))[0].shape == (70, 3, 40, 40)


def test_memory_of_a_size_that_is_over_is_given_back():
    pool = BufferPool(Output(image_size=32), 4)
    first = pool.take(4, 16)
    address = first.ctypes.data
    del first
    again = pool.take(4, 16)
    assert again.ctypes.data == address  # taken again
    other = pool.take(2)
    assert other.shape == (2, 32, 32, 3)
    del again
    assert not pool.spare  # and not kept for a size that nobody asks for
    del other
    assert pool.spare == 1


def test_targets_follow_the_size_of_their_plan(beton):
    data = Dataset(beton)
    job = Job(data, Output(image_size=32), 8, 1, 1, "raise", planner(data).replacement)
    plan = next(stream(planner(data), epoch=0, step=0))
    assert Rows(job, plan).image_size == 32
    assert Rows(job, replace(plan, image_size=24)).image_size == 24
