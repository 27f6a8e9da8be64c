import json

import numpy as np
import pytest

from budgetloader.bench.selecting import cost, main, selection


@pytest.mark.parametrize("kind", ["whole", "subset", "weights", "mixture"])
def test_every_kind_of_selection_is_measured(kind):
    made, seconds = selection(kind, 5000)
    found = cost(made, made.size, asks=4, at_once=64)
    assert len(found) == 4 and min(found) > 0 and seconds >= 0
    assert 0 <= made.ids(3, np.arange(100)).min() <= made.ids(3, np.arange(100)).max() < 5000


def test_a_record_has_a_row_for_each_kind_and_size(tmp_path):
    options = ["--samples", "1000", "4000", "--once-samples", "2000", "--asks", "3", "--memory-bytes", "30000"]
    assert main(["--parts", "costs", *options, "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "results.json").read_text())["costs"]
    assert [(row["kind"], row["samples"]) for row in rows[:4]] == [
        (kind, 1000) for kind in ("whole", "subset", "weights", "mixture")
    ]
    assert [row["left_out"] for row in rows if "left_out" in row] == ["memory"]
    assert len(rows) == 8 + 3 and all(row["seconds"] > 0 for row in rows[8:])
