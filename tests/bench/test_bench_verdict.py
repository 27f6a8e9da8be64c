"""The bench of the verdict; its record says how right the verdict is."""

import json

import pytest

from budgetloader.bench.verdict import expected, main


@pytest.mark.parametrize(
    ("engine", "ratio", "share", "known"),
    [
        ("native", 3.0, 1.0, 3.0),
        ("service", 0.5, 0.5, 0.5),
        ("resident", 0.5, 0.3, 0.3),  # the trainer waits for every batch, and longer than a busy engine would take
        ("synthetic", 49.0, 0.98, 49.0),
    ],
)
def test_what_the_verdict_has_to_say(engine, ratio, share, known):
    assert expected(engine, ratio, share) == known


@pytest.mark.long
def test_every_trainer_is_measured_on_every_engine(tmp_path, monkeypatch):
    monkeypatch.setattr("budgetloader.bench.verdict.HEADROOMS", (0.5, 3.0))
    monkeypatch.setattr("budgetloader.bench.verdict.PAUSE_SECONDS", 0.0)
    assert main(["--engines", "synthetic", "native", "--turns", "1", "--images", "96", "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert [(row["engine"], row["engine_per_trainer"]) for row in results["rows"]] == [
        *(("synthetic", 0.5), ("synthetic", 3.0), ("native", 0.5), ("native", 3.0)),
    ]
    assert all(row["headroom"] > 0 for row in results["rows"])
    assert (tmp_path / "report.html").exists() and str(tmp_path) not in json.dumps(results)
