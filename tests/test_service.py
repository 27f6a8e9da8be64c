"""The service as its users start it: real processes, one faulty thing at a time and all at once."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("ray")

from rich.progress import Progress
from service_trainer import private
from services import (
    MACHINES,
    MEMORY,
    SAMPLES,
    Process,
    Services,
    data,
    descendants,
    environment,
    service_processes,
    services,
)

from budgetloader.bench.data import prepare
from budgetloader.service import registry

__all__ = ["data", "environment", "services"]  # the fixtures


@pytest.fixture(scope="module")
def served(data, environment):
    """A service that several tests share."""
    found = Services(data, environment)
    found.serve("shared", "--metrics-port", "19464")
    yield found
    found.end()


@pytest.mark.parametrize(
    "asked",
    [
        {"schedule": "full@2"},
        {"schedule": "of:1,0.1,0.618,0.35", "batch_size": 64},
        {"schedule": "0.5@2", "batch_size": 17, "dtype": "float32", "seed": 5},
        {"schedule": "0.8@2", "dtype": "float16", "rank": 1, "world_size": 2},
    ],
)
def test_the_stream_is_the_private_loaders_hash_for_hash(served, asked):
    got, last = served.trainer("shared", **asked).hashes()
    assert got == private(served.data, **asked) and last["finished"]


def test_the_process_between_may_be_killed_again_and_again(served):
    trainer = served.trainer("shared", "full@3", step_seconds=0.06, seed=11)
    for step in ("[0, 5,", "[1, 20,"):
        trainer.wait_for(step)
        (bridge,) = [pid for pid, line in descendants(trainer.pid).items() if "budgetloader.service.bridge" in line]
        os.kill(bridge, signal.SIGKILL)
    rest, last = trainer.hashes()
    assert last["finished"] and rest == private(served.data, schedule="full@3", seed=11)[-len(rest) :]
    assert len(rest) == 39


def test_what_decodes_has_the_servers_own_priority(served):
    """Ray's default leaves its workers a thirtieth of a core that something else is busy on."""
    (server,) = [process for process in served.running if "serve" in process.args]
    kinds = "worker", "coordinator"
    pids = [pid for kind in kinds for pid in service_processes(server, kind)]
    assert len(pids) > 1
    assert {os.getpriority(os.PRIO_PROCESS, pid) for pid in pids} == {os.getpriority(os.PRIO_PROCESS, server.pid)}


def test_where_nothing_can_be_written_it_says_so(served, tmp_path):
    (tmp_path / "file").touch()
    deep = tmp_path / ("long" * 20)
    deep.mkdir()
    for variable, value, why in (
        (registry.FOLDER_VARIABLE, tmp_path / "file", f"set {registry.FOLDER_VARIABLE}"),
        ("TMPDIR", deep, "set TMPDIR to a shorter one"),
    ):
        command = [sys.executable, "-m", "budgetloader", "serve", str(served.data), "--name", "x", "--memory", MEMORY]
        environment = {**served.environment, variable: str(value)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and why in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not list(deep.iterdir())


def test_localhost_is_the_loopback(services):
    services.serve("local", "--host", "localhost")
    folder = Path(services.environment[registry.FOLDER_VARIABLE])
    assert json.loads((folder / "local.json").read_text())["node"] == "127.0.0.1"


def test_what_a_trainer_does_with_its_batches_is_its_own_affair(services):
    """One writes over its batches, which are the store's own memory, one keeps them, while the cap is reached."""
    services.serve("lent")
    asked = {"schedule": "full@5", "image_size": 128}
    writer = services.trainer("lent", **asked, scribble=True)
    keeper = services.trainer("lent", **asked, keep_every=9)
    expected = private(services.data, **asked)
    assert writer.hashes()[0] == expected
    got, last = keeper.hashes()
    assert got == expected and last["changed"] == []
    assert last["lent"], "the test would show nothing if batches were copied"


def test_a_lent_batch_outlives_the_process_between_and_the_cap(services):
    services.serve("orphan")
    asked = {"schedule": "full@6", "image_size": 128, "seed": 3}
    trainer = services.trainer("orphan", **asked, keep_every=12, step_seconds=0.02)
    trainer.wait_for("[0, 13,")
    (bridge,) = [pid for pid, line in descendants(trainer.pid).items() if "budgetloader.service.bridge" in line]
    os.kill(bridge, signal.SIGKILL)
    rest, last = trainer.hashes()
    assert rest == private(services.data, **asked)[-len(rest) :] and len(rest) == 166
    assert last["lent"] and last["changed"] == []


def test_a_trainer_takes_the_service_for_its_data(served, tmp_path):
    """budgetloader.bench.train: the same weights over the service as from the file."""
    shape = ("--network", "resnet20", "--schedule", "of:0.2,0.1", "--epochs", "2", "--image-size", "32")
    weights = []
    for source in ("service:shared", str(served.data)):
        command = [
            "-m",
            "budgetloader.bench.train",
            "--data",
            source,
            *shape,
            "--engine",
            "native",
            "--out",
            str(tmp_path / source[:3]),
        ]
        done = subprocess.run(
            [sys.executable, *command], env=served.environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        state = torch.load(tmp_path / source[:3] / "checkpoint.pt", weights_only=True)
        weights.append(state["trainer"]["model"])
    assert all(torch.equal(mine, weights[1][name]) for name, mine in weights[0].items())


def test_staggered_trainers_decode_what_one_does(services):
    services.serve("staggered")
    trainers = []
    for _ in range(4):
        trainers.append(services.trainer("staggered", "0.8@4", step_seconds=0.05))
        time.sleep(1)
    expected = private(services.data, schedule="0.8@4")
    assert all(trainer.hashes()[0] == expected for trainer in trainers)
    status = services.status("staggered")
    assert status["decoded"] == 4 * 24 * 48  # 4 epochs of ⌊0.8·30⌋ batches: no sample more
    assert status["emitted"] == 4 * status["decoded"] and not status["trainers"]


def test_trainers_of_different_ratios_decode_what_the_largest_does(services):
    services.serve("ratios")
    schedules = ("full@6", "0.8@6", "0.618@6", "R3@6")
    trainers = [services.trainer("ratios", s, step_seconds=0.02) for s in schedules]
    for schedule, trainer in zip(schedules, trainers, strict=True):
        assert trainer.hashes()[0] == private(services.data, schedule=schedule)
    assert services.status("ratios")["decoded"] == 6 * SAMPLES


def test_fifty_kills_change_no_bit_of_any_stream(services):
    """Workers, the coordinator and other trainers are killed at random while one trainer goes on, another one
    is stopped for a minute, and the cap is reached all the time."""
    server = services.serve("faulty", memory="90MB")
    asked = [
        {"schedule": "full@16", "image_size": 128, "batch_size": 48},
        {"schedule": "0.618@8", "image_size": 128, "batch_size": 32},
    ]
    survivors = [services.trainer("faulty", **a, step_seconds=0.25) for a in asked]
    for survivor in survivors:
        survivor.wait_for("connected")
    paused = survivors[1]
    paused.send_signal(signal.SIGSTOP)
    stopped_at = time.monotonic()
    rng = random.Random(0)
    kinds = ["worker"] * 32 + ["coordinator"] * 13 + ["trainer"] * 5
    for kind in rng.sample(kinds, len(kinds)):
        if kind == "trainer":
            victim = services.trainer("faulty", "full@8", image_size=128)
            victim.wait_for(rng.choice(("connected", "[0, 2,", "[1, 5,")))
            victim.kill()
        else:
            service_processes(server, kind)
            time.sleep(rng.uniform(0.2, 1.2))  # not always as it starts
            os.kill(rng.choice(service_processes(server, kind)), signal.SIGKILL)
        assert all(s.poll() is None for s in survivors), [
            (s.hashes()[1], s.error_text()) for s in survivors if s.poll()
        ]
    time.sleep(max(0.0, stopped_at + 60 - time.monotonic()))
    paused.send_signal(signal.SIGCONT)
    for survivor, a in zip(survivors, asked, strict=True):
        survivor.send_signal(signal.SIGUSR1)  # no pauses any more
        assert survivor.hashes()[0] == private(services.data, **a)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_the_server_ends_and_trainers_are_told(services, how):
    name = f"ending{int(how)}"
    server = services.serve(name)
    trainer = services.trainer(name, "full@100", step_seconds=0.05)
    trainer.wait_for("connected")
    below = descendants(server.pid)
    assert any("raylet" in line for line in below.values())
    session = json.loads((Path(services.environment[registry.FOLDER_VARIABLE]) / f"{name}.json").read_text())["session"]
    told = time.time()
    server.send_signal(how)
    _, last = trainer.hashes(seconds=60)
    assert f"service '{name}' is gone" in last["error"]
    assert last["at"] - told < 5 + (10 if how != signal.SIGKILL else 0)  # an orderly end takes a while itself
    server.wait(timeout=60)
    assert server.returncode == (-how if how == signal.SIGKILL else 0)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in below):
        time.sleep(0.2)
    left = {pid: line for pid, line in below.items() if Path(f"/proc/{pid}").exists()}
    assert not left
    assert not Path(session).exists()
    assert not list(Path("/dev/shm").glob("plasma*"))
    error = services.trainer(name, "full@1").hashes()[1]["error"]
    assert "there is no service" in error or "is gone" in error


def test_a_trainer_reconnects_to_a_new_server_and_goes_on(services):
    first = services.serve("again")
    trainer = services.trainer("again", "full@4", step_seconds=0.05, reconnect=30)
    trainer.wait_for("[0, 20,")
    first.kill()
    first.wait()
    services.serve("again")
    rest, last = trainer.hashes()
    assert last["finished"]
    assert rest == private(services.data, schedule="full@4")[21:]


def test_another_dataset_under_the_same_name_is_refused(services, tmp_path):
    options = {"evaluation": None, "folder": tmp_path, "images": 700, "seed": 0}
    prepare(None, **options, progress=Progress(disable=True), builtin="digits", image_size=32)
    first = services.serve("other")
    trainer = services.trainer("other", "full@40", step_seconds=0.05, reconnect=60)
    trainer.wait_for("[0, 5,")
    first.kill()
    first.wait()
    services.serve("other", data=tmp_path / "train.beton")
    errors = trainer.error_text()
    assert trainer.returncode == 1 and "ResumeError" in errors and "dataset" in errors


def test_a_corrupt_sample_is_named_or_replaced_as_by_a_private_loader(services, tmp_path):
    from conftest import damage

    copy = damage(services.data, tmp_path / "damaged.beton", samples=(100,))
    services.serve("corrupt", data=copy)
    got, _ = services.trainer("corrupt", "full@1", on_corrupt="replace").hashes()
    assert got == private(copy, schedule="full@1", on_corrupt="replace")
    errors = services.trainer("corrupt", "full@1").error_text()
    assert "CorruptSampleError" in errors and "sample 100 does not decode" in errors


def test_two_nodes_trainers_on_one_and_workers_on_the_other(services):
    server = services.serve("cluster", "--host", "127.0.0.2", python=MACHINES)
    entry = json.loads((Path(services.environment[registry.FOLDER_VARIABLE]) / "cluster.json").read_text())
    token = Path(services.environment[registry.FOLDER_VARIABLE]) / "token"
    token.write_text(entry["token"])
    elsewhere = {**services.environment, registry.FOLDER_VARIABLE: str(token.parent / "elsewhere")}
    command = (*MACHINES, "join", entry["address"], "--name", "cluster", "--token-file", str(token))
    node = Process(*command, "--host", "127.0.0.3", "--memory", "100MB", environment=elsewhere)
    services.running.append(node)
    node.wait_for("joined")
    far = Services(services.data, elsewhere)
    try:
        got, _ = far.trainer("cluster", "0.618@3").hashes()
        assert got == private(services.data, schedule="0.618@3")
        workers = [p for p, line in descendants(node.pid).items() if line.startswith("ray::_decode")]
        assert not workers and descendants(server.pid)
    finally:
        far.end()


def test_a_wrong_token_opens_nothing(services):
    services.serve("locked")
    folder = Path(services.environment[registry.FOLDER_VARIABLE])
    entry = json.loads((folder / "locked.json").read_text())
    assert (folder / "locked.json").stat().st_mode & 0o077 == 0
    (folder / "forged.json").write_text(json.dumps({**entry, "name": "forged", "token": "0" * 64}))
    began = time.monotonic()
    _, last = services.trainer("forged", "full@1").hashes()
    assert "does not answer to this token" in last["error"]
    assert time.monotonic() - began < 15  # imports included; the refusal itself takes milliseconds


def test_it_listens_at_the_loopback_alone(served):
    pids = {*descendants(served.running[0].pid), served.running[0].pid}
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                target = os.readlink(link)
            except OSError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                listening.append(fields[1])
    loopback = ("0100007F:", "00000000000000000000000001000000:", "0000000000000000FFFF00000100007F:")
    assert listening and all(address.startswith(loopback) for address in listening), listening


def test_metrics_and_top_show_the_trainers(served):
    import urllib.request

    trainer = served.trainer("shared", "full@50", step_seconds=0.05, label="watched")
    trainer.wait_for("[0, 3,")
    text = urllib.request.urlopen("http://127.0.0.1:19464/metrics", timeout=20).read().decode()
    emitted = r'reduced_sampling_trainer_samples_emitted_total{id="\w+",service="shared",trainer="watched"}'
    assert re.search(emitted, text)
    assert 'reduced_sampling_samples_decoded_total{service="shared"}' in text
    command = [sys.executable, "-m", "budgetloader", "top", "shared", "--readings", "1"]
    environment = {**served.environment, "COLUMNS": "140"}
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60).stdout
    assert "watched" in shown and "starved" in shown and "samples decoded" in shown
    trainer.kill()


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--name", "no/name"], "'no/name'"),
        (["--name", "shared"], "is running already"),
        (["--name", "x", "--memory", "1MB"], "too little"),
        (["--name", "x", "--workers", "0"], "workers 0"),
        (["--name", "x", "--memory", "900TB"], "more than is free"),
        (["--name", "x", "--host", "no.such.host.invalid"], "'no.such.host.invalid' is not known"),
        (["--name", "x", "--host", "0.0.0.0"], "'0.0.0.0' is no single address"),
        (["--name", "x", "--host", "192.0.2.1"], "'192.0.2.1' (192.0.2.1) is not this machine"),
        (["--name", "x", "--metrics-port", "70000"], "--metrics-port 70000"),
    ],
)
def test_bad_calls_are_one_line(served, more, why):
    command = [sys.executable, "-m", "budgetloader", "serve", str(served.data), *more]
    done = subprocess.run(command, env=served.environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and why in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_on_a_device_bytes_are_moved_and_normalised_there(served):
    code = """if True:
        import torch
        from budgetloader.bench.fake_cuda import FakeCUDA
        from budgetloader import Schedule, connect
        shape = {"batch_size": 48, "image_size": 24, "schedule": Schedule.parse("full@1")}
        shape |= {"dtype": "float16", "layout": "contiguous"}
        with FakeCUDA() as fake, connect("shared", device="cuda", **shape) as ours, connect("shared", **shape) as same:
            images, labels = next(iter(ours))
            print(images.device, images.dtype, tuple(images.shape), images.is_contiguous(), labels.device)
            print(torch.equal(images.cpu(), next(iter(same))[0]), fake.order.faults)
    """
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=served.environment, capture_output=True, text=True, timeout=60)
    shown = "cuda:0 torch.float16 (48, 3, 24, 24) True cuda:0\nTrue []"
    assert done.stdout.strip() == shown, done.stderr[-2000:]


def test_a_batch_that_the_memory_could_never_hold_is_refused(served):
    _, last = served.trainer("shared", "full@1", image_size=1024).hashes()
    assert "batches of 48 images of 1024 pixels" in last["error"] and "--memory 3452MB" in last["error"]


def test_a_wrong_name_says_which_there_are(served):
    _, last = served.trainer("imagnet", "full@1").hashes()
    assert "no service 'imagnet'" in last["error"] and "shared" in last["error"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"engine": "dali"}, "engine='dali'"),
        ({"workers": 4}, "workers=4"),
        ({"train": False}, "train=False"),
        ({"sampling": "cyclic"}, "sampling='cyclic'"),
    ],
)
def test_what_cannot_be_shared_is_said(options, why):
    from budgetloader import EngineError, connect

    with pytest.raises(EngineError, match=why):
        connect("any", batch_size=8, image_size=8, **options)
