import json

import pytest

from budgetloader.bench import throughput
from budgetloader.bench.throughput import CUTS, contender, main, ratios
from budgetloader.bench.work import Work

SMALL = ["--images", "84", "--batch-size", "4", "--image-size", "32"]


@pytest.mark.long
def test_everything_is_measured_in_as_many_turns_and_recorded(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(throughput, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(throughput, "STEP_SECONDS", {"a quick trainer": 0.001, "taking only": 0.0})
    out = tmp_path / "out"
    arguments = ["--out", str(out), *SMALL, "--turns", "2", "--dtypes", "uint8"]
    arguments += ["--contenders", "native", "threads over simplejpeg", "cropped decoding alone"]
    assert main(arguments) == 0
    results = json.loads((out / "results.json").read_text())
    rates = {(r["contender"], r["interpolation"]): r for r in results["rates"]}
    assert set(rates) == {
        *(("native", "linear"), ("native", "antialias"), ("cropped decoding alone", "none")),
        *(("threads over simplejpeg", "linear"), ("threads over simplejpeg", "area")),
    }
    assert all(r["images_per_second"] > 0 and len(r["turns"]) == 2 for r in rates.values())
    compared = {(r["interpolation"], r["by"], r["by_interpolation"]) for r in results["ratios"]}
    assert ("linear", "threads over simplejpeg", "linear") in compared
    assert ("antialias", "threads over simplejpeg", "area") in compared
    assert ("linear", "threads over simplejpeg", "area") not in compared  # like is compared with like
    assert [(r["contender"], len(r["turns"])) for r in results["boundary"]] == [
        *[("native", 2)] * 2,
        *[("threads over simplejpeg", 2)] * 2,
    ]
    for curve in results["cut"]:
        assert list(curve["time_ratio"]) == list(CUTS) and curve["time_ratio"]["1"] == 1
        assert curve["time_ratio"]["0.1"] < curve["time_ratio"]["0.75"] and len(curve["turns"]["0.5"]) == 2
    assert str(tmp_path) not in json.dumps(results)  # a record names no path of the machine
    shown = capsys.readouterr().out
    assert "images per second" in shown and "(break)" in shown
    assert "threads over simplejpeg" in (out / "report.html").read_text()


def test_ratios_are_paired_by_turn():
    def row(name, turns):
        return {"contender": name, "interpolation": "linear", "dtype": "uint8", "turns": turns}

    (found,) = ratios([row("native", [200.0, 20.0, 2.0]), row("peer", [100.0, 10.0, 1.0])])
    assert found["ratio"] == 2 and found["half_width"] == 0  # the machine slowed down for both alike


@pytest.mark.parametrize("name", ["threads over simplejpeg", "SPDL over simplejpeg"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_peers_of_threads_give_every_sample_of_their_budget(folder, beton, name, dtype):
    if name.startswith("SPDL"):
        pytest.importorskip("spdl.pipeline")
    work = Work(str(beton), str(folder), 8, 32, 2, dtype, "linear")
    epochs = contender(name=name, work=vars(work))(ratios=["1", "1/2", "1"])
    files = len(list(folder.rglob("*.jpg")))
    assert [epoch["samples"] for epoch in epochs] == [files, 8 * (-(-files // 8) // 2), files]


def test_a_contender_that_fails_is_named(tmp_path):
    work = Work(str(tmp_path / "none.beton"), "", 4, 32, 1, "uint8", "linear")
    with throughput.running([("native", work)]) as (child,), pytest.raises(RuntimeError, match="native ended with"):
        child.ask(ratios=["1"])
