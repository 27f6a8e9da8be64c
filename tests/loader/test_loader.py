import hashlib
import itertools
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, damage

from budgetloader import (
    BudgetLoader,
    CorruptSampleError,
    Dataset,
    DatasetError,
    EngineError,
    ResumeError,
    Schedule,
    ScheduleError,
)

R3 = Schedule.paper("R3", epochs=12)


def digests(batches) -> list[str]:
    return [digest(batch) for batch in batches]


def digest(batch) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(t.numpy()).tobytes() for t in batch)).hexdigest()


def whole_stream(loader) -> list[str]:
    return [d for _ in range(loader.epoch, loader.schedule.epochs) for d in digests(loader)]


def test_every_epoch_has_its_budget_and_len_says_so(open_loader):
    loader = open_loader()
    budget = R3.budget(70, batch_size=4).batches
    assert [(len(loader), len(list(loader))) for _ in range(12)] == [(b, b) for b in budget]
    assert len(loader) == 0
    with pytest.raises(ScheduleError, match="epoch 12 is outside"):
        iter(loader)


@pytest.mark.parametrize("schedule", [R3, Schedule.flat("0.1", epochs=6)])
def test_decoded_is_emitted_in_every_epoch(open_loader, schedule):
    loader = open_loader(schedule=schedule, prefetch=4)
    for _ in range(schedule.epochs):
        list(loader)
    assert all(s.samples_decoded == s.samples_emitted == s.batches * 4 for s in loader.stats)


def test_the_samples_are_a_draw_without_replacement_and_fresh_each_epoch(open_loader):
    loader = open_loader(schedule=Schedule.flat("0.5", epochs=3))
    epochs = [torch.cat([ids for _, _, ids in loader]).tolist() for _ in range(3)]
    assert all(len(set(e)) == len(e) == 36 for e in epochs) and epochs[0] != epochs[1] != epochs[2]


def test_labels_are_those_of_the_ids(open_loader, dataset):
    for _, labels, ids in open_loader():
        np.testing.assert_array_equal(labels.numpy(), dataset.labels[ids.numpy()])


def test_the_stream_is_the_same_with_any_number_of_threads(open_loader):
    first, *others = (whole_stream(open_loader(workers=w, prefetch=p)) for w, p in ((1, 1), (2, 3), (4, 6)))
    assert all(other == first for other in others)


def test_another_seed_gives_another_stream(open_loader):
    assert not set(digests(open_loader())) & set(digests(open_loader(seed=1)))


def test_leaving_an_epoch_early_goes_on_with_the_next(open_loader):
    expected = open_loader()
    list(expected)
    loader = open_loader(prefetch=3)
    for i, _ in enumerate(loader):
        if i == 2:
            break
    assert digests(loader) == digests(expected)
    assert loader.stats[0].samples_emitted == 12
    assert loader._engine.work.decoded(0) <= (3 + 3) * 4  # at most the batches under way


def test_set_epoch_goes_back_and_forth(open_loader):
    reference = open_loader()
    epochs = [digests(reference) for _ in range(12)]
    loader = open_loader()
    for epoch in (5, 2, 3, 11, 0):
        loader.set_epoch(epoch)
        assert len(loader) == len(epochs[epoch]) and digests(loader) == epochs[epoch]
    with pytest.raises(ScheduleError, match="epoch 12"):
        loader.set_epoch(12)


def test_set_epoch_to_the_next_epoch_keeps_what_was_prefetched(open_loader):
    loader = open_loader(prefetch=4)
    for epoch in range(12):
        loader.set_epoch(epoch)
        list(loader)
    assert sum(s.samples_decoded for s in loader.stats) == sum(s.samples_emitted for s in loader.stats)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 13, 14, 15, 40])
def test_resume_gives_the_same_remaining_stream(open_loader, stop):
    expected = whole_stream(open_loader())
    loader, taken, state = open_loader(), 0, None
    while taken < stop:
        for _ in loader:
            taken += 1
            if taken == stop:
                state = json.dumps(loader.state_dict())
                break
    assert len(state) < 1000
    resumed = open_loader(workers=1, prefetch=1)
    resumed.load_state_dict(json.loads(state))
    assert whole_stream(resumed) == expected[stop:]


def test_set_epoch_after_resuming_keeps_the_place(open_loader):
    loader = open_loader()
    expected = digests(loader)
    loader.set_epoch(0)
    next(iter(loader))
    resumed = open_loader()
    resumed.load_state_dict(loader.state_dict())
    resumed.set_epoch(0)
    assert digests(resumed) == expected[1:]
    resumed.set_epoch(0)
    assert digests(resumed) == expected


def test_the_state_at_an_epochs_end_is_the_next_epochs_beginning(open_loader):
    loader = open_loader()
    for _ in loader:
        state = loader.state_dict()
    assert (state["epoch"], state["step"]) == (1, 0) == (loader.state_dict()["epoch"], 0)


def test_the_finished_state_resumes_to_nothing(open_loader):
    loader = open_loader(schedule=Schedule.full(epochs=1))
    list(loader)
    resumed = open_loader(schedule=Schedule.full(epochs=1))
    resumed.load_state_dict(loader.state_dict())
    assert resumed.epoch == 1


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"batch_size": 8}, {"sampling": "cyclic"}, {"schedule": Schedule.full(epochs=12)}],
)
def test_a_state_of_another_stream_is_refused(open_loader, change):
    state = open_loader().state_dict()
    with pytest.raises(ResumeError, match=next(iter(change))):
        open_loader(**change).load_state_dict(state)


@pytest.mark.parametrize("change", [{"version": 0}, {"epoch": -1}, {"step": 99}, {"epoch": "1"}, {"step": 1.5}])
def test_a_damaged_state_is_refused(open_loader, change):
    loader = open_loader()
    with pytest.raises(ResumeError):
        loader.load_state_dict({**loader.state_dict(), **change})
    with pytest.raises(ResumeError):
        loader.load_state_dict([])


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 4), (4, 1)])
def test_resume_on_another_number_of_ranks_gives_the_same_global_batches(open_loader, before, after):
    def ids(world, state=None):
        loaders = [open_loader(rank=r, world_size=world) for r in range(world)]
        for loader in loaders:
            if state:
                loader.load_state_dict(state)
        for _ in range(loaders[0].epoch, 12):
            for parts in zip(*loaders, strict=True):
                yield torch.cat([p[2] for p in parts]).tolist(), loaders[0].state_dict()

    everything = [batch for batch, _ in ids(1)]
    first = list(itertools.islice(ids(before), 17))
    state = first[-1][1]
    assert [batch for batch, _ in (*first, *ids(after, state))] == everything


_TRAINER = """
import json, os, sys
from budgetloader import BudgetLoader, Schedule
sys.path[:0] = sys.argv[3:]
from test_loader import digest
with BudgetLoader(
    sys.argv[1], schedule=Schedule.paper("R3", epochs=12), batch_size=4, image_size=16, with_ids=True
) as loader:
    if os.path.exists(sys.argv[2]):
        with open(sys.argv[2]) as f:
            loader.load_state_dict(json.load(f))
    for epoch in range(loader.epoch, 12):
        loader.set_epoch(epoch)
        for batch in loader:
            print(digest(batch), flush=True)
            with open(sys.argv[2] + ".new", "w") as f:
                json.dump(loader.state_dict(), f)
            os.replace(sys.argv[2] + ".new", sys.argv[2])
"""


@pytest.mark.slow
def test_a_killed_trainer_resumes_hash_for_hash(beton, tmp_path, open_loader):
    """SIGKILL at random steps of a trainer that saves its state after each."""
    state, expected = tmp_path / "state", whole_stream(open_loader(workers=1))
    command = [sys.executable, "-c", _TRAINER, str(beton), str(state), str(Path(__file__).parent), str(ROOT / "tests")]
    for stop in (*np.random.default_rng(3).integers(1, 40, 3), None):
        start = position(json.loads(state.read_text())) if state.exists() else 0
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            seen = [line.strip() for line in itertools.islice(process.stdout, stop)]
            if stop is not None:
                process.send_signal(signal.SIGKILL)
        assert seen == expected[start : start + len(seen)]
        assert process.returncode == (0 if stop is None else -signal.SIGKILL)
    assert start > 3 and start + len(seen) == len(expected)


def position(state: dict) -> int:
    """Batches before a state of R3 over the test data."""
    budget = R3.budget(70, batch_size=4).batches
    return sum(budget[: state["epoch"]]) + state["step"]


@pytest.fixture
def damaged(beton, tmp_path):
    """A file in which samples 5 and 6 do not decode."""
    return damage(beton, tmp_path / "damaged.beton", samples=(5, 6))


def test_a_corrupt_sample_is_named(open_loader, damaged):
    loader = open_loader(damaged, schedule=Schedule.full(epochs=2))
    with pytest.raises(CorruptSampleError, match=r"sample [56] does not decode") as caught:
        list(loader)
    assert caught.value.sample in (5, 6)


def test_a_corrupt_sample_is_replaced_the_same_way_every_time(open_loader, damaged, beton):
    full = Schedule.full(epochs=2)
    options = {"schedule": full, "on_corrupt": "replace"}
    first, again = (open_loader(damaged, workers=w, **options) for w in (1, 4))
    good = list(open_loader(beton, schedule=full))
    batches = list(first)
    assert digests(batches) == digests(again)
    labels = Dataset(damaged).labels
    for _, shown, ids in batches:  # they are of the samples that are shown
        np.testing.assert_array_equal(shown, labels[ids])
        assert not {5, 6} & set(ids.tolist())
    assert sum(s.samples_replaced for s in first.stats) == 2
    different = [i for i, (a, b) in enumerate(zip(batches, good, strict=True)) if digest(a) != digest(b)]
    assert 1 <= len(different) <= 2  # only the batches with a damaged sample in them changed


def test_random_damage_raises_or_gives_pixels_and_never_crashes(beton, tmp_path):
    original, dataset = beton.read_bytes(), Dataset(beton)
    random = np.random.default_rng(0)
    outcomes = set()
    for turn in range(10):
        data = bytearray(original)
        for at in random.integers(int(dataset.starts[0]), len(data), 100):
            data[at] ^= 1 << int(random.integers(8))
        path = tmp_path / f"{turn}.beton"  # a file that is mapped must not be written again
        path.write_bytes(data)
        for on_corrupt in ("raise", "replace"):
            try:
                with BudgetLoader(
                    path, schedule=Schedule.full(epochs=1), batch_size=4, image_size=16, on_corrupt=on_corrupt
                ) as loader:
                    outcomes.add((on_corrupt, sum(len(labels) for _, labels in loader)))
            except DatasetError as error:
                outcomes.add((on_corrupt, type(error)))
    assert ("replace", 70) in outcomes and ("raise", CorruptSampleError) in outcomes


def test_evaluation_sees_every_sample_once_in_order_again_and_again(open_loader):
    loader = open_loader(schedule=None, train=False, batch_size=16)
    assert len(loader) == 5
    first = list(loader)
    assert torch.cat([ids for _, _, ids in first]).tolist() == list(range(70))
    assert digests(first) == digests(loader)
    loader.set_epoch(7)
    assert digests(first) == digests(loader)


def test_a_newer_iteration_ends_the_older_one(open_loader):
    loader = open_loader()
    old = iter(loader)
    next(old)
    next(iter(loader))
    with pytest.raises(EngineError, match="newer iteration"):
        next(old)


def test_two_loaders_in_one_process_do_not_disturb_each_other(open_loader):
    alone = whole_stream(open_loader())
    a, b = open_loader(), open_loader()
    both = [(digest(x), digest(y)) for _ in range(12) for x, y in zip(a, b, strict=True)]
    assert [x for x, _ in both] == alone == [y for _, y in both]


def test_close_leaves_no_thread_and_a_closed_loader_says_so(open_loader):
    before = set(threading.enumerate())
    loader = open_loader()
    iterator = iter(loader)
    next(iterator)
    loader.close()
    loader.close()
    assert set(threading.enumerate()) <= before
    for use in (lambda: next(iterator), lambda: iter(loader), lambda: loader.set_epoch(0)):
        with pytest.raises(EngineError, match="closed"):
            use()


def test_stats_count_the_trainers_waiting_and_the_engines_work(open_loader):
    loader = open_loader(schedule=Schedule.full(epochs=2))
    for _ in range(2):
        for _ in loader:
            time.sleep(0.03)
    slow = loader.stats[1]
    assert slow.seconds > 0.03 * 18 and 0 < slow.engine_busy_seconds < slow.seconds / 2
    assert slow.boundary_seconds <= slow.trainer_wait_seconds < slow.seconds / 2
    assert loader.verdict().bound == "trainer-bound" and loader.verdict().headroom > 1.5


def test_a_trainer_that_does_nothing_is_loader_bound(open_loader):
    loader = open_loader(image_size=224)
    assert loader.verdict() is None
    list(loader)
    assert loader.verdict().bound == "loader-bound" and loader.verdict().headroom < 0.95


@pytest.mark.parametrize("engine", ["native", "synthetic"])
def test_pauses_between_epochs_do_not_change_the_verdict(open_loader, engine, monkeypatch):
    """An evaluation of an hour between two epochs is neither the trainer's time nor the engine's."""
    loader = open_loader(engine=engine, schedule=Schedule.full(epochs=4))
    offset, clock = 0.0, time.perf_counter
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + offset)
    for _ in range(4):
        for _ in loader:
            time.sleep(0.01)
        time.sleep(0.2)  # the engine has its batches ahead, and is idle when the hour begins
        offset += 3600
    assert all(epoch.seconds < 60 and epoch.engine_busy_seconds < 60 for epoch in loader.stats)


def test_an_epoch_that_is_gone_back_to_counts_its_own_decoding(open_loader):
    loader = open_loader()
    for _ in range(2):
        loader.set_epoch(0)
        list(loader)
    assert [(s.samples_emitted, s.samples_decoded) for s in loader.stats] == [(56, 56)] * 2


def test_an_iteration_that_set_epoch_left_behind_says_so(open_loader):
    loader = open_loader()
    iterator = iter(loader)
    next(iterator)
    loader.set_epoch(3)
    with pytest.raises(EngineError, match="set_epoch moved the loader"):
        next(iterator)
    assert len(list(loader)) == R3.budget(70, batch_size=4).batches[3]
