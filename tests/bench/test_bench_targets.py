import json

from budgetloader.bench import targets


def test_each_kind_is_measured_and_recorded(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(targets, "IMAGENET", 1000)
    monkeypatch.setattr(targets._Large, "labels", targets._Large.labels[:1000])
    assert targets.main(["--samples", "50", "--batch-size", "8", "--turns", "2", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    kinds = {"label", "int", "float", "array", "text", "bytes", "list", "json", "six of them in a dict"}
    assert set(found["turns"]) == kinds | {"an array of ImageNet's length", "a function of ids"}
    assert all(len(figures) == 2 and min(figures) > 0 for figures in found["turns"].values())
    assert "µs per sample" in capsys.readouterr().out
