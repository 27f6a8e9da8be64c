"""`budgetloader train` as a user starts it: killed, resumed, with several ranks, with a network of one's own."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest
import torch
from conftest import ROOT

from budgetloader import BudgetLoader, cli
from budgetloader.bench.stores import free_port
from budgetloader.training import network_of

NETWORK = """
from torch import nn

def build(classes):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(392, classes)
    )
"""
# 1,440 digits in batches of 40: 36, of which 0.618 are 22 and 0.35 are 12. Epochs differ in length.
SMALL = ["--data", "digits", "--network", "mynet:build", "--image-size", "16", "--batch-size", "40", "--workers", "1"]
SMALL += ["--schedule", "of:1,0.618,0.35*2", "--epochs", "4", "--learning-rate", "0.02"]
SCHEDULES = ["full@2", "0.618@2", "of:1,0.1,0.35"]
# Writes the ids of whole trainings and of the rest of some, so that one start of the processes serves all schedules.
IDS = """
import json, sys, torch
from torch import distributed
from budgetloader import BudgetLoader, Schedule

def take(schedule, state=None):
    options = {"schedule": Schedule.parse(schedule), "batch_size": 24, "image_size": 16, "workers": 1}
    seen, after = [], None
    with BudgetLoader(sys.argv[1], with_ids=True, **options) as batches:
        if state is not None:
            batches.load_state_dict(state)
        for epoch in range(batches.epoch, batches.schedule.epochs):
            for _, _, ids in batches:
                ones = torch.ones(1)
                distributed.all_reduce(ones)  # hangs unless every rank has as many batches
                seen.append((epoch, ids.tolist()))
                if len(seen) == 5:
                    after = batches.state_dict()
    return seen, after

distributed.init_process_group("gloo")
states = json.loads(sys.argv[3])
made = {}
for schedule in states:
    whole, after = take(schedule)
    rest, _ = take(schedule, states[schedule] or after)
    made[schedule] = {"whole": whole, "rest": rest, "after": after}
with open(f"{sys.argv[2]}.{distributed.get_rank()}", "w") as file:
    json.dump(made, file)
distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("train")
    (place / "mynet.py").write_text(NETWORK)
    (place / "ids.py").write_text(IDS)
    return place


def start(place, *more, launcher=("-m", "budgetloader", "train"), **variables):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", **variables}
    command = [sys.executable, *launcher, *more]
    return subprocess.Popen(
        command, cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def main(arguments):
    return cli.main(["train", *arguments])


def finish(process):
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


def weights(out):
    state = torch.load(out / "checkpoint.pt", weights_only=True)["trainer"]["model"]
    return torch.cat([value.double().flatten() for value in state.values()])


@pytest.fixture(scope="module")
def reference(place):
    output = finish(start(place, *SMALL, "--out", "whole", "--checkpoint-steps", "1"))
    assert "top-1" in output
    return weights(place / "whole")


def test_the_log_has_the_budget_and_the_accuracy(place, reference):
    rows = [json.loads(line) for line in (place / "whole" / "log.jsonl").read_text().splitlines()]
    assert [row["batches"] for row in rows] == [36, 22, 12, 12]
    assert rows[-1]["top1"] > 0.2 and rows[-1]["loss"] < rows[0]["loss"]


@pytest.mark.long
def test_killed_in_mid_epochs_and_resumed_it_ends_with_the_same_bits(place, reference):
    out = place / "killed"
    for at in (20, 62):
        process = start(place, *SMALL, "--out", out.name, "--checkpoint-steps", "1")
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            time.sleep(0.02)
            try:
                state = torch.load(out / "checkpoint.pt", weights_only=True)
            except (FileNotFoundError, RuntimeError):
                continue
            done = sum(r["batches"] for r in state["history"]["records"])
            done += len(state["under_way"]["sizes"]) if state["under_way"] else 0
            if done >= at:
                break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it was over before it could be killed"
    assert "trained" in finish(start(place, *SMALL, "--out", out.name, "--checkpoint-steps", "1"))
    assert torch.equal(weights(out), reference)


@pytest.mark.long
def test_ctrl_c_writes_a_checkpoint_and_the_same_command_goes_on(place, reference):
    out = place / "interrupted"
    process = start(place, *SMALL, "--out", out.name)
    for line in process.stdout:
        if "epoch 1/4:" in line:
            break
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "goes on" in output
    finish(start(place, *SMALL, "--out", out.name))
    assert torch.equal(weights(out), reference)


def torchrun(ranks):
    return ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks))


@pytest.mark.long
def test_two_ranks_train_and_one_goes_on(place):
    out = place / "two"
    finish(start(place, "-m", "budgetloader", "train", *SMALL, "--out", out.name, launcher=torchrun(2)))
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [(row["batches"], row["images"]) for row in rows] == [(36, 1440), (22, 880), (12, 480), (12, 480)]
    assert rows[-1]["top1"] > 0.2  # of all 357 held-out digits, whatever the number of ranks
    assert "trained" in finish(start(place, *SMALL, "--out", out.name))


def finish_ranks(ranks, place, *command):
    """As torchrun starts them, without its own imports."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)}
    started = [start(place, launcher=command, RANK=str(r), LOCAL_RANK=str(r), **address) for r in range(ranks)]
    for process in started:
        finish(process)


@pytest.fixture(scope="module")
def ids_of(place, reference, tmp_path_factory):
    """By number of ranks and schedule: the batches' (epoch, ids of all ranks), of whole trainings and after 5 batches.

    Of 357 digits in batches of 24: 15, the last of 21. What is resumed stopped on two ranks.
    """
    beton, made, states = place / "whole" / "data" / "val.beton", {}, dict.fromkeys(SCHEDULES)
    for ranks in (2, 1, 4):
        prefix = tmp_path_factory.mktemp("ids") / str(ranks)
        finish_ranks(ranks, place, "ids.py", str(beton), str(prefix), json.dumps(states))
        parts = [json.loads(prefix.with_suffix(f".{rank}").read_text()) for rank in range(ranks)]
        for schedule, kind in itertools.product(SCHEDULES, ("whole", "rest")):
            of_ranks = [part[schedule][kind] for part in parts]
            assert len({len(batches) for batches in of_ranks}) == 1
            together = zip(*of_ranks, strict=True)
            made[ranks, schedule, kind] = [(b[0][0], [i for _, ids in b for i in ids]) for b in together]
        if ranks == 2:
            states = {schedule: parts[0][schedule]["after"] for schedule in SCHEDULES}
    return made


@pytest.mark.long
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_ranks_ids_together_are_the_single_processs(ids_of, schedule, ranks):
    alone = ids_of[1, schedule, "whole"]
    for (epoch, mine), (other_epoch, whole) in zip(ids_of[ranks, schedule, "whole"], alone, strict=True):
        assert epoch == other_epoch and mine[: len(whole)] == whole
        assert set(mine) == set(whole)  # a short last batch is filled up with its own samples


@pytest.mark.long
@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_any_number_of_ranks_goes_on_where_two_stopped(ids_of, schedule, ranks):
    rest, alone = ids_of[ranks, schedule, "rest"], ids_of[1, schedule, "whole"]
    assert [(epoch, set(batch)) for epoch, batch in rest] == [(epoch, set(batch)) for epoch, batch in alone[5:]]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--network", "nothing"], "'nothing' is none of"),
        (["--network", "no_such_module:f"], "no_such_module"),
        (["--network", "json:nothing"], "nothing"),
        (["--schedule", "R9"], "'R9'"),
        (["--epochs", "0"], "--epochs 0"),
        (["--image-size", "0"], "image_size '0'"),
        (["--image-size", "16@3", "--epochs", "4"], "is for 3 epochs, and the schedule has 4"),
        (["--device", "cuda"], "GPU"),
        (["--data", "/nonexistent"], "does not exist"),
        (["--data", "s3://bucket/train.beton"], "s3://bucket/train.beton is an address"),
    ],
)
def test_bad_input_is_one_line(options, why, tmp_path, capsys):
    base = ["--data", "digits", "--network", "resnet20", "--image-size", "16", "--out", str(tmp_path / "o")]
    assert main([*base, *options]) == 1
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1 and errors[0].startswith("error: ") and why in errors[0]


def test_too_few_classes_and_a_wrong_image_size_are_one_error_and_leave_the_checkpoint(place, reference, capsys):
    before = (place / "whole" / "checkpoint.pt").read_bytes()
    arguments = ["--data", "digits", "--image-size", "20", "--out", str(place / "whole2"), "--epochs", "1"]
    sys.path.insert(0, str(place))
    try:
        assert main([*arguments, "--network", "mynet:build"]) == 1
    finally:
        sys.path.remove(str(place))
    assert "does not take images of shape" in capsys.readouterr().err
    assert (place / "whole" / "checkpoint.pt").read_bytes() == before


def test_every_network_is_there():
    for name in ("resnet20", "resnet32", "resnet56", "mobilenet_v2", "crnet_cb", "crnet_cib"):
        assert network_of(name)(classes=3)(torch.rand(2, 3, 32, 32)).shape == (2, 3)


@pytest.mark.skipif(find_spec("budgetloader.cursor") is None, reason="this loader resumes no longer schedule")
def test_a_run_goes_on_as_one_of_more_epochs(place, tmp_path, capsys):
    small = ["--data", "digits", "--network", "resnet20", "--image-size", "16", "--batch-size", "240"]
    small += ["--schedule", "0.35", "--workers", "1", "--out", str(tmp_path)]
    assert main([*small, "--epochs", "1"]) == 0 and main([*small, "--epochs", "2"]) == 0
    assert "going on from a run of 1 epochs as one of 2" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["batches"] for row in rows] == [2, 2]


def test_images_grow_from_epoch_to_epoch(tmp_path, monkeypatch):
    seen = []

    class Watched(BudgetLoader):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            seen.append((options.get("train", True), list(self.image_sizes)))

    monkeypatch.setattr("budgetloader.training.BudgetLoader", Watched)
    arguments = ["--data", "digits", "--network", "resnet20", "--batch-size", "480", "--epochs", "2", "--workers", "1"]
    out = ["--schedule", "0.35", "--out", str(tmp_path)]
    assert main([*arguments, *out, "--image-size", "8@1,16"]) == 0
    assert main([*arguments, *out, "--image-size", "8@1,16", "--val-size", "24"]) == 0
    assert seen == [(True, [8, 16]), (False, [16]), (True, [8, 16]), (False, [24])]
