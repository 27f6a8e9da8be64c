import json

import pytest

from budgetloader.bench import augmenting


@pytest.mark.long
def test_every_transform_is_measured_beside_none(tmp_path, monkeypatch):
    measured = {name: augmenting.transforms()[name] for name in ("none", augmenting.NOTHING, "timm's recipe")}
    monkeypatch.setattr(augmenting, "transforms", lambda: measured)
    arguments = ["--images", "40", "--turns", "1", "--batch-size", "8", "--image-size", "32", "--out", str(tmp_path)]
    assert augmenting.main(arguments) == 0
    record = json.loads((tmp_path / "results.json").read_text())
    rows = {row["transform"]: row for row in record["rows"]}
    assert set(rows) == set(measured) and rows["none"]["ratio"] == 1
    assert rows["none"]["verdict_share"] == 0 < rows["timm's recipe"]["verdict_share"] < 1
    assert all(row["images_per_second"] > 0 for row in rows.values())
    assert "timm's recipe" in str(augmenting.grid(record))
