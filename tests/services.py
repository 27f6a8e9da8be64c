"""A service and its trainers as real processes, for the tests of several modules."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from rich.progress import Progress

from budgetloader.bench.data import prepare
from budgetloader.service import registry

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = 1440
MEMORY = "200MB"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Handwritten digits, 32×32."""
    folder = tmp_path_factory.mktemp("service")
    options = {"evaluation": None, "folder": folder, "images": SAMPLES, "seed": 0}
    prepare(None, **options, progress=Progress(disable=True), builtin="digits", image_size=32)
    return folder / "train.beton"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return {
        **os.environ,
        registry.FOLDER_VARIABLE: str(tmp_path_factory.mktemp("known")),
        "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}",
        "OMP_NUM_THREADS": "1",
    }


# Other loopback addresses stand for other machines, as long as nobody takes them for the loopback.
MACHINES = ("-c", "from budgetloader.service import join, server; same = lambda host: host; server.own_address = same; "
            "join.own_address = same; from budgetloader.cli import main; raise SystemExit(main())")  # fmt: skip


class Process(subprocess.Popen):
    """A child whose lines are read as they come: from files, where none is lost and which never are full."""

    def __init__(self, *command, environment, cwd=None):
        self._files = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115  # as long as this lives
        self._read = 0  # bytes of its output
        super().__init__(
            [sys.executable, *command], cwd=cwd, env=environment, stdout=self._files[0], stderr=self._files[1]
        )

    def _rest(self):
        """The whole lines that were not read yet."""
        text = os.pread(self._files[0].fileno(), 1 << 24, self._read)
        return text[: text.rfind(b"\n") + 1].splitlines(keepends=True)

    def wait_for(self, text, seconds=90):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            ended = self.poll() is not None
            for line in self._rest():
                self._read += len(line)
                if text.encode() in line:
                    return line.decode()
            assert not ended, f"ended with {self.returncode}: {self.error_text()[-2000:]}"
            time.sleep(0.01)
        raise AssertionError(f"no {text!r} within {seconds} seconds")

    def error_text(self, seconds=60):
        """All that it wrote to stderr, once it has ended."""
        self.wait(timeout=seconds)
        return os.pread(self._files[1].fileno(), 1 << 24, 0).decode()

    def hashes(self, seconds=240):
        """The (epoch, step, hash) of every batch that was not waited for, and the last line's dict."""
        errors = self.error_text(seconds)
        lines = [json.loads(line) for line in self._rest()]
        assert lines, errors[-2000:]
        return [tuple(line) for line in lines if isinstance(line, list)], lines[-1]


class Services:
    """Starts services and trainers, and ends them."""

    def __init__(self, data, environment):
        self.data, self.environment = data, environment
        self.running = []

    def serve(self, name, *more, memory=MEMORY, data=None, python=("-m", "budgetloader")):
        command = (*python, "serve", str(data or self.data), "--name", name, "--memory", memory)
        process = Process(*command, *more, environment=self.environment)
        self.running.append(process)
        process.wait_for("serving")
        return process

    def trainer(self, name, schedule, *, cwd=None, **asked):
        job = json.dumps({"name": name, "schedule": schedule, **asked})
        process = Process(str(ROOT / "tests" / "service_trainer.py"), job, environment=self.environment, cwd=cwd)
        self.running.append(process)
        return process

    def status(self, name):
        code = (
            "import json, sys; from budgetloader.service.client import status; print(json.dumps(status(sys.argv[1])))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, name], env=self.environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout.splitlines()[-1])

    def end(self):
        for process in self.running:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.send_signal(signal.SIGINT)
        for process in self.running:
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def services(data, environment):
    found = Services(data, environment)
    yield found
    found.end()


def descendants(pid):
    """pid → command line of every process below `pid`."""
    parents, lines = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                lines[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                parents[int(folder.name)] = int(fields[1])
            except OSError:
                continue
    found, level = {}, {pid}
    while level:
        level = {child for child, parent in parents.items() if parent in level}
        found.update({child: lines[child] for child in level})
    return found


def service_processes(server, kind, seconds=60):
    """The pids of a service's workers, or of its coordinator, once there are any."""
    lines = {"worker": ("ray::_decode", "ray::_warm_up", "ray::IDLE"), "coordinator": ("ray::Coordinator",)}[kind]
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := [pid for pid, line in descendants(server.pid).items() if line.startswith(lines)]:
            return found
        time.sleep(0.05)
    raise AssertionError(f"no {kind} within {seconds} seconds")
