"""Reads of plain clients: a short version of the bench."""

import json

import pytest

from budgetloader.bench import storage_servers
from budgetloader.bench.stores import juicefs, nginx


@pytest.mark.slow
def test_servers_and_clients_take_turns(tmp_path, own_home, monkeypatch):
    pytest.importorskip("obstore", reason="obstore is not installed")
    if juicefs() is None or nginx() is None:
        pytest.skip("juicefs or nginx is not installed")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, "")  # what it sets is taken back
    more = ["--images", "100", "--reads", "20", "--turns", "1", "--threads", "4", "--out", str(tmp_path)]
    assert storage_servers.main(more) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    pairs = {(row["server"], row["client"]) for row in found["servers"]}
    assert {("gateway", "obstore"), ("nginx", "obstore")} <= pairs
    assert all(row["requests_per_second"] > 0 for row in found["servers"])
    assert "| nginx, obstore |" in storage_servers.grid(found).markdown()
