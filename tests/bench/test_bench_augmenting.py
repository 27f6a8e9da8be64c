import json

from budgetloader.bench import augmenting


def test_every_transform_is_measured_beside_none(tmp_path):
    arguments = ["--images", "40", "--turns", "1", "--batch-size", "8", "--image-size", "32", "--out", str(tmp_path)]
    assert augmenting.main(arguments) == 0
    record = json.loads((tmp_path / "results.json").read_text())
    rows = {row["transform"]: row for row in record["rows"]}
    assert set(rows) == set(augmenting.transforms()) and rows["none"]["ratio"] == 1
    assert rows["none"]["verdict_share"] == 0 < rows["RandAugment"]["verdict_share"] < 1
    assert all(row["images_per_second"] > 0 for row in rows.values())
    assert "timm's recipe" in str(augmenting.grid(record))
