"""Other users of the machine, and what lies about on it, against a service as its users start it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray")

from service_trainer import private
from services import ROOT

from budgetloader.service import registry


def test_modules_in_the_working_directory_are_not_run_by_the_service_or_a_trainers_helpers(served, monkeypatch):
    monkeypatch.chdir(served.strangers)
    assert served.hashes("shared", "0.5@1") == private(served.data, "0.5@1")
    assert not (served.strangers / "was_run").exists()


def test_the_sessions_folder_is_its_users_alone(served):
    """Ray lets everybody write to what it makes; nobody gets there."""
    session = Path(served.entry("shared")["session"])
    assert session.stat().st_mode & 0o077 == 0 and session.stat().st_uid == os.geteuid()
    assert list(session.rglob("plasma_store"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_reads_no_log_and_moves_no_socket(served):
    session = Path(served.entry("shared")["session"])
    (socket,) = session.rglob("plasma_store")
    (log,) = session.rglob("gcs_server.out")
    for code in (
        f"import os; os.listdir({str(session)!r})",
        f"open({str(log)!r}).read()",
        f"import os; os.rename({str(socket)!r}, {str(socket)!r} + '.moved')",
        f"import socket; socket.socket(socket.AF_UNIX).connect({str(socket)!r})",
        f"open({str(Path(served.environment[registry.FOLDER_VARIABLE]) / 'shared.json')!r}).read()",
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
            with service(sys.argv[1], name="shared", memory_bytes=10**8):
                pass
        except EngineError as error:
            print(error, time.process_time() - began, "ray" in sys.modules)
    """
    command = [sys.executable, "-c", code, str(served.data)]
    done = subprocess.run(command, env=served.environment, capture_output=True, text=True, timeout=60)
    assert "is running already" in done.stdout, done.stderr
    *_, seconds, ray_was_imported = done.stdout.split()
    assert float(seconds) < 1 and ray_was_imported == "False"


def join(served, tmp_path, address, token, name):
    """What `budgetloader join` says, as one line. Ray keeps the first token of a process: this is one of its own."""
    (tmp_path / "token").write_text(token)
    command = [sys.executable, "-m", "budgetloader", "join", address, "--name", name]
    command += ["--host", "127.0.0.1", "--token-file", str(tmp_path / "token")]
    done = subprocess.run(command, env=served.environment, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


def test_join_never_writes_over_a_local_entry(served, tmp_path):
    before = served.entry("shared")
    assert "is running already" in join(served, tmp_path, before["address"], before["token"], "shared")
    assert served.entry("shared") == before


def test_join_with_a_wrong_token_or_address_is_refused_at_once(served, tmp_path):
    entry = served.entry("shared")
    assert "does not answer to this token" in join(served, tmp_path, entry["address"], "0" * 64, "x")
    assert "does not answer" in join(served, tmp_path, "127.0.0.1:1", entry["token"], "x")


def test_a_wrong_token_is_refused_in_under_5_seconds(served):
    code = """if True:
        import os, sys, time
        from budgetloader.errors import EngineError
        from budgetloader.service.link import check_token, set_environment
        set_environment("0" * 64, host="127.0.0.1")
        import ray
        began = time.monotonic()
        try:
            check_token(sys.argv[1], name="shared")
        except EngineError:
            print(time.monotonic() - began)
    """
    command = [sys.executable, "-c", code, served.entry("shared")["address"]]
    done = subprocess.run(command, env=served.environment, capture_output=True, text=True, timeout=60)
    assert float(done.stdout) < 5, done.stderr
