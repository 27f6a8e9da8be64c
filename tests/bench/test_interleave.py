"""What is between epochs and batches is not in their time."""

import contextlib
import copy
import itertools
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from trainers import trainer

from budgetloader.bench.busy import busy
from budgetloader.bench.fake_cuda import FakeCUDA
from budgetloader.bench.interleave import Setting, Shown, run, time_round, warm_up
from budgetloader.bench.settings import cells
from budgetloader.models import CIFAR, CheckpointError, Trainer, checkpoint


class Batches:
    """As many batches of noise as each epoch's budget, with a length and epochs."""

    def __init__(self, counts):
        self.counts, self.epoch, self.epochs = counts, 0, []

    def set_epoch(self, epoch):
        self.epoch = epoch
        self.epochs.append(epoch)

    def __len__(self):
        return self.counts[self.epoch]

    def __iter__(self):
        for _ in range(len(self)):
            yield torch.randn(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64)


def settings(*names, epochs=3, full=20, folder=None):
    made = []
    for cell in cells(names, epochs=epochs, samples=4 * full, batch_size=4, network=None):
        network = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
        trainer = Trainer(network, recipe=CIFAR, epochs=cell.schedule.epochs)
        batches = Batches(cell.schedule.budget(4 * full, batch_size=4).batches)
        made.append(Setting(cell, trainer, batches, state=folder and folder / f"{cell.name}.pt"))
    return made


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves."""
    now = SimpleNamespace(seconds=0.0)
    ticks = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: now.seconds + 1e-6 * next(ticks))
    return now


def test_updating_the_progress_is_not_training_time(clock):
    (full,) = settings("full")

    def slow_terminal(count):
        clock.seconds += 100.0

    shown = Shown(slow_terminal)

    def step(now):
        clock.seconds += 0.3
        return shown(now)

    record = full.trainer.train_epoch(full.batches, epoch=0, after_step=step)
    assert record.train_seconds < 20 * 0.3 + 1


def test_progress_counts_every_batch_however_seldom_it_is_shown(clock):
    counts = []
    shown = Shown(counts.append)
    for seconds in (0.1, 0.1, 0.6, 0.1):
        clock.seconds += seconds
        shown(None)
    shown.flush()
    assert counts == [3, 1]


def test_settings_take_turns_epoch_by_epoch_and_go_on_from_their_files(tmp_path):
    done, shown = [], []
    options = {"batches_done": lambda s, epoch, count: shown.append((s.name, epoch, count))}
    first = settings("full", "0.5", epochs=2, full=4, folder=tmp_path)
    run(first, **options, epoch_done=lambda s: done.append((s.name, len(s.records))))
    assert done == [("full", 1), ("0.5", 1), ("0.5", 2), ("full", 2)] and all(s.finished for s in first)
    assert [(s, e, n) for s, e, n in shown if n] == [("full", 0, 4), ("0.5", 0, 2), ("0.5", 1, 2), ("full", 1, 4)]
    again = settings("full", "0.5", epochs=2, full=4, folder=tmp_path)
    for old, new in zip(first, again, strict=True):
        new.training.load()
        assert new.finished and new.records == old.records
        for name, value in old.trainer.model.state_dict().items():
            assert torch.equal(value, new.trainer.model.state_dict()[name])


def test_a_file_of_version_0_1_is_gone_on_from_and_one_of_another_schedule_is_refused(tmp_path):
    (old,) = settings("full")
    old.training.advance()
    state = {"schedule": "full@3", "trainer": old.trainer.state_dict(), "history": old.history.state_dict()}
    checkpoint.save(tmp_path / "full.pt", state)
    (new,) = settings("full", folder=tmp_path)
    new.training.load()
    assert new.records == old.records and new.training.advance() and len(new.records) == 2
    checkpoint.save(tmp_path / "full.pt", {**state, "schedule": "0.5@3"})
    with pytest.raises(CheckpointError, match=r"schedule 0\.5@3, and this one has full@3"):
        new.training.load()


def test_a_round_of_timing_compares_slices_that_ran_in_turn(clock, monkeypatch):
    """The machine is ten times slower from one moment on: every pair still has the settings' own ratio."""
    full, half = settings("full", "0.5")
    speed = {full.name: 1.0, half.name: 1.2}
    spent = SimpleNamespace(steps=0)
    for setting in (full, half):
        step = setting.trainer._step

        def timed(images, labels, now, *, step=step, name=setting.name):
            step(images, labels, now)
            spent.steps += 1
            clock.seconds += speed[name] * (1.0 if spent.steps < 13 else 10.0)

        monkeypatch.setattr(setting.trainer, "_step", timed)
    time_round([half], full, number=0)
    assert len(half.timed) == 1 and not full.timed  # ten batches are one slice of six, and what is left
    time_round([half], full, number=1)
    ratios = [mine / whole for mine, whole in half.timed]
    assert ratios == pytest.approx([1.2, 1.2], rel=1e-3)


def test_rounds_of_timing_go_through_a_schedules_epochs():
    full, mixed = settings("full", "of:1,0.5,0.25")
    for number in range(4):
        time_round([mixed], full, number=number)
    assert mixed.batches.epochs == [0, 1, 2, 0] and len(mixed.timed) == 3 + 1 + 1 + 3


def test_short_epochs_have_shorter_slices():
    full, tiny = settings("full", "0.1")
    time_round([tiny], full, number=0)
    assert len(tiny.timed) == 1


@pytest.fixture
def marked(monkeypatch, tmp_path):
    """Marks the processes that a test starts: others on the machine may be busy, too."""
    monkeypatch.setenv("STARTED_BY", str(tmp_path))
    return f"STARTED_BY={tmp_path}".encode()


def test_busy_processes_end_with_their_block(marked):
    with busy(2):
        assert _spinning(marked) == 2
    assert _spinning(marked) == 0


def test_busy_processes_end_with_the_process_that_started_them(marked):
    script = "import os\nfrom budgetloader.bench.busy import busy\nwith busy(1): os._exit(0)"
    subprocess.run([sys.executable, "-c", script], check=True)
    deadline = time.monotonic() + 20
    while _spinning(marked) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _spinning(marked) == 0


def _spinning(mark: bytes) -> int:
    found = 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                started = mark in (folder / "environ").read_bytes().split(b"\0")
                found += started and b"while True: pass" in (folder / "cmdline").read_bytes()
    return found


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_a_warm_up_leaves_the_trainer_as_it_was(device):
    with FakeCUDA():  # of a GPU without bfloat16: float16 with a loss scale, which is counted on
        t = trainer(device=device)
        before = copy.deepcopy(t.state_dict())
        assert warm_up(t, samples=12, batch_size=8, image_size=8, classes=4) > 0
        after = t.state_dict()
        assert after["scaler"] == before["scaler"] and bool(before["scaler"]) == (device != "cpu")
        assert after["optimizer"] == before["optimizer"]
        for name, value in before["model"].items():
            assert torch.equal(value, after["model"][name])
