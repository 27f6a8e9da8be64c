import json

import pytest

from bench import throughput
from bench.throughput import CUTS, Runner, _line, main


def test_the_line_is_the_least_squares_one():
    a, b = _line([(k, 0.05 + 0.1 * k) for k in (2, 4, 8, 16)])
    assert a == pytest.approx(0.05) and b == pytest.approx(0.1)


def test_rates_and_cuts_are_measured_and_recorded(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(throughput, "SETTLE_SECONDS", 0.0)
    out = tmp_path / "out"
    arguments = ["--out", str(out), "--images", "84", "--batch-size", "4", "--image-size", "32", "--turns", "2"]
    arguments += ["--contenders", "native", "cropped decoding alone", "--parts", "rates", "cut", "--dtypes", "uint8"]
    assert main(arguments) == 0
    results = json.loads((out / "results.json").read_text())
    rates = {(r["contender"], r["interpolation"]): r for r in results["rates"]}
    assert set(rates) == {("native", "linear"), ("native", "antialias"), ("cropped decoding alone", "none")}
    assert all(r["images_per_second"] > 0 and len(r["turns"]) == 2 for r in rates.values())
    (curve,) = results["cut"]
    assert list(curve["time_ratio"]) == list(CUTS) and curve["time_ratio"]["1"] == 1
    assert curve["time_ratio"]["0.1"] < curve["time_ratio"]["0.75"]
    assert str(tmp_path) not in json.dumps(results)  # a record names no path of the machine
    assert "images/s" in capsys.readouterr().out


def test_a_contender_that_fails_is_named(tmp_path):
    from bench.contenders import Work

    runner = Runner("native", Work(str(tmp_path / "none.beton"), "", 4, 32, 1, "uint8", "linear"))
    with pytest.raises(RuntimeError, match="native ended with status 1"):
        runner.measure(["1"])
    runner.close()
