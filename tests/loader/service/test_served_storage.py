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
from services import MACHINES, Process, descendants

from budgetloader import EngineError
from budgetloader.bench.stores import FaultProxy, free_port
from budgetloader.cli import main
from budgetloader.service import registry
from budgetloader.service.client import status

SCHEDULES = ("full@3", "0.618@3")


@pytest.fixture
def far(s3, data, services, tmp_path):
    """A proxy that counts, and the address of the dataset behind it, for services that are started from now on."""
    url = s3.put("served/train.beton", data.read_bytes())
    proxy = FaultProxy(s3.port)
    services.environment = {
        **services.environment,
        **s3.environment(proxy.port),
        "XDG_CACHE_HOME": str(tmp_path / "home"),
    }
    yield proxy, url
    services.end()
    proxy.close()


def trained(services, name, schedules):
    """The hashes of trainers that run at the same time."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(lambda schedule: services.hashes(name, schedule), schedules))


def egress(services, far, name, schedules, tmp_path):
    """What a service of its own and its trainers fetch, bytes."""
    proxy, url = far
    services.environment["XDG_CACHE_HOME"] = str(tmp_path / name)
    before = proxy.sent_bytes
    server = services.serve(name, "--workers", "2", data=url)
    found = trained(services, name, schedules)
    server.terminate()
    server.wait(timeout=60)
    return proxy.sent_bytes - before, found


def test_two_trainers_fetch_what_one_fetches_and_get_the_local_files_stream(services, far, tmp_path):
    one, _ = egress(services, far, "one", SCHEDULES[:1], tmp_path)
    two, found = egress(services, far, "two", SCHEDULES, tmp_path)
    assert found == [private(services.data, schedule) for schedule in SCHEDULES]
    assert services.data.stat().st_size / 2 < one, "the proxy counts"
    assert two <= 1.05 * one


def test_workers_of_two_machines_share_what_one_has_fetched(services, far, tmp_path, monkeypatch):
    one, _ = egress(services, far, "single", SCHEDULES[:1], tmp_path)
    proxy, url = far
    services.environment["XDG_CACHE_HOME"] = str(tmp_path / "here")
    before = proxy.sent_bytes
    server = services.serve("cluster", "--host", "127.0.0.2", "--workers", "1", data=url, python=MACHINES)
    entry, token = services.entry("cluster"), services.folder / "token"
    token.write_text(entry["token"])
    there = {**services.environment, registry.FOLDER_VARIABLE: str(services.folder / "elsewhere")}
    command = (*MACHINES, "join", entry["address"], "--name", "cluster", "--token-file", str(token))
    node = Process(*command, "--host", "127.0.0.3", "--memory", "100MB", "--workers", "1", environment=there)
    services.running.append(node)
    node.wait_for("joined")
    expected = private(services.data, SCHEDULES[0])
    assert services.hashes("cluster", SCHEDULES[0]) == expected
    with monkeypatch.context() as patch:
        patch.setenv(registry.FOLDER_VARIABLE, there[registry.FOLDER_VARIABLE])
        assert services.hashes("cluster", SCHEDULES[0]) == expected
    decoding = [
        sum(line.startswith(("ray::_decode", "ray::IDLE")) for line in descendants(process.pid).values())
        for process in (server, node)
    ]
    assert min(decoding) >= 1, "both machines have decoded"
    assert proxy.sent_bytes - before <= 1.05 * one


def test_a_cache_outlives_the_service(services, far, tmp_path):
    proxy, url = far
    options = ("--workers", "1", "--cache", str(tmp_path / "cache"), "--cache-bytes", "100MB")
    for name in ("first", "second"):
        server, before = services.serve(name, *options, data=url), proxy.sent_bytes
        assert services.hashes(name, "0.618@1") == private(services.data, "0.618@1")
        fetched = proxy.sent_bytes - before
        server.terminate()
        server.wait(timeout=60)
    assert fetched < 100_000, "the second one has found nearly all in the cache"


def test_metrics_top_and_the_page_show_the_store(services, far):
    proxy, url = far
    port = free_port()
    services.serve("watched", "--workers", "1", "--metrics-port", str(port), data=url)
    services.hashes("watched", "full@1")
    shown = status("watched").store
    assert shown.misses >= 1440 * 0.9 and shown.requests > 0 and shown.latency_seconds[0] > 0
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    found = re.search(r'budgetloader_store_fetched_bytes_total{service="watched"} ([\d.e+]+)', text)
    assert proxy.sent_bytes / 2 < float(found[1]) <= proxy.sent_bytes, "but for what the server read when it began"
    command = [sys.executable, "-m", "budgetloader", "top", "watched", "--readings", "1"]
    environment = {**services.environment, "COLUMNS": "160"}
    top = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60).stdout
    assert "object storage:" in top
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as answer:
        assert "fetched from object storage" in answer.read().decode()


def test_a_slow_store_is_named_by_the_verdict_of_a_trainer_and_by_top(services, far):
    proxy, url = far
    services.serve("slow", "--workers", "1", data=url)
    proxy.trouble.latency_seconds = 0.3
    with services.connect("slow", "full@2") as batches:
        for _ in batches.epochs():
            for _ in batches:
                pass
        verdict = batches.verdict()
        waited = sum(stats.store_wait_seconds for stats in batches.stats)
    assert waited > 0.3
    assert verdict.bound == "loader-bound" and "waits for object storage" in str(verdict)
    assert status("slow").store.wait_seconds > 0.3


def test_a_store_that_fails_is_one_error_and_the_training_goes_on_from_there(services, far):
    proxy, url = far
    services.serve("failing", "--workers", "1", data=url)
    expected = private(services.data, "full@1")
    with services.connect("failing", "full@1") as batches:
        proxy.trouble.of = lambda number: "403"
        with pytest.raises(EngineError, match=r"s3://.*sample"):
            for _ in batches:
                pass
    proxy.trouble.of = lambda number: None
    assert services.hashes("failing", "full@1") == expected


def test_a_cache_for_a_file_on_this_machine_is_refused(data, environment, tmp_path, capsys):
    assert main(["serve", str(data), "--name", "x", "--cache", str(tmp_path)]) == 1
    assert "is for files in object storage" in capsys.readouterr().err
