"""A service whose dataset is in object storage, on a real S3 server: what one trainer has fetched, all of them use."""

import concurrent.futures
import re
import subprocess
import sys
import urllib.request

import pytest

pytest.importorskip("ray")
pytest.importorskip("obstore")

from service_trainer import private
from services import MACHINES, Process, Services, descendants

from budgetloader import Dataset, EngineError
from budgetloader.bench.stores import FaultProxy, free_port
from budgetloader.cli import main
from budgetloader.service import registry
from budgetloader.service.client import status

SCHEDULES = ("full@3", "0.618@3")


@pytest.fixture(scope="module")
def stored(s3, data):
    """The dataset's address on the S3 server."""
    return s3.put("served/train.beton", data.read_bytes())


@pytest.fixture(scope="module")
def proxy(s3):
    """Counts what the S3 server sends."""
    between = FaultProxy(s3.port)
    yield between
    between.close()


@pytest.fixture(scope="module")
def far(s3, data, environment, proxy, tmp_path_factory):
    """Services whose datasets are behind the proxy."""
    home = tmp_path_factory.mktemp("home")
    configured = {**environment, **s3.environment(proxy.port), "XDG_CACHE_HOME": str(home)}
    found = Services(data, configured)
    yield found
    found.end()


@pytest.fixture(scope="module")
def watched(far, stored):
    """A service that tests share; each has trainers with a seed of its own, whose blocks nobody else has asked for.

    Attributes:
        metrics_port: at the loopback.
    """
    far.metrics_port = free_port()
    far.serve("watched", "--workers", "1", "--metrics-port", str(far.metrics_port), data=stored)
    return far


def trained(services, name, schedules):
    """The hashes of trainers that run at the same time."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(lambda schedule: services.hashes(name, schedule), schedules))


def egress(far, stored, proxy, name, schedules):
    """What a service of its own, with no index kept, and its trainers fetch, bytes; and the trainers' hashes."""
    before = proxy.sent_bytes
    server = far.serve(name, "--workers", "2", data=stored)
    found = trained(far, name, schedules)
    server.terminate()
    server.wait(timeout=60)
    return proxy.sent_bytes - before, found


@pytest.fixture(scope="module")
def one(far, stored, proxy, tmp_path_factory):
    """What one trainer of a service of its own fetches, bytes."""
    far.environment["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("one"))
    return egress(far, stored, proxy, "one", SCHEDULES[:1])[0]


def test_two_trainers_fetch_what_one_fetches_and_get_the_local_files_stream(far, stored, proxy, one, tmp_path):
    far.environment["XDG_CACHE_HOME"] = str(tmp_path)
    two, found = egress(far, stored, proxy, "two", SCHEDULES)
    assert found == [private(far.data, schedule) for schedule in SCHEDULES]
    assert one > Dataset(far.data).sizes.sum(), "the proxy counts"
    assert two <= 1.05 * one


def test_workers_of_two_machines_share_what_one_has_fetched(far, stored, proxy, one, tmp_path, monkeypatch):
    far.environment["XDG_CACHE_HOME"] = str(tmp_path / "here")
    before = proxy.sent_bytes
    server = far.serve("cluster", "--host", "127.0.0.2", "--workers", "1", data=stored, python=MACHINES)
    entry, token = far.entry("cluster"), far.folder / "token"
    token.write_text(entry["token"])
    there = {**far.environment, registry.FOLDER_VARIABLE: str(far.folder / "elsewhere")}
    command = (*MACHINES, "join", entry["address"], "--name", "cluster", "--token-file", str(token))
    node = Process(*command, "--host", "127.0.0.3", "--memory", "100MB", "--workers", "1", environment=there)
    far.running.append(node)
    node.wait_for("joined")
    expected = private(far.data, SCHEDULES[0])
    assert far.hashes("cluster", SCHEDULES[0]) == expected
    with monkeypatch.context() as patch:
        patch.setenv(registry.FOLDER_VARIABLE, there[registry.FOLDER_VARIABLE])
        assert far.hashes("cluster", SCHEDULES[0]) == expected
    decoding = [
        sum(line.startswith(("ray::_decode", "ray::IDLE")) for line in descendants(process.pid).values())
        for process in (server, node)
    ]
    assert min(decoding) >= 1, "both machines have decoded"
    assert proxy.sent_bytes - before <= 1.05 * one


@pytest.mark.long
def test_a_cache_outlives_the_service(far, stored, proxy, tmp_path):
    options = ("--workers", "1", "--cache", str(tmp_path / "cache"), "--cache-bytes", "100MB")
    for name in ("first", "second"):
        server, before = far.serve(name, *options, data=stored), proxy.sent_bytes
        assert far.hashes(name, "0.618@1") == private(far.data, "0.618@1")
        fetched = proxy.sent_bytes - before
        server.terminate()
        server.wait(timeout=60)
    assert fetched < 100_000, "the second one has found nearly all in the cache"


def test_metrics_top_and_the_page_show_the_store(watched):
    watched.hashes("watched", "full@1", seed=1)
    shown = status("watched").store
    assert shown.misses >= 1440 * 0.9 and shown.requests > 0 and shown.latency_seconds[0] > 0
    address = f"http://127.0.0.1:{watched.metrics_port}"
    with urllib.request.urlopen(f"{address}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    found = re.search(r'budgetloader_store_fetched_bytes_total{service="watched"} ([\d.e+]+)', text)
    assert float(found[1]) >= Dataset(watched.data).sizes.sum()
    command = [sys.executable, "-m", "budgetloader", "top", "watched", "--readings", "1"]
    environment = {**watched.environment, "COLUMNS": "160"}
    top = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60).stdout
    assert "object storage:" in top
    with urllib.request.urlopen(f"{address}/", timeout=20) as answer:
        assert "fetched from object storage" in answer.read().decode()


def test_a_slow_store_is_named_by_the_verdict_of_a_trainer(watched, proxy):
    before = status("watched").store.wait_seconds
    proxy.trouble.latency_seconds = 0.3
    try:
        with watched.connect("watched", "full@2", seed=2) as batches:
            for _ in batches.epochs():
                for _ in batches:
                    pass
            verdict = batches.verdict()
            waited = sum(stats.store_wait_seconds for stats in batches.stats)
    finally:
        proxy.trouble.latency_seconds = 0.0
    assert waited > 0.3
    assert verdict.bound == "loader-bound" and "waits for object storage" in str(verdict)
    assert status("watched").store.wait_seconds - before > 0.3


def test_a_store_that_fails_is_one_error_and_the_training_goes_on_from_there(watched, proxy):
    expected = private(watched.data, "full@1", seed=3)
    proxy.trouble.of = lambda number: "403"
    try:
        with (
            watched.connect("watched", "full@1", seed=3) as batches,
            pytest.raises(EngineError, match=r"s3://.*sample"),
        ):
            list(batches)
    finally:
        proxy.trouble.of = lambda number: None
    assert watched.hashes("watched", "full@1", seed=3) == expected


def test_a_cache_for_a_file_on_this_machine_is_refused(data, environment, tmp_path, capsys):
    assert main(["serve", str(data), "--name", "x", "--cache", str(tmp_path)]) == 1
    assert "is for files in object storage" in capsys.readouterr().err
