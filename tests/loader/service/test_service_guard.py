"""What the guard leaves of a name, whoever holds its lock."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT
from services import registry_entry

from budgetloader import EngineError
from budgetloader.service import guard, registry


@pytest.fixture
def session(tmp_path):
    path = tmp_path / "session"
    path.mkdir()
    return str(path)


def clear(session):
    guard.clear(session, str(registry.path_of("imagenet")), spared={os.getpid()})


def test_a_lock_that_is_let_go_of_a_moment_late_is_removed(registry_folder, session):
    held, let_go = threading.Event(), threading.Event()

    def hold():
        descriptor = registry._lock(registry_folder / "imagenet.lock", "imagenet")
        held.set()
        let_go.wait(10)
        os.close(descriptor)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(10)
    threading.Timer(0.2, let_go.set).start()
    clear(session)
    thread.join()
    assert not list(registry_folder.iterdir()) and not os.path.exists(session)


def test_a_new_server_keeps_its_name_and_its_entry(registry_folder, session):
    entry = registry_folder / "imagenet.json"
    with registry.reserved("imagenet"):
        entry.write_text(json.dumps({"session": "another"}))
        clear(session)
        with pytest.raises(EngineError, match="is running already"), registry.reserved("imagenet"):
            pass
        entry.unlink()
    assert not list(registry_folder.iterdir())


def test_a_guard_waits_for_no_server_that_has_written_its_entry(registry_folder, session):
    (registry_folder / "imagenet.json").write_text(json.dumps({"session": "another"}))
    descriptor = registry._lock(registry_folder / "imagenet.lock", "imagenet")
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guard.time, "sleep", calls.append)
        clear(session)
    os.close(descriptor)
    assert not calls


def test_the_entry_of_a_server_that_was_killed_goes_with_the_next_of_its_name(registry_folder):
    dead = registry_entry(started=1)
    registry.write(dead)
    with registry.reserved("imagenet"):
        pass
    assert not list(registry_folder.iterdir())


@pytest.mark.parametrize("end", ["os._exit(1)", "os.kill(os.getpid(), 9)", "1 / 0", "pass"])
def test_a_server_that_ends_in_whatever_way_leaves_nothing_of_its_name(registry_folder, end):
    script = f"""
import os
from budgetloader.service import registry
from budgetloader.service.session import session
with session(entry=registry.path_of("imagenet")) as made, registry.reserved("imagenet"):
    print(made.folder, flush=True)
    {end}
"""
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    made = run.stdout.strip()
    assert os.path.basename(made).startswith("rrs-"), run.stderr
    deadline = time.monotonic() + 20
    while (os.path.exists(made) or list(registry_folder.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not os.path.exists(made) and not list(registry_folder.iterdir())
