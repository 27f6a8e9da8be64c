import time

import pytest

from budgetloader.service import worker


def test_storing_a_block_counts_with_the_next_one_and_waiting_does_not(monkeypatch):
    wall, cpu, delayed = [100.0], [5.0], [7.0]
    monkeypatch.setattr(time, "perf_counter", lambda: wall[0])
    monkeypatch.setattr(time, "process_time", lambda: cpu[0])
    monkeypatch.setattr(worker, "_delayed_seconds", lambda: delayed[0])
    meter = worker.Meter()
    meter.begin()
    wall[0], cpu[0] = 102.0, 6.5
    assert meter.end(256) == pytest.approx(2.0)  # with what it waited for a disk
    wall[0], cpu[0] = 150.0, 6.8
    meter.begin()
    wall[0], delayed[0] = 151.5, 7.5  # for half a second there was no core for it
    assert meter.end(256) == pytest.approx(1.3)
