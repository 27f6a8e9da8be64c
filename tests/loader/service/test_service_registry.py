"""Who may say where a service is, and who has a name."""

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT
from services import registry_entry as entry

from budgetloader import EngineError
from budgetloader.service import registry
from budgetloader.service.server import own_address

pytestmark = pytest.mark.usefixtures("registry_folder")


def test_an_entry_is_found_while_its_process_lives(registry_folder):
    registry.write(entry())
    assert registry.find("imagenet") == entry() and registry.names() == ["imagenet"]
    assert (registry_folder / "imagenet.json").stat().st_mode & 0o077 == 0
    assert not dataclasses.replace(entry(), started=1).alive
    registry.remove(entry())
    with pytest.raises(EngineError, match="there is no service 'imagenet'"):
        registry.find("imagenet")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_to_can_be_read(registry_folder):
    registry.write(entry())
    registry_folder.chmod(0o500)
    assert registry.find("imagenet") == entry()


@pytest.mark.parametrize("which", ["folder", "entry"])
def test_what_others_can_write_is_refused(registry_folder, which):
    path = registry.write(entry())
    (registry_folder if which == "folder" else path).chmod(0o777)
    with pytest.raises(EngineError, match="can be written by others; chmod"):
        registry.find("imagenet")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's files")
@pytest.mark.parametrize("which", ["folder", "entry"])
def test_what_belongs_to_another_user_is_refused(registry_folder, which):
    path = registry.write(entry())
    os.chown(registry_folder if which == "folder" else path, 65534, 65534)
    with pytest.raises(EngineError, match="belongs to another user"):
        registry.find("imagenet")


def test_an_entry_behind_a_link_or_a_pipe_is_refused(registry_folder, tmp_path):
    registry.write(entry()).rename(tmp_path / "elsewhere.json")
    (registry_folder / "imagenet.json").symlink_to(tmp_path / "elsewhere.json")
    os.mkfifo(registry_folder / "pipe.json")
    for name in ("imagenet", "pipe"):
        with pytest.raises(EngineError, match="cannot be read|is no entry"):
            registry.find(name)


@pytest.mark.parametrize(
    "text",
    ["", "[" * 100_000, "null", '{"name": "imagenet"}', json.dumps({**dataclasses.asdict(entry()), "name": "other"}),
     json.dumps({**dataclasses.asdict(entry()), "pid": {"a": 1}}), "\x00" * 70_000],
)  # fmt: skip
def test_a_mangled_entry_is_one_error(registry_folder, text):
    (registry_folder / "imagenet.json").write_text(text)
    with pytest.raises(EngineError, match=r"imagenet\.json"):
        registry.find("imagenet")


@pytest.mark.parametrize("changed", [{"host": "another"}, {"boot": "another"}])
def test_another_machines_entry_is_refused_in_words(changed):
    registry.write(entry(**changed))
    with pytest.raises(EngineError, match=r"was started on machine .* budgetloader join"):
        registry.find("imagenet")
    assert registry.names() == [] and not entry(**changed).alive


def test_a_dead_machines_entry_does_not_hold_the_name(registry_folder):
    path = registry.write(entry(host="another"))
    with pytest.raises(EngineError, match="is running on machine another"), registry.reserved("imagenet"):
        pass
    os.utime(path, (time.time() - 3600,) * 2)  # nobody has touched it for an hour
    with registry.reserved("imagenet"):
        registry.write(entry())
    assert registry.find("imagenet").here


def test_a_beat_keeps_the_name():
    path = registry.write(entry(host="another"))
    os.utime(path, (time.time() - 3600,) * 2)
    registry.beat(entry())
    with pytest.raises(EngineError, match="is running on machine another"), registry.reserved("imagenet"):
        pass


def test_of_many_that_want_a_name_at_once_one_gets_it():
    won, told, start = [], [], threading.Barrier(8)

    def want():
        start.wait()
        try:
            with registry.reserved("imagenet"):
                won.append(1)
                done.wait(30)
        except EngineError as error:
            told.append(str(error))
            if len(told) == 7:
                done.set()

    done = threading.Event()
    threads = [threading.Thread(target=want) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and len(told) == 7 and all("is running already" in text for text in told)
    with registry.reserved("imagenet"):
        pass


def test_a_killed_server_does_not_hold_its_name():
    code = (
        "from budgetloader.service import registry; held = registry.reserved('imagenet'); held.__enter__();"
        "print('has it', flush=True); input()"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        process.stdout.readline()
        with pytest.raises(EngineError, match="is running already"), registry.reserved("imagenet"):
            pass
        process.kill()
        process.wait()
    with registry.reserved("imagenet"):
        pass


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "127.0.1.1", "127.255.255.254", "localhost"])
def test_every_loopback_address_is_the_loopback(host):
    assert own_address(host) == "127.0.0.1"


def test_a_name_that_means_a_loopback_address_is_the_loopback(monkeypatch):
    monkeypatch.setattr(registry.socket, "gethostbyname", lambda name: "127.0.1.1")  # as Debian's /etc/hosts says
    assert own_address("thismachine") == "127.0.0.1"
