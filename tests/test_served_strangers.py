"""Other users of the machine, and what lies about on it, against a service as its users start it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("ray")

from service_trainer import private
from services import MEMORY, ROOT, Process, Services, data, descendants, environment, services
from test_apart import trap

from budgetloader.service import registry

__all__ = ["data", "environment", "services"]  # the fixtures


@pytest.fixture(scope="module")
def served(data, environment, tmp_path_factory):
    """A service that was started where strangers' modules lie, as an installed command is."""
    folder = tmp_path_factory.mktemp("strangers")
    trap(folder, "loader", "budgetloader", "json", "numpy", "ray", "socket", "models", "bench")
    script = tmp_path_factory.mktemp("bin") / "serve.py"
    script.write_text("from budgetloader.cli import main; raise SystemExit(main())")
    found = Services(data, environment)
    command = (str(script), "serve", str(data), "--name", "safe", "--memory", MEMORY)
    found.running.append(Process(*command, environment=environment, cwd=folder))
    found.running[0].wait_for("serving")
    found.folder = folder
    yield found
    found.end()


def entry(found, name="safe"):
    return json.loads((Path(found.environment[registry.FOLDER_VARIABLE]) / f"{name}.json").read_text())


def test_modules_in_the_working_directory_are_not_run_by_the_service_or_a_trainers_helpers(served):
    got, last = served.trainer("safe", "0.5@1", cwd=served.folder).hashes()
    assert last["finished"] and got == private(served.data, schedule="0.5@1")
    assert not (served.folder / "was_run").exists()


def test_the_sessions_folder_is_its_users_alone(served):
    """Ray lets everybody write to what it makes; nobody gets there."""
    session = Path(entry(served)["session"])
    assert session.stat().st_mode & 0o077 == 0 and session.stat().st_uid == os.geteuid()
    assert list(session.rglob("plasma_store"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_reads_no_log_and_moves_no_socket(served):
    session = Path(entry(served)["session"])
    (socket,) = session.rglob("plasma_store")
    (log,) = session.rglob("gcs_server.out")
    for code in (
        f"import os; os.listdir({str(session)!r})",
        f"open({str(log)!r}).read()",
        f"import os; os.rename({str(socket)!r}, {str(socket)!r} + '.moved')",
        f"import socket; socket.socket(socket.AF_UNIX).connect({str(socket)!r})",
        f"open({str(Path(served.environment[registry.FOLDER_VARIABLE]) / 'safe.json')!r}).read()",
    ):
        command = ["/usr/bin/env", "python3", "-c", code]
        done = subprocess.run(
            command, user=65534, group=65534, extra_groups=(), cwd="/", capture_output=True, text=True
        )
        if "can't open" in done.stderr or "No such file" in done.stderr:
            pytest.skip(f"another user has no Python here: {done.stderr.strip()}")
        assert "PermissionError" in done.stderr, done.stderr


def test_of_two_servers_of_one_name_one_says_so_within_a_second(served):
    """Measured from when it starts to look: importing Ray takes longer than that."""
    code = """if True:
        import sys, time
        from budgetloader.errors import EngineError
        from budgetloader.service.server import service
        began = time.process_time()
        try:
            with service(sys.argv[1], name="safe", memory_bytes=10**8):
                pass
        except EngineError as error:
            print(error, time.process_time() - began, "ray" in sys.modules)
    """
    command = [sys.executable, "-c", code, str(served.data)]
    done = subprocess.run(command, env=served.environment, capture_output=True, text=True, timeout=60)
    assert "is running already" in done.stdout, done.stderr
    *_, seconds, ray_was_imported = done.stdout.split()
    assert float(seconds) < 1 and ray_was_imported == "False"


def test_join_never_writes_over_a_local_entry(served, tmp_path):
    before = entry(served)
    (tmp_path / "token").write_text(before["token"])
    command = [sys.executable, "-m", "budgetloader", "join", before["address"], "--name", "safe", "--host", "127.0.0.1"]
    command += ["--token-file", str(tmp_path / "token")]
    done = subprocess.run(command, env=served.environment, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "is running already" in done.stderr and len(done.stderr.splitlines()) == 1
    assert entry(served) == before


@pytest.mark.parametrize(
    ("token", "address", "why"),
    [("0" * 64, None, "does not answer to this token"), (None, "127.0.0.1:1", "does not answer")],
)
def test_join_with_a_wrong_token_or_address_is_refused_at_once(served, tmp_path, token, address, why):
    mine = entry(served)
    (tmp_path / "token").write_text(token or mine["token"])
    command = [
        sys.executable,
        "-m",
        "budgetloader",
        "join",
        address or mine["address"],
        "--name",
        "x",
        "--host",
        "127.0.0.1",
    ]
    command += ["--token-file", str(tmp_path / "token")]
    done = subprocess.run(command, env=served.environment, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and why in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_wrong_token_is_refused_in_under_5_seconds(served):
    code = """if True:
        import os, sys, time
        from budgetloader.errors import EngineError
        from budgetloader.service.link import check_token, set_environment
        set_environment("0" * 64, host="127.0.0.1")
        import ray
        began = time.monotonic()
        try:
            check_token(sys.argv[1], name="safe")
        except EngineError:
            print(time.monotonic() - began)
    """
    command = [sys.executable, "-c", code, entry(served)["address"]]
    done = subprocess.run(command, env=served.environment, capture_output=True, text=True, timeout=60)
    assert float(done.stdout) < 5, done.stderr


def test_the_guard_ends_its_own_services_processes_alone(services):
    """A user who looks at a log is not ended with the service."""
    server = services.serve("watched")
    session = Path(entry(services, "watched")["session"])
    (log,) = session.rglob("gcs_server.out")
    with subprocess.Popen(["tail", "-f", str(log)], stdout=subprocess.DEVNULL) as reader:
        below = descendants(server.pid)
        server.kill()
        server.wait()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and (session.exists() or any(Path(f"/proc/{p}").exists() for p in below)):
            time.sleep(0.1)
        assert not session.exists() and not [line for p, line in below.items() if Path(f"/proc/{p}").exists()]
        assert reader.poll() is None
        reader.kill()
    assert not list(Path(services.environment[registry.FOLDER_VARIABLE]).glob("watched.*"))
