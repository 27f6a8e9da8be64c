"""ResNet on CIFAR's pickles and on the digits, on a small scale, as a user starts it."""

import json
import pickle

import numpy as np
import pytest

from bench.cifar_resnet56 import main, parse
from bench.dissertation import CIFAR10, CIFAR100, change, time_reduction
from bench.job import cells, mean_row
from loader import Schedule

SMALL = ["--depth", "8", "--batch-size", "10", "--epochs", "3", "--workers", "1", "--learning-rate", "0.01"]


@pytest.fixture(scope="module")
def pickles(tmp_path_factory):
    """CIFAR-10 as it is distributed, with 12 images a file and noise in them."""
    folder = tmp_path_factory.mktemp("cifar") / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        pixels = rng.integers(0, 256, (12, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({b"data": pixels, b"labels": [i % 10 for i in range(12)]}))
    names = [str(i).encode() for i in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": names}))
    return folder


@pytest.fixture(scope="module")
def finished(pickles, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    settings = ["--settings", "0.5", "short", "static:0.5", "cyclic:0.5", "--seeds", "2"]
    assert main([*SMALL, "--data", str(pickles), "--out", str(out), *settings]) == 0
    return out


def test_the_record_has_every_setting_and_both_seeds(finished):
    results = json.loads((finished / "results.json").read_text())
    rows = {row["setting"]: row for row in results["settings"]}
    assert list(rows) == ["full", "0.5", "short", "static:0.5", "cyclic:0.5"]
    assert results["samples"] == 60 and results["classes"] == 10 and results["engine"] == "resident"
    assert [row["batches"] for row in rows.values()] == [18, 9, 6, 9, 9]
    assert [row["baseline"] for row in rows.values()] == [False, False, True, True, True]
    for row in rows.values():
        assert [one["seed"] for one in row["seeds"]] == [0, 1]
        assert row["top1"] == pytest.approx(sum(one["top1"] for one in row["seeds"]) / 2)
        assert row["top1_deviation"] >= 0 and row["ratio_measured_deviation"] >= 0


def test_tables_and_pictures_show_the_dissertations_beside(finished, pickles, capsys):
    main([*SMALL, "--data", str(pickles), "--out", str(finished), "--settings", "R1_0.8", "--seeds", "1"])
    shown = capsys.readouterr().out
    assert "-0.36" in shown and "-21.04" in shown  # Table 4-10, R1_0.8
    assert (finished / "top1_against_time.png").stat().st_size > 10_000


def test_the_dissertations_tables_agree_with_each_other():
    """Tables 4-10 and 4-12 are the changes of Tables 4-9 and 4-11, to their rounding and one misprint."""
    printed = {
        "CIFAR10": (CIFAR10, (-0.36, -1.09, -0.13, -0.69, -0.21), (-21.04, -38.06, -24.19, -19.05, -31.87)),
        "CIFAR100": (CIFAR100, (-0.79, -1.66, -1.16, -0.72, -0.18), (-18.47, -37.83, -23.69, -19.52, -34.05)),
    }
    for table, top1, minutes in printed.values():
        full, *others = table.values()
        for row, accuracy, seconds in zip(others, top1, minutes, strict=True):
            assert change(row.top1, full=full.top1) == pytest.approx(accuracy, abs=0.011)
            assert time_reduction(row, full=full) == pytest.approx(seconds, abs=0.02)


def test_a_second_seed_is_added_to_what_was_measured(finished, pickles):
    arguments = [*SMALL, "--data", str(pickles), "--out", str(finished), "--settings", "0.5"]
    assert main([*arguments, "--seeds", "1"]) == 0
    one = json.loads((finished / "results.json").read_text())["settings"][1]["seeds"][0]
    assert main([*arguments, "--seeds", "2"]) == 0
    two = json.loads((finished / "results.json").read_text())["settings"][1]["seeds"]
    assert two[0]["train_seconds"] == one["train_seconds"] and len(two) == 2


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ([], "give --data"),
        (["--quick", "--depth", "9"], "6n + 2"),
        (["--quick", "--seeds", "0"], "--seeds 0"),
        (["--quick", "--settings", "static:R9"], "'R9'"),
        (["--quick", "--images", "1797"], "1797 digits"),
    ],
)
def test_bad_input_is_one_line(options, why, tmp_path, capsys):
    assert main(["--out", str(tmp_path / "o"), *options]) == 1
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1 and errors[0].startswith("error: ") and why in errors[0]


def test_the_presets_are_the_dissertations_and_a_small_one():
    options, _ = parse(["--data", "x"])
    assert (options.epochs, options.batch_size, options.extra["depth"], options.learning_rate) == (120, 128, 56, 0.1)
    quick, _ = parse(["--quick"])
    table = {cell.name: cell for cell in cells(quick, samples=quick.images, network=None)}
    full = table["full"].schedule.budget(quick.images, batch_size=quick.batch_size)
    assert full.full == 60
    assert table["static"].sampling == "static" and table["static"].schedule == Schedule.flat("0.618", epochs=30)
    assert table["cyclic"].sampling == "cyclic" and table["short"].baseline


def test_means_are_over_the_seeds_that_have_the_number():
    rows = [
        {"setting": "a", "top1": t, "top5": None, "ratio_measured": r, "batches": 4, "epoch_records": [], "seed": i}
        for i, (t, r) in enumerate([(0.5, 0.8), (0.7, 0.9)])
    ]
    mean = mean_row(rows)
    assert mean["top1"] == pytest.approx(0.6) and mean["top1_deviation"] == pytest.approx(0.1414, abs=1e-4)
    assert mean["top5"] is None and mean["top5_deviation"] is None and mean["batches"] == 4
