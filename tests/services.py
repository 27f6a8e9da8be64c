"""Services, which run as real processes, and their trainers, for the tests of several modules.

Trainers run in the test's own process where they can: theirs is the whole way through a bridge to the service, and a
process of their own would import torch for each. Those that are to be killed or stopped are processes.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from budgetloader.service import registry

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = 1440
MEMORY = "200MB"


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Handwritten digits, 32×32."""
    from rich.progress import Progress

    from budgetloader.bench.data import prepare

    folder = tmp_path_factory.mktemp("service")
    options = {"evaluation": None, "folder": folder, "images": SAMPLES, "seed": 0}
    prepare(None, **options, progress=Progress(disable=True), builtin="digits", image_size=32)
    return folder / "train.beton"


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """That of services and trainers; the folder of entries is the tests' own, for this process, too."""
    folder = tmp_path_factory.mktemp("known")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(registry.FOLDER_VARIABLE, str(folder))
        yield {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}


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
        self.folder = Path(environment[registry.FOLDER_VARIABLE])

    def serve(self, name, *more, memory=MEMORY, data=None, python=("-m", "budgetloader"), cwd=None):
        files = data if isinstance(data, list) else [data or self.data]
        command = (*python, "serve", *map(str, files), "--name", name, "--memory", memory)
        process = Process(*command, *more, environment=self.environment, cwd=cwd)
        self.running.append(process)
        process.wait_for("serving")
        return process

    def trainer(self, name, schedule, **job):
        """A trainer's process; see service_trainer.py."""
        job = json.dumps({"name": name, "schedule": schedule, **job})
        process = Process(str(ROOT / "tests" / "service_trainer.py"), job, environment=self.environment)
        self.running.append(process)
        return process

    def connect(self, name, schedule, **options):
        """A trainer's loader in this process."""
        from service_trainer import options_of

        from budgetloader import connect

        return connect(name, label=options.pop("label", "test"), **options_of(schedule, **options))

    def hashes(self, name, schedule, **options):
        """(epoch, step, hash) of each batch of a trainer in this process."""
        from service_trainer import hashes

        with self.connect(name, schedule, **options) as batches:
            return list(hashes(batches))

    def entry(self, name):
        """What makes a service known."""
        return json.loads((self.folder / f"{name}.json").read_text())

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


@pytest.fixture(scope="session")
def served(data, environment, tmp_path_factory):
    """A service that the tests share: started where strangers' modules lie, as an installed command is.

    Attributes:
        server: its process.
        strangers: the folder of the strangers' modules, in which nothing is run.
        metrics_port: at the loopback.
    """
    from traps import trap

    found = Services(data, environment)
    found.strangers = tmp_path_factory.mktemp("strangers")
    trap(found.strangers, "loader", "budgetloader", "json", "numpy", "ray", "socket", "models", "bench", "msgspec")
    script = tmp_path_factory.mktemp("bin") / "serve.py"
    script.write_text("from budgetloader.cli import main; raise SystemExit(main())")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        found.metrics_port = free.getsockname()[1]
    more = ("--host", "localhost", "--metrics-port", str(found.metrics_port))
    found.server = found.serve("shared", *more, python=(str(script),), cwd=found.strangers)
    yield found
    found.end()


def ends(services, server, how, *, kill=None):
    """Seconds until a trainer is told that its service has ended, after which nothing of the service is left.

    Args:
        server: one of the services'.
        how: the signal.
        kill: the process that gets it; default: the server.
    """
    from budgetloader import ServiceGoneError

    name = server.args[server.args.index("--name") + 1]
    below, session = descendants(server.pid), services.entry(name)["session"]
    assert any("raylet" in line for line in below.values())
    with services.connect(name, "full@2000") as batches:
        stream = (batch for _ in range(2000) for batch in batches)
        next(stream)
        began = time.monotonic()
        os.kill(kill or server.pid, how)
        with pytest.raises(ServiceGoneError, match=f"service '{name}' is gone"):
            for _ in stream:
                pass
        told_seconds = time.monotonic() - began
    server.wait(timeout=60)
    assert gone(below), below
    assert not Path(session).exists() and not list(services.folder.glob(f"{name}.*"))
    with pytest.raises(ServiceGoneError, match="there is no service"):
        services.connect(name, "full@1")
    return told_seconds


def gone(pids, seconds=90):
    """Whether processes end within some time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in pids):
        time.sleep(0.05)
    return not any(registry.start_time(pid) for pid in pids)


def descendants(pid):
    """pid → command line of every process below `pid`."""
    parents, lines = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                lines[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                parents[int(folder.name)] = int(fields[1])
    found, level = {}, {pid}
    while level:
        level = {child for child, parent in parents.items() if parent in level}
        found.update({child: lines[child] for child in level})
    return found


def bridges(pid):
    """The pids of the bridges that a process has."""
    return [child for child, line in descendants(pid).items() if "budgetloader.service.bridge" in line]


def service_processes(server, kind, seconds=60):
    """The pids of a service's workers, or of its coordinator, once there are any."""
    lines = {"worker": ("ray::_decode", "ray::_warm_up", "ray::IDLE"), "coordinator": ("ray::Coordinator",)}[kind]
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := [pid for pid, line in descendants(server.pid).items() if line.startswith(lines)]:
            return found
        time.sleep(0.02)
    raise AssertionError(f"no {kind} within {seconds} seconds")


@pytest.fixture
def registry_folder(tmp_path, monkeypatch):
    """An empty folder in which services are made known, for this test alone."""
    path = tmp_path / "known"
    path.mkdir(mode=0o700)
    monkeypatch.setenv(registry.FOLDER_VARIABLE, str(path))
    return path


def registry_entry(**changed):
    """The entry of a service, "imagenet", whose server is this process."""
    pid = os.getpid()
    fields = {
        "name": "imagenet",
        "address": "127.0.0.1:1",
        "token": "t",
        "host": registry.socket.gethostname(),
        "boot": registry.boot(),
        "pid": pid,
        "started": registry.start_time(pid),
        "session": "/nowhere",
        "node": "127.0.0.1",
    }
    return registry.Entry(**{**fields, **changed})
