"""Ctrl-C, and whatever else a signal's handler raises, changes no batch that comes later."""

import os
import time

import pytest
from interrupts import LEAST, interrupt, whole_stream

from budgetloader import BudgetLoader, Schedule, engines
from budgetloader.engines.base import Work
from budgetloader.engines.base_threaded import ThreadedEngine
from budgetloader.engines.rendering import Renderer
from budgetloader.engines.upload import uploader

TIMES = int(os.environ.get("INTERRUPTS", "150"))  # on each engine; INTERRUPTS=1000 for a long run
ENGINES = [
    pytest.param(name, marks=pytest.mark.skipif(not engines.installed(name), reason=f"{name} is not installed"))
    for name in ("native", "resident", "dali", "ffcv")
]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_interrupts_at_random_moments_change_no_later_batch(engine, beton, small_beton):
    path = small_beton if engine == "resident" else beton
    options = {"batch_size": 6, "image_size": 16, "engine": engine, "crop": "resized", "dtype": "uint8", "workers": 2}
    with BudgetLoader(path, schedule=Schedule.full(epochs=3), with_ids=True, **options) as batches:
        began = time.perf_counter()
        expected = whole_stream(batches)
        each = (time.perf_counter() - began) / len(expected)  # between some signals a batch is made
        assert interrupt(batches, expected, times=TIMES, seconds=max(0.01, 4 * each)) >= LEAST


class _Slow:
    """A maker that takes its time."""

    depth = 1

    def __init__(self, job):
        self._uploader = uploader(job)
        self._renderer = Renderer(job, Work(), self._uploader.host)

    def enter(self):
        self._uploader.enter()

    def begin(self, plan):
        pass

    def finish(self, plan):
        time.sleep(0.01)
        return self._renderer.batch(plan, self._uploader)

    def close(self):
        pass


@pytest.mark.slow
def test_a_thread_that_lags_behind_gives_no_batch_of_before(beton):
    """Nearly every interrupt comes while `get` waits."""

    def engine(job):
        return ThreadedEngine(_Slow(job), capacity=3, work=Work(), name="slow")

    options = {"batch_size": 6, "image_size": 16, "engine": engine, "crop": "resized", "dtype": "uint8"}
    with BudgetLoader(beton, schedule=Schedule.full(epochs=2), with_ids=True, **options) as batches:
        expected = whole_stream(batches)
        assert interrupt(batches, expected, times=150, seconds=0.03) >= LEAST
