"""CRnet's bench on a small scale, as a user starts it. Its counts are in test_crnet.py."""

import json

import pytest

from budgetloader.bench.crnet import chosen, main, parse

SMALL = ["--quick", "--epochs", "1", "--batch-size", "72", "--image-size", "8", "--workers", "1"]


@pytest.mark.long
def test_every_network_trains_and_is_compared_with_its_own_full_training(tmp_path, capsys):
    options = ["--strategies", "gc-c1dw", "c1dw-gc", "--settings", "full", "0.5", "--out", str(tmp_path)]
    assert main([*SMALL, *options]) == 0
    assert "CR module" in capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    rows = results["settings"]
    assert [row["group"].split()[-1] for row in rows] == ["c1dw-gc"] * 2 + ["gc-c1dw"] * 2 or [
        row["group"].split()[-1] for row in rows
    ] == ["gc-c1dw"] * 2 + ["c1dw-gc"] * 2
    assert [row["ratio_corollary"] for row in rows] == [1, 0.5, 1, 0.5]
    assert [row["ratio_measured"] for row in rows if row["ratio_corollary"] == 1] == [1, 1]
    assert all(0 <= row["top1"] <= 1 for row in rows)


def test_all_24_networks_of_a_batch_size_by_default():
    options, _, what = parse(["--data", "x"])
    assert what == "train" and (options.epochs, options.batch_size) == (160, 256)
    assert len(chosen(options, classes=10)) == 24
    small, _, _ = parse(["--data", "x", "--batch-size", "64"])
    assert {row.batch_size for row in chosen(small, classes=100)} == {64}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ([], "give --data"),
        (["--quick", "--shapes", "4,2"], "'4,2' is not"),
        (["--quick", "--shapes", "5,2,0.5"], "no such network"),
        (["--quick", "--strategies", "gc"], "no such network"),
    ],
)
def test_bad_input_is_one_line(options, why, tmp_path, capsys):
    assert main(["--out", str(tmp_path / "o"), *options]) == 1
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1 and errors[0].startswith("error: ") and why in errors[0]
