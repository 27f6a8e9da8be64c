import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from budgetloader import BudgetLoader, BudgetSampler, ResumeError, Schedule, ScheduleError

CHANGING = Schedule.of([1, 0.5, 0.25, 1, 0.618])


class Counted(Dataset):
    """Gives each index back, and the worker that decoded it; counts what was decoded in all workers."""

    def __init__(self, samples):
        self.samples = samples
        self.decoded = torch.zeros(1, dtype=torch.int64).share_memory_()

    def __len__(self):
        return self.samples

    def __getitem__(self, index):
        self.decoded += 1
        info = torch.utils.data.get_worker_info()
        return index, info.seed if info else 0


def sampler(samples=70, schedule=CHANGING, batch_size=4, **options):
    return BudgetSampler(samples, schedule=schedule, batch_size=batch_size, **options)


def workers(dataset, batches, **options):
    return DataLoader(dataset, batch_sampler=batches, num_workers=2, persistent_workers=True, **options)


def test_decoded_is_emitted_in_every_epoch_and_no_worker_restarts():
    dataset, mine = Counted(70), sampler()
    batches = workers(dataset, mine)
    seeds, before = set(), 0
    for epoch in range(CHANGING.epochs):
        assert len(batches) == mine.budget.batches[epoch]
        taken = [(len(ids), set(seed.tolist())) for ids, seed in batches]
        emitted = sum(n for n, _ in taken)
        assert len(taken) == mine.budget.batches[epoch] and emitted == mine.budget.epoch_samples(epoch)
        assert int(dataset.decoded) - before == emitted
        before += emitted
        seeds |= set().union(*(s for _, s in taken))
    assert len(seeds) == 2, "a worker was started anew"
    assert len(batches) == 0


def test_samples_and_order_are_the_budget_loaders(beton):
    with BudgetLoader(
        beton, schedule=CHANGING, batch_size=4, image_size=16, seed=5, with_ids=True, sampling="cyclic"
    ) as batches:
        theirs = [[ids.tolist() for _, _, ids in batches] for _ in range(CHANGING.epochs)]
    mine = sampler(seed=5, sampling="cyclic")
    assert [list(mine) for _ in range(CHANGING.epochs)] == theirs


@given(st.integers(0, 4), st.integers(1, 17))
def test_a_resumed_sampler_gives_the_rest(epoch, step):
    whole = sampler()
    step = min(step, whole.budget.batches[epoch])
    expected = [list(whole) for _ in range(CHANGING.epochs)]
    first = sampler()
    first.set_epoch(epoch)
    next(iter(first))
    state = json.loads(json.dumps(first.state_dict(step=step)))
    second = sampler()
    second.load_state_dict(state)
    rest = [list(second) for _ in range(second.epoch, CHANGING.epochs)]
    done = [b for e in expected[:epoch] for b in e] + expected[epoch][:step]
    assert done + [b for e in rest for b in e] == [b for e in expected for b in e]


def test_resume_is_exact_in_mid_epoch_though_workers_run_ahead():
    batches = workers(Counted(70), sampler())
    whole = [ids.tolist() for _ in range(CHANGING.epochs) for ids, _ in batches]
    first = sampler()
    seen = []
    batches = workers(Counted(70), first, prefetch_factor=4)
    for _ in range(2):
        for ids, _ in first.over(batches):
            seen.append(ids.tolist())
            if len(seen) == 18 + 5:
                break
    state = first.state_dict()
    assert (state["epoch"], state["step"]) == (1, 5)
    second = sampler()
    second.load_state_dict(state)
    batches = workers(Counted(70), second)
    rest = [ids.tolist() for _ in range(second.epoch, CHANGING.epochs) for ids, _ in second.over(batches)]
    assert seen + rest == whole
    assert second.state_dict()["epoch"] == CHANGING.epochs


def test_a_state_that_nobody_can_know_is_refused_instead_of_wrong():
    mine = sampler()
    for _ in workers(Counted(70), mine):
        with pytest.raises(ResumeError, match="step=.*sampler.over"):
            mine.state_dict()
        break
    assert mine.state_dict(step=1)["step"] == 1
    with pytest.raises(ResumeError, match="step 99"):
        mine.state_dict(step=99)
    mine.set_epoch(2)
    assert mine.state_dict()["epoch"] == 2
    with pytest.raises(ScheduleError, match="do not come from this sampler"):
        next(mine.over([1, 2]))


def test_set_epoch_goes_back_and_stays_where_it_was_resumed():
    mine = sampler()
    first = list(mine)
    mine.set_epoch(0)
    assert list(mine) == first
    mine.load_state_dict({**mine.state_dict(step=18), "epoch": 1, "step": 3})
    mine.set_epoch(1)
    assert len(list(mine)) == mine.budget.batches[1] - 3


def test_an_epoch_that_is_left_early_is_over():
    mine = sampler()
    next(iter(mine))
    assert len(list(mine)) == mine.budget.batches[1]


def test_ranks_share_each_batch():
    alone = sampler()
    ranks = [sampler(rank=r, world_size=2) for r in range(2)]
    assert [r.batch_size for r in ranks] == [2, 2]
    for _ in range(CHANGING.epochs):
        for whole, *parts in zip(alone, *ranks, strict=True):
            assert len(parts[0]) == len(parts[1])
            np.testing.assert_array_equal(np.concatenate(parts)[: len(whole)], whole)


def test_another_stream_is_refused():
    state = sampler().state_dict()
    with pytest.raises(ResumeError, match="samples 70.*71"):
        sampler(71).load_state_dict(state)
    with pytest.raises(ResumeError, match="seed 0.*1"):
        sampler(seed=1).load_state_dict(state)
    with pytest.raises(ScheduleError, match="no multiple of world_size 3"):
        sampler(rank=0, world_size=3)
    with pytest.raises(ScheduleError, match="samples 0"):
        sampler([])
