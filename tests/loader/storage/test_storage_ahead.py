"""What runs ahead of the engine, and what the loader says of the store."""

import threading

import numpy as np
import pytest
from stores import nothing_is_held

from budgetloader import BudgetLoader, Dataset, Schedule
from budgetloader.bench.stores import Trouble
from budgetloader.plans import Planner, stream
from budgetloader.storage.ahead import Ahead, fetched
from budgetloader.storage.dataset import RemoteDataset

FULL = Schedule.full(epochs=2)


@pytest.fixture
def far(proxy):
    return RemoteDataset(f"{proxy.url}/train.beton")


def plans_of(dataset):
    return stream(Planner(dataset, schedule=FULL, batch_size=8, seed=0), epoch=0, step=0)


def test_plans_come_in_their_order_when_their_samples_are_there(far, beton):
    local = Dataset(beton)
    expected = [plan.samples.tolist() for plan in plans_of(local)]
    found = []
    for plan in Ahead(far, plans_of(far), capacity=2):
        for sample in plan.samples.tolist():
            assert far._source.ledger.usable(sample) and np.array_equal(far.jpeg(sample), local.jpeg(sample))
        found.append(plan.samples.tolist())
    assert found == expected


def test_as_much_is_fetched_ahead_as_was_asked_for_and_no_more(far):
    ahead = Ahead(far, plans_of(far), capacity=1, ahead_bytes=1)
    first = next(ahead)
    coming = next(iter(ahead._coming)).plan
    assert {int(s) for s in np.flatnonzero(far._ledger._pins)} == {*first.samples.tolist(), *coming.samples.tolist()}
    del ahead  # as when an iteration is left: nothing stays pinned, and what has not begun is not fetched
    assert nothing_is_held(far)


def test_local_datasets_and_engines_that_read_nothing_are_left_alone(far, beton):
    class Resident:
        reads_samples, capacity = False, 2

    class Native:
        capacity = 2

    plans = iter(())
    assert fetched(Dataset(beton), plans, None, Native()) is plans
    assert fetched(far, plans, None, Resident()) is plans


def test_the_trainer_is_given_what_is_ready_while_later_batches_are_still_fetched(far, proxy):
    """A batch that is under way is not held up by the plan behind it, whose samples are late."""
    with BudgetLoader(far, schedule=FULL, batch_size=8, image_size=16, prefetch=2, workers=1) as batches:
        held = threading.Event()
        iterator = iter(batches)
        next(iterator)
        wanted = {int(s) for coming in batches._feed._plans._coming for s in coming.plan.samples}
        assert wanted, "plans are ahead of the engine"
        proxy.trouble = Trouble(lambda number: held.wait(20) and None)
        next(iterator)
        held.set()
        assert len(list(iterator)) == 7


@pytest.mark.slow
def test_stats_and_verdict_tell_what_the_store_did(far, proxy):
    with BudgetLoader(far, schedule=FULL, batch_size=8, image_size=16, prefetch=1, workers=1) as batches:
        proxy.trouble = Trouble(latency_seconds=0.5)  # longer than planning takes, on a busy machine, too
        list(batches)
        (first,) = batches.stats
        assert first.cache_hits + first.cache_misses >= 70 and first.store_bytes > 0 and first.store_requests > 0
        assert 0 < first.store_wait_seconds <= first.trainer_wait_seconds
        verdict = batches.verdict()
        assert verdict.bound == "loader-bound" and verdict.store > 0.05
        assert "waits for object storage" in str(verdict)
        assert "latency" in str(far.traffic) and far.traffic.latency_seconds[0] > 0


def test_local_files_have_no_traffic(beton):
    with BudgetLoader([beton], schedule=FULL, batch_size=8, image_size=16) as batches:
        list(batches)
        assert batches.dataset.traffic is None and batches.stats[0].store_requests == 0


def test_what_was_planned_ahead_of_a_selection_is_dropped(far, beton):
    """The next epoch was planned, and is being fetched, when the trainer says what it draws."""

    def ids_of(dataset):
        shape = {"schedule": Schedule.full(epochs=4), "batch_size": 8, "image_size": 16, "workers": 2}
        with BudgetLoader(dataset, **shape, with_ids=True) as batches:
            found = []
            for epoch in batches.epochs():
                for place, (_, _, ids) in enumerate(batches):
                    found.append((epoch, ids.tolist()))
                    if place == 1 and epoch < 3:
                        batches.select(epoch + 1, ids=np.arange(epoch, 70, 3))
            return found

    assert ids_of(far) == ids_of(beton)
    assert nothing_is_held(far)
