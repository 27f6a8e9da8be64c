from collections import Counter

import numpy as np
import pytest

from budgetloader.service import assembler
from budgetloader.service.blocks import BLOCK, Content, Key, Part, Spec

SPEC = Spec("fingerprint", 1, "linear", "resized", 0, "raise")


def test_decoding_and_the_bridges_own_work_share_the_cores(monkeypatch):
    """100 samples at 4 ms by 2 workers are 0.2 s; 0.3 s of this process on 3 cores are 0.1 s."""
    clock = iter((1.3, 1.7))
    monkeypatch.setattr(assembler.time, "process_time", lambda: next(clock))
    monkeypatch.setattr(assembler, "cores", lambda: 3)
    made = object.__new__(assembler.Assembler)
    made._cpu_seconds, made._decode_seconds, made._decode_rows = 1.0, 4.0, 1000
    made._sharing, made._workers = 1, 2
    assert made._busy(100) == pytest.approx(0.2 + 0.1)
    assert made._busy(50) == pytest.approx(0.1 + 0.4 / 3)


def test_decoding_counts_as_a_batch_is_made_and_not_as_its_blocks_are_asked_for(monkeypatch):
    """Three batches of two blocks that were asked for at once; another trainer had the second one decoded."""
    keys = [Key(SPEC, 0, number) for number in range(2)]
    content = Content(np.zeros((BLOCK, 1, 1, 3), np.uint8), {}, {}, 0.0)
    monkeypatch.setattr(assembler.Assembler, "_deliver", lambda *_: (None, []))
    monkeypatch.setattr(assembler.Assembler, "_block", lambda *_: [Part(0, BLOCK, content)])
    monkeypatch.setattr(assembler.Assembler, "_busy", lambda self, samples: samples)
    made = object.__new__(assembler.Assembler)
    made._spec, made._ahead, made._most_ahead, made._last, made._older = SPEC, [], 1, None, {keys[1]}
    made._wanted, made._references, made._ids = Counter(keys * 3), dict.fromkeys(keys, ()), {}
    made._waited, made._emitted, made._copied, made._decoded = 0.0, 0, 0, BLOCK
    half = BLOCK // 2
    answers = [
        made.make(0, step, [(start, stop)], np.empty(0))[0]
        for step, (start, stop) in enumerate([(0, half), (half, BLOCK + 2), (BLOCK + 2, BLOCK + half)])
    ]
    assert [answer.decode_busy_seconds for answer in answers] == [half, half, 0]
    assert [answer.decoded for answer in answers] == [BLOCK, 0, 0]
