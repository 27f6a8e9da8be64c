"""Faults that could hang a service or its trainers, one at a time."""

import base64
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("ray")

from interrupts import interrupt, whole_stream
from service_trainer import private
from services import MEMORY, ROOT, Process, Services, data, descendants, environment, services

from budgetloader import BudgetLoader, Dataset, Schedule, beton, connect
from budgetloader.service import registry

__all__ = ["data", "environment", "services"]  # the fixtures

# What stands in front of the decoder in the service's workers, and does what a file says.
FAULTY = """
import importlib.machinery, importlib.util, os, signal, sys, time
here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
spec = importlib.machinery.PathFinder.find_spec("simplejpeg", [p for p in sys.path if p != here])
real = importlib.util.module_from_spec(spec)
sys.modules["simplejpeg"] = real
spec.loader.exec_module(real)
decode = real.decode_jpeg
def faulty(*arguments, **options):
    try:
        what = open(os.path.join(here, "fault")).read()
    except OSError:
        what = ""
    if what == "crash":
        os.kill(os.getpid(), signal.SIGBUS)
    if what == "hang":
        time.sleep(3600)
    return decode(*arguments, **options)
real.decode_jpeg = faulty
"""


@pytest.fixture(scope="module")
def named(data, tmp_path_factory):
    """The dataset with 10,000 class names of 200 letters."""
    dataset, path = Dataset(data), tmp_path_factory.mktemp("named") / "named.beton"
    notes = {"classes": [f"{i:0200}" for i in range(10_000)]}
    with beton.Writer(path, capacity=len(dataset), notes=notes) as writer:
        for i in range(len(dataset)):
            size = {"width": int(dataset.widths[i]), "height": int(dataset.heights[i])}
            writer.add(dataset.jpeg(i).tobytes(), **size, label=int(dataset.labels[i]))
    return path


@pytest.fixture(scope="module")
def served(named, environment, tmp_path_factory):
    """A service whose decoder has faults when it is told to."""
    folder = tmp_path_factory.mktemp("faulty")
    (folder / "simplejpeg").mkdir()
    (folder / "simplejpeg" / "__init__.py").write_text(FAULTY)
    found = Services(named, {**environment, "PYTHONPATH": f"{folder}:{environment['PYTHONPATH']}"})
    found.serve("faulty", "--verify")
    found.environment = environment  # the trainers' own
    found.fault = folder / "fault"
    yield found
    found.end()


def gone(pids, seconds=90):
    """Whether processes end within some time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in pids):
        time.sleep(0.1)
    return not any(registry.start_time(pid) for pid in pids)


def test_ten_thousand_long_class_names_and_checksums_reach_a_trainer(served, monkeypatch):
    monkeypatch.setenv(registry.FOLDER_VARIABLE, served.environment[registry.FOLDER_VARIABLE])
    with connect("faulty", schedule=Schedule.full(epochs=1), batch_size=48, image_size=24, verify=True) as batches:
        assert len(batches.dataset.classes) == 10_000 and batches.dataset.classes[9999] == f"{9999:0200}"
        assert sum(len(labels) for _, labels in batches) == len(Dataset(served.data))


def test_interrupts_over_the_service_change_no_later_batch(served, monkeypatch):
    monkeypatch.setenv(registry.FOLDER_VARIABLE, served.environment[registry.FOLDER_VARIABLE])
    options = {"schedule": Schedule.full(epochs=2), "batch_size": 48, "image_size": 24, "dtype": "uint8"}
    with BudgetLoader(served.data, engine="native", crop="resized", with_ids=True, **options) as batches:
        expected = whole_stream(batches)
    with connect("faulty", crop="resized", with_ids=True, **options) as batches:
        times = int(os.environ.get("INTERRUPTS", "150"))
        assert interrupt(batches, expected, times=times, seconds=0.02) > 20


def test_a_block_that_ends_its_worker_each_time_is_an_error_for_all_who_wait_and_is_tried_again_later(served):
    served.fault.write_text("crash")
    trainers = [served.trainer("faulty", "full@1", seed=77) for _ in range(2)]
    try:
        for trainer in trainers:
            got, last = trainer.hashes(seconds=200)
            assert got == [] and "block 0 of epoch 0 ended the process that decodes it, 4 times" in last["error"]
            ids = last["error"].partition("Its samples: ")[2].partition(". ")[0].split(", ")
            assert len(set(ids)) == 256 and all(0 <= int(i) < len(Dataset(served.data)) for i in ids)
    finally:
        served.fault.unlink()
    got, last = served.trainer("faulty", "full@1", seed=77).hashes()
    assert last["finished"] and got == private(served.data, schedule="full@1", seed=77)


def test_the_samples_of_the_error_are_those_that_a_trainer_would_have_got():
    from budgetloader.plans import Planner
    from budgetloader.service.blocks import Key, Spec
    from budgetloader.service.failures import samples_of

    class Index:
        heights = widths = labels = __import__("numpy").full(1000, 9)
        fingerprint, classes = "", ()

        def __len__(self):
            return 1000

    planner = Planner(Index(), schedule=Schedule.full(epochs=3), batch_size=300, seed=5)
    key = Key(Spec("", 24, "antialias", "resized", 5, "raise"), 2, 1)
    assert samples_of(key, 44, 256, samples=1000) == planner.plan(2, 1).samples[:212].tolist()


def test_a_trainer_that_waits_for_what_never_comes_can_be_interrupted_and_leaves_no_bridge(served):
    served.fault.write_text("hang")
    try:
        for how, status in ((signal.SIGINT, 1), (signal.SIGKILL, -9)):
            trainer = served.trainer("faulty", "full@1", seed=78)
            trainer.wait_for("connected")
            time.sleep(1)
            bridges = [pid for pid, line in descendants(trainer.pid).items() if "budgetloader.service.bridge" in line]
            assert len(bridges) == 1
            trainer.send_signal(how)
            trainer.wait(timeout=40)  # 15 seconds where nothing else runs
            assert trainer.returncode in (status, -how, 130) and gone(bridges)
    finally:
        served.fault.unlink()
        # Whoever hangs hangs in the service's workers.
        (server,) = [process for process in served.running if "serve" in process.args]
        for pid, line in descendants(server.pid).items():
            if line.startswith("ray::_decode"):
                os.kill(pid, signal.SIGKILL)
    got, last = served.trainer("faulty", "0.2@1", seed=78).hashes()
    assert last["finished"] and got == private(served.data, schedule="0.2@1", seed=78)


def test_a_block_that_failed_while_the_file_was_away_is_made_for_later_trainers(served):
    away = served.data.with_suffix(".away")
    served.data.rename(away)
    try:
        got, last = served.trainer("faulty", "0.1@1", seed=79, image_size=20).hashes()
        assert got == [] and "does not exist" in last["error"]
    finally:
        away.rename(served.data)
    got, last = served.trainer("faulty", "0.1@1", seed=79, image_size=20).hashes()
    assert last["finished"] and got == private(served.data, schedule="0.1@1", seed=79, image_size=20)


def test_a_file_that_is_cut_short_under_a_service_is_an_error(services, data, tmp_path):
    path = tmp_path / "cut.beton"
    shutil.copy(data, path)
    services.serve("cut", data=path)
    got, _ = services.trainer("cut", "0.1@1").hashes()
    assert got == private(path, schedule="0.1@1")
    os.truncate(path, path.stat().st_size // 2)
    _, last = services.trainer("cut", "0.1@1", image_size=20).hashes()
    assert "truncated or damaged" in last["error"] or "cut short" in last["error"]
    _, last = services.trainer("cut", "full@1", seed=5).hashes()
    assert "was cut short or written to while it was in use" in last["error"] or "truncated" in last["error"]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_first_seconds_ends_the_server(services, how):
    rng = random.Random(int(how))
    folder = Path(services.environment[registry.FOLDER_VARIABLE])
    for moment in (rng.uniform(0.6, 1.5), rng.uniform(1.5, 4)):
        command = ("-m", "budgetloader", "serve", str(services.data), "--name", "early", "--memory", MEMORY)
        server = Process(*command, environment=services.environment)
        services.running.append(server)
        time.sleep(moment)
        below = set(descendants(server.pid))
        began = time.monotonic()
        server.send_signal(how)
        server.wait(timeout=30)
        assert time.monotonic() - began < 20  # 5 where nothing else runs
        assert server.returncode in (0, 1, 130, 143, -how)
        assert len(server.error_text().strip().splitlines()) <= 1, server.error_text()
        assert gone(below) and not list(folder.glob("early.*"))


@pytest.mark.parametrize("victim", ["raylet", "gcs_server"])
def test_a_service_that_lost_a_vital_process_ends_and_its_trainers_are_told(services, victim):
    server = services.serve("vital")
    trainer = services.trainer("vital", "full@100", step_seconds=0.05)
    trainer.wait_for("[0, 2,")
    below = descendants(server.pid)
    (pid,) = [pid for pid, line in below.items() if f"/{victim} " in line]
    told = time.time()
    os.kill(pid, signal.SIGKILL)
    _, last = trainer.hashes(seconds=60)
    assert "service 'vital' is gone" in last["error"]
    assert last["at"] - told < 20  # 5 where nothing else runs
    server.wait(timeout=30)
    assert server.returncode != 0 and gone(below)


def test_a_guard_that_was_killed_is_replaced(services):
    server = services.serve("guarded")
    guards = lambda: [pid for pid, line in descendants(server.pid).items() if "guard.py" in line]  # noqa: E731
    (first,) = guards()
    os.kill(first, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and (not guards() or first in guards()):
        time.sleep(0.1)
    below = descendants(server.pid)
    server.kill()
    server.wait()
    assert gone(below)


def test_a_disk_that_is_full_is_one_line(services, tmp_path):
    small = tmp_path / "s"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        (small / "f").write_bytes(b"x" * 40_000)
        command = [
            sys.executable,
            "-m",
            "budgetloader",
            "serve",
            str(services.data),
            "--name",
            "full",
            "--memory",
            MEMORY,
        ]
        environment = {**services.environment, "TMPDIR": str(small)}
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 1 and "error: " in done.stderr.splitlines()[-1], done.stderr
        assert "No space" in done.stderr or "TMPDIR" in done.stderr
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_rays_memory_monitor_ends_no_decoder(served):
    """It would, when trainers fill the memory; whoever decodes takes little."""
    (server,) = [process for process in served.running if "serve" in process.args]
    (line,) = [line for line in descendants(server.pid).values() if "/gcs_server " in line]
    (config,) = [part.partition("=")[2] for part in line.split() if part.startswith("--config_list=")]
    assert json.loads(base64.b64decode(config))["memory_monitor_refresh_ms"] == 0


def test_top_shows_a_name_as_it_is_and_what_is_copied():
    from rich.console import Console

    from budgetloader.service.top import table

    trainer = {"name": "[red]x[/", "schedule": "[b]", "epoch": 0, "step": 1, "emitted": 2, "decoded": 3, "copied": 4321}
    trainer |= {"images_per_second": 1.0, "starved": 0.0, "silent_seconds": 0.0}
    state = {"path": "/[a]/b", "uptime_seconds": 1, "used_bytes": 0, "memory_bytes": 1, "hits": 0, "misses": 0}
    state |= {"decoded": 0, "emitted": 0, "trainers": [trainer]}
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(table("any", state))
    shown = console.export_text()
    assert "[red]x[/" in shown and "[b]" in shown and "/[a]/b" in shown and "4,321" in shown


def test_batches_that_are_copied_because_the_store_is_not_found_are_counted(monkeypatch):
    import numpy as np

    from budgetloader.service import lending

    monkeypatch.setattr(lending, "find_store", lambda array: None)
    lender, block = lending.Lender(), np.zeros(1 << 18, np.uint8)
    small = np.zeros(100, np.uint8)
    for _ in range(20):
        assert lender.lend(small, of=small, most=1) is None
    assert not lender.lost, "Ray keeps small objects elsewhere: nothing is lost"
    for _ in range(5):
        assert lender.lend(block, of=block, most=1) is None
    assert lender.lost


def test_it_is_said_once_in_the_trainers_log(caplog):
    from service_answers import maker

    answering = maker(copied=3)
    for _ in range(3):
        answering.next_batch()
    assert len([r for r in caplog.records if "batches are copied" in r.message]) == 1


def test_the_metrics_have_it():
    from budgetloader.service.metrics import _OF_TRAINERS

    assert _OF_TRAINERS["trainer_batches_copied"][0] == "copied"
