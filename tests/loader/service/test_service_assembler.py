import pytest

from budgetloader.service import assembler


def test_decoding_and_the_bridges_own_work_share_the_cores(monkeypatch):
    """100 samples at 4 ms by 2 workers are 0.2 s; 0.3 s of this process on 3 cores are 0.1 s."""
    clock = iter((1.3, 1.7))
    monkeypatch.setattr(assembler.time, "process_time", lambda: next(clock))
    monkeypatch.setattr(assembler, "cores", lambda: 3)
    made = object.__new__(assembler.Assembler)
    made._cpu_seconds, made._decode_seconds, made._decode_rows = 1.0, 4.0, 1000
    made._sharing, made._workers = 1, 2
    assert made._decode_busy(100) == pytest.approx(0.2 + 0.1)
    assert made._decode_busy(0) == 0.0  # a batch of blocks that others had decoded: its work counts with the next
    assert made._decode_busy(50) == pytest.approx(0.1 + 0.4 / 3)
