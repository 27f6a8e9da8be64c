import json

import pytest

from budgetloader.bench import stored


@pytest.mark.long
def test_rates_and_bytes_are_recorded_by_the_share_of_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "PLAIN_FFCV", "not asked")
    arguments = ["--images", "40", "--shares", "0", "1", "--turns", "1", "--batch-size", "8", "--out", str(tmp_path)]
    assert stored.main(arguments) == 0
    jpegs, pixels = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert jpegs["per_jpeg"] == 1 and pixels["per_jpeg"] > 0 and jpegs["native"] > 0
    assert pixels["kilobytes"] > 2 * jpegs["kilobytes"]
