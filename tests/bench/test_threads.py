import json

import pytest

from budgetloader.bench import threads
from budgetloader.bench.threads import main

WAYS = {name: threads.WAYS[name] for name in ("torch's own", "one thread")}


@pytest.mark.long
def test_every_way_is_measured_quiet_and_busy(tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "WAYS", WAYS)
    assert main(["--images", "40", "--turns", "1", "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert [row["way"] for row in results["rows"]] == list(WAYS)
    assert all(row["quiet_epoch_seconds"] > 0 and row["busy_per_quiet"] > 0 for row in results["rows"])
    assert "while True" not in (tmp_path / "report.html").read_text()
    assert str(tmp_path) not in json.dumps(results)
