import json

import pytest

from budgetloader import Dataset
from budgetloader.bench import starting


@pytest.mark.long
def test_the_parts_of_a_start_are_measured(tmp_path):
    arguments = ["--samples", "5000", "--images", "30", "--batch-size", "16", "--turns", "1", "--out", str(tmp_path)]
    assert starting.main(arguments) == 0
    record = json.loads((tmp_path / "results.json").read_text())
    assert set(record["parts"]) == set(starting.PARTS) and all(seconds > 0 for seconds in record["parts"].values())
    assert record["seconds"]["batch"] > record["seconds"]["torch"] > record["seconds"]["python"] > 0
    assert not list(tmp_path.glob("sparse-*"))  # no sparse file stays behind


def test_a_sparse_file_has_the_samples_of_its_first_batches(tmp_path):
    path = tmp_path / "sparse.beton"
    starting.make(path, [b"\xff\xd8 one", b"\xff\xd8 other"], samples=100_000, height=375, width=500, batch_size=4)
    data = Dataset(path)
    there = sum(bytes(data.jpeg(i)[:2]) == b"\xff\xd8" for i in range(len(data)))
    assert len(data) == 100_000 and there == 4 * 8
    assert path.stat().st_blocks * 512 < 16 << 20
