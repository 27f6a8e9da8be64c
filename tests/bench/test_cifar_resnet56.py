"""ResNet on CIFAR's pickles and on the digits, on a small scale, as a user starts it."""

import json
import pickle

import numpy as np
import pytest

from budgetloader import Schedule
from budgetloader.bench.cifar_resnet56 import PRESETS, SETTINGS, main, parse
from budgetloader.bench.dissertation import CIFAR10, CIFAR100, change, recognise, time_reduction
from budgetloader.bench.job import accuracies
from budgetloader.bench.settings import cells

SMALL = ["--depth", "8", "--batch-size", "10", "--epochs", "3", "--workers", "1", "--learning-rate", "0.01"]
SMALL += ["--extra-rounds", "0", "--boundary", "off"]


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
    settings = ["--settings", "0.5", "short:0.5", "static:0.5", "cyclic:0.5", "--seeds", "2"]
    assert main([*SMALL, "--data", str(pickles), "--out", str(out), *settings]) == 0
    return out


def test_the_record_has_every_setting_and_both_seeds(finished):
    results = json.loads((finished / "results.json").read_text())
    rows = {row["setting"]: row for row in results["settings"]}
    assert list(rows) == ["full", "0.5", "short:0.5", "static:0.5", "cyclic:0.5"]
    assert results["samples"] == 60 and results["classes"] == 10 and results["engine"] == "resident"
    assert [row["batches"] for row in rows.values()] == [18, 9, 9, 9, 9]
    assert [row["samples"] for row in rows.values()] == [180, 90, 90, 90, 90]
    assert [row["baseline_of"] for row in rows.values()] == ["", "", "0.5", "0.5", "0.5"]
    for row in rows.values():
        assert [one["seed"] for one in row["seeds"]] == [0, 1]
        assert row["top1"] == pytest.approx(sum(one["top1"] for one in row["seeds"]) / 2)
        assert row["top1_half_width"] >= 0 and row["interval_over"] == "seeds"


def test_the_dissertations_accuracies_stand_beside_the_same_data_alone(finished, pickles, capsys, monkeypatch):
    arguments = [*SMALL, "--data", str(pickles), "--out", str(finished), "--settings", "R1_0.8", "--seeds", "1"]
    main(arguments)
    shown = capsys.readouterr().out
    assert "-0.36" not in shown and "say nothing about CIFAR" in shown  # ten classes, but not CIFAR-10's images
    monkeypatch.setattr("budgetloader.bench.dissertation.recognise", lambda index: "CIFAR-10")
    main(arguments)
    shown = capsys.readouterr().out
    assert "-0.36" in shown and "-21.04" in shown  # Table 4-10, R1_0.8
    assert "say nothing" not in shown and "assumptions" in shown


class _Index:
    """As many images of 32 × 32 pixels as CIFAR has, in equal classes."""

    def __init__(self, names, *, images=50_000, side=32):
        self.classes = tuple(names)
        self.heights = self.widths = np.full(images, side)
        self.labels = np.arange(images) % len(names)

    def __len__(self):
        return len(self.labels)


CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def test_data_sets_are_told_by_their_content():
    hundred = ["apple", *(f"b{i:02}" for i in range(98)), "worm"]
    imagenet = ["n01440764", *(f"n02{i:06}" for i in range(998)), "n15075141"]
    assert recognise(_Index(CIFAR10_NAMES)) == "CIFAR-10"
    assert recognise(_Index(hundred)) == "CIFAR-100"
    assert recognise(_Index(imagenet, images=1_281_167, side=500)) == "ImageNet"


@pytest.mark.parametrize(
    "index",
    [
        _Index(CIFAR10_NAMES, images=49_990),
        _Index(CIFAR10_NAMES, side=64),
        _Index([str(i) for i in range(10)]),
        _Index([str(i) for i in range(100)]),
        _Index([f"n{i:08}" for i in range(1000)], images=100_000),
    ],
)
def test_other_data_with_as_many_classes_are_not_taken_for_them(index):
    assert recognise(index) is None


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
        (["--quick", "--settings", "static"], "static:R1_0.618"),
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
    quick, preset = parse(["--quick"])[0], PRESETS["quick"]
    shape = {"epochs": preset["epochs"], "samples": quick.images, "batch_size": quick.batch_size}
    table = {cell.name: cell for cell in cells(SETTINGS, network=None, **shape)}
    assert table["full"].schedule.budget(quick.images, batch_size=quick.batch_size).full == 60
    static, cyclic = table["static:R1_0.618"], table["cyclic:R1_0.618"]
    assert static.sampling == "static" and static.schedule == Schedule.flat("0.618", epochs=30)
    assert cyclic.sampling == "cyclic" and table["short:R3"].baseline_of == "R3"


def test_accuracies_have_intervals_over_the_seeds_or_the_test_images():
    seeds = [{"top1": t, "top5": None, "evaluated": 100} for t in (0.5, 0.7, 0.6)]
    several = accuracies(seeds)
    assert several["top1"] == pytest.approx(0.6) and several["top1_half_width"] == pytest.approx(0.2484, abs=1e-4)
    assert several["top5"] is None and several["interval_over"] == "seeds"
    one = accuracies(seeds[:1])
    assert one["top1_half_width"] == pytest.approx(0.0962, abs=1e-4) and one["interval_over"] == "test images"
