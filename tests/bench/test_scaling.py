import json

import pytest

from budgetloader.bench import scaling
from budgetloader.engines import rows


@pytest.mark.long
def test_what_is_under_the_lock_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "KINDS", ((16, False),))
    assert scaling.main(["--images", "30", "--small", "300", "--turns", "1", "--out", str(tmp_path)]) == 0
    table = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert tuple(row["decoder"] for row in table) == scaling.decoders()
    for row in table:
        assert 0 < row["lock_us"] <= row["cpu_us"] and row["compiled_us"] > 0
        assert (row["simplejpeg_us"] > 0) == (row["decoder"] == "simplejpeg")
        assert row["binds_at_threads"] >= 1 and row["one_thread"] > 0 and row["two_threads"] > 0
    assert "Clock" not in str(rows.crop_rows)  # the engine is as it was
