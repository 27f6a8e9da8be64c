import time

from budgetloader.service import worker


def test_waiting_for_a_core_is_not_decoding():
    spent = worker.Spent()
    time.sleep(0.2)
    assert spent.seconds() < 0.1


def test_waiting_for_a_disk_is(monkeypatch):
    reads = iter((0, 3))
    monkeypatch.setattr(worker, "_pages_read", lambda: next(reads))
    spent = worker.Spent()
    time.sleep(0.2)
    assert spent.seconds() >= 0.2
