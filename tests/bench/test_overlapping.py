"""The bench of views that overlap, in short."""

import json

from budgetloader.bench import overlapping


def test_it_measures_every_number_of_views_and_grey(tmp_path):
    arguments = ["--images", "56", "--turns", "1", "--batch-size", "16", "--image-size", "32"]
    assert overlapping.main([*arguments, "--out", str(tmp_path / "out")]) == 0
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["what"] for row in record["rows"]] == ["1 views", "2 views", "4 views", "8 views", "grey"]
    assert all(row["images_per_second"] > 0 and row["ratio"] > 0 for row in record["rows"])
    shared = [row["shared"] for row in record["rows"]]
    assert shared[0] == shared[4] == 0 < shared[1] < shared[2] < shared[3] < 1
    assert len(overlapping.grid(record).rows) == 5
