"""The metrics' port: a page for people beside the numbers for Prometheus, opened as a person would."""

import contextlib
import http.client
import re
import shutil
import socket
import subprocess

import pytest

pytest.importorskip("prometheus_client")
pytest.importorskip("msgspec")

from rich.console import Console

from budgetloader import EngineError
from budgetloader.service import metrics, top
from budgetloader.service.history import HOUR_SECONDS, READ_SECONDS, History
from budgetloader.service.page import page, who_waits
from budgetloader.service.status import ServiceStatus, StoreStatus, TrainerStatus

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "<script>document.title='owned'</script>\"'><img src=x onerror=\"document.title='owned'\">&lt;"
STORE = StoreStatus(1200, 3, 45_600_000, 300, 700, 0, 5, (0.012, 0.05, 0.25), 80.0, 0.6)


def trainer(name="lr 0.1", *, starved=0.4, silent=0.5, number="a1"):
    return TrainerStatus(number, name, "R3@12", 3, 41, 5000, 4000, 812.4, starved, 0, silent)


def status(*trainers, store=STORE, hits=30, misses=10):
    return ServiceStatus("s3://b/<i>.beton", 1440, 61.0, 10**9, 10**8, 7, hits, misses, 4000, 9000, trainers, store)


@contextlib.contextmanager
def serving(read, name="imagenet"):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    end = metrics.start(name, read, port=port, host="127.0.0.1")
    try:
        yield port
    finally:
        end()


def asked(port, path="/", *, method="GET", host=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, headers={} if host is None else {"Host": host})
    answer = connection.getresponse()
    return answer, answer.read().decode()


def test_the_page_shows_trainers_the_store_and_who_waits_for_whom():
    with serving(lambda: status(trainer(), trainer("lr 0.2", starved=0.0, number="b2"))) as port:
        answer, text = asked(port)
        assert answer.status == 200
        for shown in ("lr 0.1", "R3@12", "812", "45.6 MB in 1,200 requests", "30% of samples from the cache"):
            assert shown in text
        assert "it waits for the service 40% of its time, which waits for object storage 60% of its own" in text
        assert "the service waits for it" in text
        assert text.count("<svg") == 5, "one for each trainer, and three of the service"


def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing():
    with serving(lambda: status(trainer(HOSTILE))) as port:
        answer, text = asked(port)
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert not re.search(r"https?://|<(script|link|img|iframe|object|i)\b|\bon\w+=\"", text.replace("&quot;", "'"))
    assert "&lt;script&gt;" in text and "&lt;i&gt;.beton" in text


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_shows_a_hostile_name_as_text(tmp_path):
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    command += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path / 'u'}"]
    with serving(lambda: status(trainer(HOSTILE), trainer("plain", number="b2"))) as port:
        url = f"http://127.0.0.1:{port}/"
        shown = subprocess.run(
            [*command, "--dump-dom", url], capture_output=True, text=True, timeout=120, check=True
        ).stdout
        picture = tmp_path / "page.png"
        subprocess.run([*command, f"--screenshot={picture}", url], capture_output=True, timeout=120, check=True)
    assert "<title>imagenet: budgetloader</title>" in shown, "no script has changed it"
    assert "<td>plain</td>" in shown and "&lt;script&gt;" in shown
    assert "<script" not in shown and "<img" not in shown
    assert len(re.findall(r"<svg\b", shown)) == 5 and "object storage: 45.6 MB" in shown
    assert picture.stat().st_size > 5000


@pytest.mark.parametrize("path", ["/", "/metrics"])
def test_a_name_that_only_leads_to_the_loopback_is_refused(path):
    with serving(lambda: status(trainer())) as port:
        for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.0.0.5:9464", "[fe80::1]:80"):
            answer, text = asked(port, path, host=host)
            assert answer.status == 403 and "lr 0.1" not in text
        for host in ("localhost", f"localhost:{port}", "127.0.0.1", "[::1]:9", "127.1.2.3:80"):
            assert asked(port, path, host=host)[0].status == 200


def test_other_paths_and_methods_are_refused():
    with serving(lambda: status()) as port:
        assert asked(port, "/favicon.ico")[0].status == 404
        assert asked(port, "/../etc/passwd")[0].status == 404
        assert asked(port, method="POST")[0].status == 405


def test_a_service_that_does_not_answer_is_said_and_the_page_comes_back():
    broken = [True]

    def read():
        if broken[0]:
            raise RuntimeError("<b>no coordinator</b>\nand its traceback")
        return status()

    with serving(read) as port:
        answer, text = asked(port)
        assert answer.status == 503 and "&lt;b&gt;no coordinator" in text and "traceback" not in text
        broken[0] = False
        assert asked(port)[0].status == 200


def test_the_metrics_have_the_store():
    with serving(lambda: status(trainer(HOSTILE))) as port:
        text = asked(port, "/metrics")[1]
    for line in (
        'budgetloader_store_fetched_bytes_total{service="imagenet"} 4.56e+07',
        'budgetloader_store_requests_total{service="imagenet"} 1200.0',
        'budgetloader_store_retries_total{service="imagenet"} 3.0',
        'budgetloader_cache_hits_total{service="imagenet"} 300.0',
        'budgetloader_cache_misses_total{service="imagenet"} 700.0',
        'budgetloader_store_waiting_ratio{service="imagenet"} 0.6',
        'budgetloader_store_latency_seconds{quantile="0.99",service="imagenet"} 0.25',
    ):
        assert line in text
    with serving(lambda: status(store=None)) as port:
        assert "budgetloader_store" not in asked(port, "/metrics")[1]


def test_top_names_a_slow_store():
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(top.table("imagenet", status(trainer())))
    shown = console.export_text()
    assert "object storage: 45.6 MB in 1,200 requests" in shown and "60% of their time: the store is slow" in shown
    fast = StoreStatus(1, 0, 1, 0, 1, 0, 0, (0.0, 0.0, 0.0), 0.0, 0.1)
    assert not fast.slow and "slow" not in fast.text


@pytest.mark.parametrize(
    ("starved", "silent", "store", "text"),
    [
        (0.0, 0.0, STORE, "the service waits for it"),
        (0.5, 0.0, None, "it waits for the service 50% of its time"),
        (0.5, 31.0, STORE, "it has asked for nothing for 31 s"),
    ],
)
def test_who_waits_for_whom(starved, silent, store, text):
    assert who_waits(trainer(starved=starved, silent=silent), store) == text


def test_the_history_keeps_an_hour_and_counts_what_came_between_two_readings():
    now, counts = [0.0], [10, 10, 1_000_000]

    def read():
        store = StoreStatus(1, 0, counts[2], 0, 0, 0, 0, (0.0, 0.0, 0.0), 0.0, 0.2)
        return status(trainer(), store=store, hits=counts[0], misses=counts[1])

    history = History(read, clock=lambda: now[0])
    history.now()
    now[0] += READ_SECONDS / 2
    history.now()
    assert len(history.readings) == 1, "pages that are loaded often add none"
    now[0] += READ_SECONDS
    counts[:] = [16, 12, 3_000_000]
    history.now()
    last = history.readings[-1]
    assert (last.hit_share, last.fetched_bytes, last.images_per_second) == (0.75, 2_000_000, {"a1": 812.4})
    now[0] += READ_SECONDS
    counts[:] = [1, 0, 100]  # the coordinator was restarted
    history.now()
    assert (history.readings[-1].hit_share, history.readings[-1].fetched_bytes) == (1.0, 100)
    now[0] += READ_SECONDS
    history.now()
    assert history.readings[-1].hit_share is None
    for _ in range(500):
        now[0] += READ_SECONDS
        history.now()
    kept = history.readings
    assert kept[-1].seconds - kept[0].seconds <= HOUR_SECONDS and len(kept) >= 300


def test_a_chart_has_gaps_where_nothing_was_asked_for():
    now, hits = [0.0], [0]
    history = History(lambda: status(hits=hits[0], misses=0, store=None), clock=lambda: now[0])
    for more in (1, 1, 0, 1):
        hits[0] += more
        history.now()
        now[0] += READ_SECONDS
    assert page("x", status(store=None), history.readings).count("<polyline") == 2


def test_a_port_that_is_taken_is_one_error():
    with serving(lambda: status()) as port, pytest.raises(EngineError, match=f"--metrics-port {port} cannot be used"):
        metrics.start("other", lambda: status(), port=port, host="127.0.0.1")
