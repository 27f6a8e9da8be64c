"""Faults that could hang a service or its trainers, one at a time."""

import base64
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("ray")

from interrupts import LEAST, interrupt, whole_stream
from service_trainer import options_of, private
from services import MEMORY, ROOT, Process, Services, bridges, descendants, ends, gone

from budgetloader import BudgetLoader, Dataset, EngineError, ResumeError, Schedule, beton

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
    """The dataset without its last sample, with 10,000 class names of 200 letters."""
    dataset, path = Dataset(data), tmp_path_factory.mktemp("named") / "named.beton"
    notes = {"classes": [f"{i:0200}" for i in range(10_000)]}
    with beton.Writer(path, capacity=len(dataset), notes=notes) as writer:
        for i in range(len(dataset) - 1):
            size = {"width": int(dataset.widths[i]), "height": int(dataset.heights[i])}
            writer.add(dataset.jpeg(i).tobytes(), **size, label=int(dataset.labels[i]))
    return path


@pytest.fixture(scope="module")
def faulty(named, environment, tmp_path_factory):
    """A service whose decoder has faults when it is told to: what a `fault` file says.

    Attributes:
        fault: that file.
        server: its process.
    """
    folder = tmp_path_factory.mktemp("faulty")
    (folder / "simplejpeg").mkdir()
    (folder / "simplejpeg" / "__init__.py").write_text(FAULTY)
    found = Services(named, {**environment, "PYTHONPATH": f"{folder}:{environment['PYTHONPATH']}"})
    found.server = found.serve("faulty", "--verify")
    found.environment = environment  # the trainers' own
    found.fault = folder / "fault"
    yield found
    found.end()


def test_ten_thousand_long_class_names_and_checksums_reach_a_trainer(faulty):
    with faulty.connect("faulty", "full@1", verify=True) as batches:
        assert len(batches.dataset.classes) == 10_000 and batches.dataset.classes[9999] == f"{9999:0200}"
        assert sum(len(labels) for _, labels, _ in batches) == len(Dataset(faulty.data))


def test_another_dataset_is_refused_when_a_trainer_resumes(faulty, served):
    with served.connect("shared", "full@2") as batches:
        next(iter(batches))
        state = batches.state_dict()
    with faulty.connect("faulty", "full@2") as batches, pytest.raises(ResumeError, match="dataset"):
        batches.load_state_dict(state)


def test_interrupts_over_the_service_change_no_later_batch(faulty):
    with BudgetLoader(faulty.data, engine="native", **options_of("full@2")) as batches:
        expected = whole_stream(batches)
    with faulty.connect("faulty", "full@2") as batches:
        times = int(os.environ.get("INTERRUPTS", "150"))
        assert interrupt(batches, expected, times=times, seconds=0.02) >= LEAST


def test_a_block_that_ends_its_worker_each_time_is_an_error_for_all_who_wait_and_is_tried_again_later(faulty):
    schedule = "0.17@1"  # 240 positions: one block, at whose every attempt a worker has to be started

    def error_of_a_trainer(number):
        with pytest.raises(EngineError) as error:
            faulty.hashes("faulty", schedule, seed=77, label=f"n{number}")
        return str(error.value)

    faulty.fault.write_text("crash")
    try:
        with ThreadPoolExecutor(2) as pool:
            for error in pool.map(error_of_a_trainer, range(2)):
                assert "block 0 of epoch 0 ended the process that decodes it, 4 times" in error
                ids = error.partition("Its samples: ")[2].partition(". ")[0].split(", ")
                assert len(set(ids)) == 240 and all(0 <= int(i) < len(Dataset(faulty.data)) for i in ids)
    finally:
        faulty.fault.unlink()
    assert faulty.hashes("faulty", schedule, seed=77) == private(faulty.data, schedule, seed=77)


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


def test_a_trainer_that_waits_for_what_never_comes_can_be_interrupted_and_leaves_no_bridge(faulty):
    faulty.fault.write_text("hang")
    try:
        # Both at once: each waits for a block that is being decoded for ever.
        ways = ((signal.SIGINT, (1, -signal.SIGINT, 130)), (signal.SIGKILL, (-signal.SIGKILL,)))
        trainers = [faulty.trainer("faulty", "0.17@1", seed=78) for _ in ways]
        for trainer, (how, statuses) in zip(trainers, ways, strict=True):
            trainer.wait_for("connected")
            time.sleep(0.5)
            below = bridges(trainer.pid)
            assert len(below) == 1
            trainer.send_signal(how)
            trainer.wait(timeout=40)  # 15 seconds where nothing else runs
            assert trainer.returncode in statuses and gone(below)
    finally:
        faulty.fault.unlink()
        for pid, line in descendants(faulty.server.pid).items():  # whoever hangs is one of the service's workers
            if line.startswith("ray::_decode"):
                os.kill(pid, signal.SIGKILL)
    assert faulty.hashes("faulty", "0.2@1", seed=78) == private(faulty.data, "0.2@1", seed=78)


def test_a_block_that_failed_while_the_file_was_away_is_made_for_later_trainers(faulty):
    away, options = faulty.data.with_suffix(".away"), {"seed": 79, "image_size": 20}
    faulty.data.rename(away)
    try:
        with pytest.raises(EngineError, match="does not exist"):
            faulty.hashes("faulty", "0.1@1", **options)
    finally:
        away.rename(faulty.data)
    assert faulty.hashes("faulty", "0.1@1", **options) == private(faulty.data, "0.1@1", **options)


@pytest.mark.parametrize("seed", [2, 15])
def test_a_signal_in_the_first_seconds_ends_the_server(services, seed):
    """Two servers at a time, one by either signal."""
    rng = random.Random(seed)
    ways = {"first": signal.SIGTERM, "second": signal.SIGINT}
    servers = {}
    for name in ways:
        command = ("-m", "budgetloader", "serve", str(services.data), "--name", name, "--memory", MEMORY)
        servers[name] = Process(*command, environment=services.environment)
        services.running.append(servers[name])
    time.sleep(rng.uniform(0.6, 1.5) if seed == 2 else rng.uniform(1.5, 4))
    for name, how in ways.items():
        server, below = servers[name], set(descendants(servers[name].pid))
        began = time.monotonic()
        server.send_signal(how)
        server.wait(timeout=30)
        assert time.monotonic() - began < 20  # 5 where nothing else runs
        assert server.returncode in (0, 1, 130, 143, -how)
        # While Ray starts, its own handler may be the process's for a moment, and prints where the signal came.
        said = server.error_text().strip().splitlines()
        assert not said or not re.match(r"[\w.]+(Error|Exit|Exception|Interrupt)\b", said[-1]), said
        assert gone(below) and not list(services.folder.glob(f"{name}.*"))


def test_a_service_that_lost_its_raylet_ends_and_a_guard_that_was_replaced_clears_up(services):
    server = services.serve("raylet")
    guards = lambda: [pid for pid, line in descendants(server.pid).items() if "guard.py" in line]  # noqa: E731
    (first,) = guards()
    os.kill(first, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and (not guards() or first in guards()):
        time.sleep(0.02)
    assert ends(services, server, signal.SIGKILL, kill=process_of(server, "raylet")) < 20  # 5 where nothing else runs
    assert server.returncode == 1
    assert "Ray's raylet" in server.error_text()


def test_a_service_that_lost_its_gcs_ends_and_the_guard_ends_its_own_services_processes_alone(services):
    """A user who looks at a log is not ended with the service."""
    server = services.serve("gcs")
    (log,) = Path(services.entry("gcs")["session"]).rglob("gcs_server.out")
    with subprocess.Popen(["tail", "-f", str(log)], stdout=subprocess.DEVNULL) as reader:
        assert ends(services, server, signal.SIGKILL, kill=process_of(server, "gcs_server")) < 20
        assert reader.poll() is None
        reader.kill()
    assert server.returncode == 1


def process_of(server, name):
    """The pid of a process of Ray's."""
    (pid,) = [pid for pid, line in descendants(server.pid).items() if f"/{name} " in line]
    return pid


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


def test_rays_memory_monitor_ends_no_decoder(faulty):
    """It would, when trainers fill the memory; whoever decodes takes little."""
    (line,) = [line for line in descendants(faulty.server.pid).values() if "/gcs_server " in line]
    (config,) = [part.partition("=")[2] for part in line.split() if part.startswith("--config_list=")]
    assert json.loads(base64.b64decode(config))["memory_monitor_refresh_ms"] == 0


def test_top_shows_a_name_as_it_is_and_what_is_copied():
    from rich.console import Console

    from budgetloader.service.status import ServiceStatus, TrainerStatus
    from budgetloader.service.top import table

    trainer = TrainerStatus("id", "[red]x[/", "[b]", 0, 1, 2, 3, 1.0, 0.0, 4321, 0.0)
    status = ServiceStatus("/[a]/b", 9, 1.0, 1, 0, 0, 0, 0, 0, 0, (trainer,))
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(table("any", status))
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
