import json

from budgetloader.bench.sizes import main


def test_the_prediction_and_the_time_of_a_schedule_with_sizes_are_recorded(tmp_path):
    arguments = ["--epochs", "3", "--images", "40", "--batch-size", "8", "--calibration", "1"]
    assert main([*arguments, "--image-size", "32@1,48@1,64", "--schedule", "0.67", "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    (row,) = results["rows"]
    assert row["sizes"] == "32@1,48@1,64@1" and row["schedule"] == "flat:0.67@3"
    assert row["batches"] == {"full": [5, 5, 5], "sized": [3, 3, 3]}
    assert set(row["batch_seconds"]) == {"32", "48", "64"}
    assert 0 < row["predicted"] < 1 and row["measured"] > 0
    assert row["plain"] == 3 * (32**2 + 48**2 + 64**2) / (15 * 64**2)
    assert str(tmp_path) not in json.dumps(results)
