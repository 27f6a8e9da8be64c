"""The trainer's side of the service against a bridge that answers as a test says."""

from __future__ import annotations

import numpy as np

from budgetloader import Schedule
from budgetloader.engines.base import Job, Output, Work
from budgetloader.plans import Planner
from budgetloader.service.maker import BridgeMaker
from budgetloader.service.protocol import BatchAnswer


class _Dataset:
    heights = widths = np.full(64, 40)
    labels = np.arange(64)
    fingerprint, classes, capacity_bytes, verifies, store_wait_seconds = "none", (), 1 << 30, False, 0.0

    def __len__(self):
        return 64


class _Entry:
    name, pid, alive = "fake", 1, True


class _Bridge:
    """Answers every batch with `answer`."""

    index, entry, given_up = _Dataset(), _Entry(), False

    def __init__(self, answer):
        self._answer = answer

    def send(self, request, descriptors):
        pass

    def answer(self, expected):
        assert isinstance(self._answer, expected)
        return self._answer, []

    def close(self):
        pass


class _Answering:
    def __init__(self, answer):
        schedule = Schedule.full(epochs=1)
        planner = Planner(_Dataset(), schedule=schedule, batch_size=8, seed=0)
        job = Job(_Dataset(), Output(16, "uint8"), 8, 1, 3, "raise", planner.replacement)
        budget = schedule.budget(64, batch_size=8)
        self._maker = BridgeMaker(job, Work(), _Bridge(answer), budget=budget, seed=0)
        self._plans = (planner.plan(0, step) for step in range(8))

    def next_batch(self):
        plan = next(self._plans)
        self._maker.begin(plan)
        return self._maker.finish(plan)


def maker(**answer):
    """Something whose `next_batch` is made of the answers."""
    return _Answering(BatchAnswer(**{"decoded": 0, "decode_busy_seconds": 0.0, "copied": 0, **answer}))
