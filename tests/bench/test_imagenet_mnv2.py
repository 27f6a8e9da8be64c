"""The main job on a small scale, as a user starts it."""

import csv
import json
import re
import signal
import subprocess
import sys

import pytest

from budgetloader import Schedule, runs
from budgetloader.bench.imagenet_mnv2 import PRESETS, SETTINGS, main, parse
from budgetloader.bench.settings import cells

SMALL = ["--image-size", "16", "--width", "0.1", "--batch-size", "8", "--epochs", "3", "--workers", "1"]
SMALL += ["--extra-rounds", "1"]


def run(out, data, *more):
    return main([*SMALL, "--data", str(data), "--out", str(out), *more])


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    assert run(out, folder, "--settings", "0.618", "of:1,0.5*2", "short:0.618") == 0
    return out


def test_the_record_has_every_setting_with_what_the_design_asks_for(finished):
    results = json.loads((finished / "results.json").read_text())
    rows = {row["setting"]: row for row in results["settings"]}
    assert list(rows) == ["full", "0.618", "of:1,0.5*2", "short:0.618"] and results["finished"]
    assert results["samples"] == 56  # of the 70 images, one of each of the 14 classes is held out
    assert [row["batches"] for row in rows.values()] == [21, 12, 13, 12]
    assert rows["short:0.618"]["samples"] == rows["0.618"]["samples"] == 96
    for row in rows.values():
        assert row["train_seconds"] > 0 and row["end_to_end_seconds"] > row["train_seconds"]
        assert 0 <= row["top1"] <= row["top5"] <= 1 and row["images_per_second"] > 0
        assert Schedule.parse(row["schedule"]).epochs == row["epochs"]
    assert rows["full"]["ratio_measured"] == 1 == rows["full"]["ratio_theorem"] == rows["full"]["ratio_corollary"]
    assert [row["conclusive"] for row in rows.values()] == [True, False, False, False]  # three rounds are too few
    assert rows["0.618"]["ratio_corollary"] == pytest.approx(0.618)
    assert rows["of:1,0.5*2"]["ratio_corollary"] == pytest.approx(2 / 3)
    assert {"cpu", "git", "versions", "date", "cores"} <= set(results["environment"])
    assert str(finished) not in json.dumps(results)  # a record names no path of the machine
    assert results["command"].startswith("python -m budgetloader.bench.imagenet_mnv2 --image-size 16")
    assert results["data_set"] is None and results["options"]["torch_threads"] == 1


def test_every_batchs_time_is_in_the_record_and_so_are_slices_of_timing_alone(finished):
    rows = json.loads((finished / "results.json").read_text())["settings"]
    for row in rows:
        (seed,) = row["seeds"]
        for record in seed["epoch_records"]:
            assert len(record["batch_seconds"]) == record["batches"]
            assert sum(record["batch_seconds"]) + record["first_wait_seconds"] == pytest.approx(
                record["train_seconds"], abs=1e-3
            )
        assert bool(seed["timed"]) == (row["setting"] != "full")
        assert all(mine > 0 and full > 0 for mine, full in seed["timed"])


def test_boundaries_are_measured_for_every_setting(finished):
    rows = json.loads((finished / "results.json").read_text())["boundary"]
    assert {row["trainer"] for row in rows} == {"training", "taking only"}
    assert {"full", "0.618", "epochs of 2 batches"} <= {row["epochs_of"] for row in rows}


def test_the_csv_and_the_pictures_are_there(finished):
    with open(finished / "results.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 and float(rows[1]["ratio_measured"]) > 0
    for name in ("time_ratio", "batch_times", "top1_against_time", "top5_against_time"):
        assert (finished / f"{name}.png").stat().st_size > 10_000


@pytest.mark.long
def test_a_finished_run_is_shown_again_and_what_is_not_conclusive_has_no_bare_number(finished, folder, capsys):
    before = json.loads((finished / "results.json").read_text())["settings"]
    assert run(finished, folder, "--settings", "0.618", "of:1,0.5*2", "short:0.618") == 0
    after = json.loads((finished / "results.json").read_text())["settings"]
    assert [r["train_seconds"] for r in before] == [r["train_seconds"] for r in after]
    # Coordinates in pictures are numbers too.
    report = re.sub(r"<svg.*?</svg>", "", (finished / "report.html").read_text(), flags=re.S)
    shown = capsys.readouterr().out + report
    assert shown.count("not conclusive here") > 5 and f"{after[1]['ratio_measured']:.4f}" not in shown
    assert "say nothing about CIFAR or ImageNet" in shown and "printed" not in shown.lower().replace("printed in", "")


def test_a_folder_of_a_run_refuses_other_options(finished, folder, capsys):
    assert run(finished, folder, "--seed", "1") == 1
    assert "seed=0, not 1" in capsys.readouterr().err


@pytest.mark.long
def test_an_interrupted_run_keeps_what_it_measured_and_goes_on(folder, tmp_path):
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "budgetloader.bench.imagenet_mnv2",
        *SMALL,
        "--data",
        str(folder),
        "--out",
        str(out),
    ]
    command += ["--settings", "0.5", "--epochs", "30", "--learning-rate", "0.001", "--boundary", "off"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if "epoch 4/30" in line:
                break
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and "goes on from there" in output + errors
    rows = json.loads((out / "results.json").read_text())["settings"]
    assert rows[0]["epochs"] >= 3 and (out / "results.csv").exists()
    first = rows[0]["seeds"][0]["epoch_records"][0]
    assert main(command[3:]) == 0
    resumed = json.loads((out / "results.json").read_text())
    assert resumed["finished"] and resumed["settings"][0]["epochs"] == 30
    assert resumed["settings"][0]["seeds"][0]["epoch_records"][0] == first  # it was not measured again


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--settings", "2"], "outside (0, 1]"),
        (["--settings", "0.001"], "zero batches"),
        (["--settings", "R3", "--epochs", "2"], "do not fit"),
        (["--batch-size", "0"], "--batch-size 0"),
        (["--settings", "short"], "short:R1_0.618"),
        (["--busy", "-1"], "--busy -1"),
        (["--data", "/nonexistent"], "does not exist"),
        (["--device", "cuda:99"], "GPU"),
        (["--preset", "imagenet"], "--data"),
    ],
)
def test_bad_input_is_one_line(options, why, tmp_path, beton, capsys):
    arguments = [*SMALL, "--out", str(tmp_path / "o"), *options]
    if "--data" not in options and "imagenet" not in options:
        arguments += ["--data", str(beton)]
    assert main(arguments) == 1
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1 and errors[0].startswith("error: ") and why in errors[0]


def test_two_runs_do_not_share_a_folder_and_fresh_removes_what_runs_wrote_alone(folder, tmp_path, capsys):
    out, options = tmp_path / "out", ["--settings", "0.5", "--epochs", "1", "--boundary", "off", "--extra-rounds", "0"]
    assert run(out, folder, *options) == 0
    others = [out / "data" / "mine.beton", out / "state" / "mine.pt"]
    for other in others:
        other.write_bytes(b"somebody else's")
    with runs.held(out):
        assert run(out, folder, *options) == 1 and "another run is writing to" in capsys.readouterr().err
    before = json.loads((out / "results.json").read_text())["settings"][0]["train_seconds"]
    assert run(out, folder, *options, "--fresh") == 0
    assert json.loads((out / "results.json").read_text())["settings"][0]["train_seconds"] != before
    assert [other.read_bytes() for other in others] == [b"somebody else's"] * 2


def test_the_imagenet_preset_is_the_dissertations():
    options, _ = parse(["--preset", "imagenet", "--data", "x"])
    assert (options.epochs, options.batch_size, options.image_size) == (150, 256, 224)
    assert options.extra["width"] == 1.0


def test_the_quick_presets_corollaries_are_the_dissertations():
    from budgetloader import theory

    quick = PRESETS["quick"]
    shape = {"epochs": quick["epochs"], "samples": quick["images"], "batch_size": quick["batch_size"]}
    values = {c.name: theory.corollary(c.schedule) for c in cells(SETTINGS, network=None, **shape)}
    assert values["R2_2"] == pytest.approx(0.62) and values["R1_0.618"] == pytest.approx(0.618)
