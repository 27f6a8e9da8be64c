"""The service as its users start it: real processes, one faulty thing at a time and all at once."""

import functools
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("ray")

import service_trainer
from service_trainer import digest, hashes
from services import (
    MACHINES,
    MEMORY,
    ROOT,
    SAMPLES,
    Process,
    bridges,
    descendants,
    ends,
    gone,
    service_processes,
)

import budgetloader
from budgetloader import CorruptSampleError, EngineError, Schedule, ServiceGoneError
from budgetloader.cli import main
from budgetloader.service import registry
from budgetloader.service.client import status
from budgetloader.service.failures import ATTEMPTS

private = functools.lru_cache(maxsize=None)(service_trainer.private)


@pytest.mark.parametrize(
    ("schedule", "options"),
    [
        ("full@2", {}),
        ("of:1,0.1,0.618,0.35", {"batch_size": 64}),
        ("0.5@2", {"batch_size": 17, "dtype": "float32", "seed": 5}),
        ("0.8@2", {"dtype": "float16", "rank": 1, "world_size": 2}),
    ],
)
def test_the_stream_is_the_private_loaders_hash_for_hash(served, schedule, options):
    assert served.hashes("shared", schedule, **options) == private(served.data, schedule, **options)


def test_the_bridge_may_be_killed_again_and_again(served):
    got = []
    with served.connect("shared", "full@2", seed=11) as batches:
        for line in hashes(batches):
            got.append(line)
            if line[:2] in ((0, 5), (1, 20)):
                (bridge,) = bridges(os.getpid())
                os.kill(bridge, signal.SIGKILL)
    assert got == private(served.data, "full@2", seed=11)


def test_the_epochs_loop_over_a_service_goes_on_where_an_interrupt_left_it(served):
    """As a private loader's, see test_loader_epochs.py."""
    got = []
    with served.connect("shared", "0.5@2") as batches:
        for stop in (3, 1, None):
            for count, (epoch, line) in enumerate(epochs_of(batches), start=1):
                got.append((epoch, *line))
                if count == stop:
                    break
            if stop:
                next(iter(batches))  # a look at what comes next
    assert got == private(served.data, "0.5@2")


def epochs_of(batches):
    for epoch in batches.epochs():
        for images, labels, ids in batches:
            yield epoch, (batches.step - 1, digest(images, labels, ids))


def test_what_decodes_has_the_servers_own_priority(served):
    """Ray's default leaves its workers a thirtieth of a core that something else is busy on."""
    pids = [pid for kind in ("worker", "coordinator") for pid in service_processes(served.server, kind)]
    assert len(pids) > 1
    priorities = {os.getpriority(os.PRIO_PROCESS, pid) for pid in pids}
    assert priorities == {os.getpriority(os.PRIO_PROCESS, served.server.pid)}


def test_where_nothing_can_be_written_it_says_so(served, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    deep = tmp_path / ("long" * 20)
    deep.mkdir()
    command = ["serve", str(served.data), "--name", "x", "--memory", MEMORY]
    with monkeypatch.context() as patch:
        patch.setenv(registry.FOLDER_VARIABLE, str(tmp_path / "file"))
        assert main(command) == 1
    assert re.fullmatch(rf"error: .*set {registry.FOLDER_VARIABLE}.*\n", capsys.readouterr().err)
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    assert main(command) == 1
    assert re.fullmatch(r"error: .*set TMPDIR to a shorter one\n", capsys.readouterr().err)
    assert not list(deep.iterdir())


def test_localhost_is_the_loopback(served):
    assert served.entry("shared")["node"] == "127.0.0.1"


def test_what_a_trainer_does_with_its_batches_is_its_own_affair(served):
    """One writes over its batches, which are the store's own memory, another one keeps them and loses its bridge, while
    the cap is reached."""
    options = {"image_size": 128, "seed": 3}
    expected, kept, got = private(served.data, "full@4", **options), {}, ([], [])
    with served.connect("shared", "full@4", **options) as keeper:
        (bridge,) = bridges(os.getpid())
        with served.connect("shared", "full@4", **options) as writer:
            for lines in zip(hashes(keeper, kept, keep_every=9), hashes(writer, scribble=True), strict=True):
                for found, line in zip(got, lines, strict=True):
                    found.append(line)
                if lines[0][:2] == (0, 13):
                    os.kill(bridge, signal.SIGKILL)
        assert "/plasma" in Path("/proc/self/maps").read_text(), "the test would show nothing if batches were copied"
    assert got[0] == expected and got[1] == expected
    assert len(kept) == 16 and [line for line, batch in kept.items() if digest(*batch) != line[2]] == []


def test_a_trainer_takes_the_service_for_its_data(served, tmp_path):
    """budgetloader.bench.train: the same weights over the service as from the file."""
    shape = ("--network", "resnet20", "--schedule", "of:0.2,0.1", "--epochs", "2", "--image-size", "32")
    folders = {"service:shared": tmp_path / "service", str(served.data): tmp_path / "file"}
    trainings = []
    for source, folder in folders.items():
        command = (
            "-m",
            "budgetloader.bench.train",
            "--data",
            source,
            *shape,
            "--engine",
            "native",
            "--out",
            str(folder),
        )
        trainings.append(Process(*command, environment=served.environment))
        served.running.append(trainings[-1])
    for training in trainings:
        errors = training.error_text(seconds=200)
        assert training.returncode == 0, errors
    one, other = (torch.load(f / "checkpoint.pt", weights_only=True)["trainer"]["model"] for f in folders.values())
    assert one and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_staggered_trainers_of_different_ratios_decode_what_the_largest_does(served):
    schedules, seed = ("full@6", "0.8@6", "0.8@6", "0.618@6", "R3@6"), 21
    before = status("shared")
    loaders, streams, got = [], [], [[] for _ in schedules]
    try:
        while len(streams) < len(schedules) or any(stream is not None for stream in streams):
            if len(streams) < len(schedules):
                loaders.append(served.connect("shared", schedules[len(streams)], seed=seed, label=f"n{len(streams)}"))
                streams.append(hashes(loaders[-1]))
            for _ in range(7):
                for number, stream in enumerate(streams):
                    line = next(stream, None) if stream is not None else None
                    streams[number] = stream if line is not None else None
                    got[number] += [line] if line is not None else []
    finally:
        for loader in loaders:
            loader.close()
    for schedule, lines in zip(schedules, got, strict=True):
        assert lines == private(served.data, schedule, seed=seed)
    after = status("shared")
    assert after.decoded - before.decoded == 6 * SAMPLES  # no sample more
    assert after.emitted - before.emitted == sum(len(lines) * 48 for lines in got)
    assert not [trainer for trainer in after.trainers if re.fullmatch(r"n\d", trainer.name)]


# python -m budgetloader.bench.kill_matrix kills each process of a service, one at a time, as often as it is told.
# Three workers: a fourth one that dies at the same block ends the block.
KILLS = ["worker"] * (ATTEMPTS - 1) + ["coordinator"] * 4 + ["trainer"]


def test_kills_all_at_once_change_no_bit_of_any_stream_and_sigterm_leaves_nothing(services):
    """Workers, the coordinator and other trainers are killed at random while one trainer goes on, another one is
    stopped, and the cap is reached all the time."""
    server = services.serve("kills", memory="90MB")
    jobs = [
        ("full@8", {"image_size": 128, "batch_size": 48}),
        ("0.618@4", {"image_size": 128, "batch_size": 32}),
    ]
    survivors = [services.trainer("kills", schedule, **job, step_seconds=0.25) for schedule, job in jobs]
    for survivor in survivors:
        survivor.wait_for("connected")
    survivors[1].send_signal(signal.SIGSTOP)
    rng = random.Random(0)
    for kind in rng.sample(KILLS, len(KILLS)):
        if kind == "trainer":
            victim = services.trainer("kills", "full@8", image_size=128)
            victim.wait_for(rng.choice(("connected", "[0, 2,", "[1, 5,")))
            victim.kill()
        else:
            service_processes(server, kind)
            time.sleep(rng.uniform(0.1, 0.8))  # not always as it starts
            os.kill(rng.choice(service_processes(server, kind)), signal.SIGKILL)
        assert all(s.poll() is None for s in survivors), [
            (s.hashes()[1], s.error_text()) for s in survivors if s.poll()
        ]
    survivors[1].send_signal(signal.SIGCONT)
    for survivor, (schedule, job) in zip(survivors, jobs, strict=True):
        survivor.send_signal(signal.SIGUSR1)  # no pauses any more
        assert survivor.hashes()[0] == private(services.data, schedule, **job)
    assert ends(services, server, signal.SIGTERM) < 20  # an orderly end takes a while itself
    assert server.returncode == 0


def test_a_trainer_reconnects_to_a_new_server_and_goes_on(services, monkeypatch, capsys):
    """As examples/reconnect.py does it: no batch is left out, and none comes twice."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import reconnect

    schedule, taken, restarts = Schedule.parse("full@2"), [], []
    with budgetloader.BudgetLoader(
        services.data, schedule=schedule, batch_size=48, image_size=24, with_ids=True
    ) as own:
        expected = [(epoch, ids.tolist()) for epoch in range(2) for _, _, ids in own]
    item, first = budgetloader.BudgetLoader._item, services.serve("again")
    below = descendants(first.pid)

    def recorded(loader, batch):
        taken.append((batch.plan.epoch, batch.shown.tolist()))
        if len(taken) == 35:
            first.kill()
            first.wait()
            restarts.append(threading.Thread(target=services.serve, args=("again",)))
            restarts[0].start()
        return item(loader, batch)

    monkeypatch.setattr(budgetloader.BudgetLoader, "_item", recorded)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 24 * 24, 10))
    reconnect.train(network, "again", schedule, batch_size=48, image_size=24)
    assert taken == expected
    assert "service 'again' is gone" in capsys.readouterr().out
    assert gone(below)


def test_a_corrupt_sample_is_named_or_replaced_and_a_file_that_is_cut_short_is_an_error(services, tmp_path):
    from conftest import damage

    copy = damage(services.data, tmp_path / "damaged.beton", samples=(100,))
    server = services.serve("damaged", data=copy)
    options = {"on_corrupt": "replace"}
    assert services.hashes("damaged", "full@1", **options) == private(copy, "full@1", **options)
    with pytest.raises(CorruptSampleError, match="sample 100 does not decode") as error:
        services.hashes("damaged", "full@1")
    assert error.value.sample == 100
    os.truncate(copy, copy.stat().st_size // 2)
    with pytest.raises(EngineError, match=r"truncated or damaged|cut short"):
        services.hashes("damaged", "0.1@1", image_size=20, **options)
    with pytest.raises(EngineError, match=r"was cut short or written to while it was in use|truncated"):
        services.hashes("damaged", "full@1", seed=5)
    assert ends_in_order(services, server)


def ends_in_order(services, server):
    """Whether Ctrl-C ends a server whose file is damaged, with nothing left behind."""
    below, session = descendants(server.pid), Path(services.entry("damaged")["session"])
    server.send_signal(signal.SIGINT)
    server.wait(timeout=60)
    return (
        server.returncode == 0 and gone(below) and not session.exists() and not list(services.folder.glob("damaged.*"))
    )


def test_two_nodes_trainers_on_one_and_workers_on_the_other(services, monkeypatch):
    server = services.serve("cluster", "--host", "127.0.0.2", python=MACHINES)
    entry = services.entry("cluster")
    token = services.folder / "token"
    token.write_text(entry["token"])
    elsewhere = {**services.environment, registry.FOLDER_VARIABLE: str(services.folder / "elsewhere")}
    command = (*MACHINES, "join", entry["address"], "--name", "cluster", "--token-file", str(token))
    node = Process(*command, "--host", "127.0.0.3", "--memory", "100MB", environment=elsewhere)
    services.running.append(node)
    node.wait_for("joined")
    monkeypatch.setenv(registry.FOLDER_VARIABLE, elsewhere[registry.FOLDER_VARIABLE])
    assert services.hashes("cluster", "0.618@2") == private(services.data, "0.618@2")
    workers = [p for p, line in descendants(node.pid).items() if line.startswith("ray::_decode")]
    assert not workers and descendants(server.pid)


def test_a_wrong_token_opens_nothing(served):
    entry = served.entry("shared")
    assert (served.folder / "shared.json").stat().st_mode & 0o077 == 0
    forged = served.folder / "forged.json"
    forged.write_text(json.dumps({**entry, "name": "forged", "token": "0" * 64}))
    try:
        began = time.monotonic()
        with pytest.raises(EngineError, match="does not answer to this token"):
            served.connect("forged", "full@1")
        assert time.monotonic() - began < 15  # imports included; the refusal itself takes milliseconds
    finally:
        forged.unlink()


def test_it_listens_at_the_loopback_alone(served):
    pids = {*descendants(served.server.pid), served.server.pid}
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

    with served.connect("shared", "full@2", label="watched") as batches:
        stream = iter(batches)
        for _ in range(3):
            next(stream)
        url = f"http://127.0.0.1:{served.metrics_port}/metrics"
        text = urllib.request.urlopen(url, timeout=20).read().decode()
        emitted = r'budgetloader_trainer_samples_emitted_total{id="\w+",service="shared",trainer="watched"}'
        assert re.search(emitted, text)
        assert 'budgetloader_samples_decoded_total{service="shared"}' in text
        command = [sys.executable, "-m", "budgetloader", "top", "shared", "--readings", "1"]
        environment = {**served.environment, "COLUMNS": "140"}
        shown = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60).stdout
        assert "watched" in shown and "starved" in shown and "samples decoded" in shown


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
def test_bad_calls_are_one_line(served, capsys, more, why):
    assert main(["serve", str(served.data), *more]) == 1
    shown = capsys.readouterr().err
    assert why in shown and len(shown.strip().splitlines()) == 1


def test_on_a_device_bytes_are_moved_and_normalised_there(served):
    from budgetloader.bench.fake_cuda import FakeCUDA

    options = {"dtype": "float16", "layout": "contiguous", "with_ids": False}
    with FakeCUDA() as fake, served.connect("shared", "full@1", device="cuda", **options) as ours:
        images, labels = next(iter(ours))
        assert (str(images.device), str(labels.device), images.dtype) == ("cuda:0", "cuda:0", torch.float16)
        assert tuple(images.shape) == (48, 3, 24, 24) and images.is_contiguous()
        with served.connect("shared", "full@1", **options) as same:
            assert torch.equal(images.cpu(), next(iter(same))[0])
        assert fake.order.faults == []


def test_a_batch_that_the_memory_could_never_hold_is_refused(served):
    with pytest.raises(EngineError, match=r"batches of 48 images of 1024 pixels need .* --memory 3452MB"):
        served.connect("shared", "full@1", image_size=1024)


def test_a_wrong_name_says_which_there_are(served):
    with pytest.raises(ServiceGoneError, match=r"no service 'imagnet' \(running: .*shared"):
        served.connect("imagnet", "full@1")


def test_a_trainer_that_does_not_close_leaves_no_bridge(served):
    batches = served.connect("shared", "full@1")
    next(iter(batches))
    below = bridges(os.getpid())
    batches.close()
    batches.close()
    assert len(below) == 1 and gone(below, seconds=30)
