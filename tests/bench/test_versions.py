import json
import sys

import pytest

from budgetloader.bench.versions import main


@pytest.mark.long
def test_a_version_beside_itself_has_rows_with_intervals_for_both_sizes(tmp_path, capsys):
    arguments = ["--before", sys.executable, "--pairs", "5", "--seconds", "0.01", "--images", "64"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [(row["engine"], row["image_size"]) for row in rows] == [("native", 224), ("native", 32)]
    for row in rows:
        assert row["versions"][0] == row["versions"][1] and len(row["pairs"]) == 5
        assert 0 < row["images_per_second_half_width"] < float("inf") and row["cpu_seconds_per_image"] > 0
    assert "this version ÷ the one before" in capsys.readouterr().out


def test_an_environment_without_the_module_is_one_error(tmp_path, capsys):
    arguments = ["--before", sys.executable, "--before-module", "no_such_version", "--images", "64"]
    assert main([*arguments, "--out", str(tmp_path)]) == 1
    assert "no_such_version" in capsys.readouterr().err
