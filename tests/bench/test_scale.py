"""The costs of a large set: a short version of the bench."""

import json

import pytest

from budgetloader.bench import scale


@pytest.mark.slow
def test_a_small_index_is_measured_and_a_large_set_simulated(tmp_path, monkeypatch):
    pytest.importorskip("obstore", reason="obstore is not installed")
    more = ["--measured", "20000", "--turns", "1", "--steps", "1", "--out", str(tmp_path)]
    assert scale.main(more) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    index, ranks = found["index"], found["ranks"]
    assert 40 * 20_000 < index["kept_bytes"] < 100 * 20_000
    assert index["first"]["fetched_bytes"] > index["kept_bytes"] - 70_000 > 0
    assert index["kept"]["fetched_bytes"] < index["first"]["fetched_bytes"]
    assert ranks["samples_of_an_epoch"] == pytest.approx(0.618e9, rel=1e-3)
    assert 255 < ranks["requests_of_a_batch"] <= 256, "neighbours are hardly ever drawn together"
    assert 245 < ranks["requests_of_a_batch_in_blocks"] < ranks["requests_of_a_batch"]
    assert 245 < ranks["shards_of_a_batch"] < 256


def test_neighbours_are_fetched_together():
    """A set so small that a batch is all of it: one request for each shard."""
    options = scale.argparse.Namespace(
        samples=64, shards=4, ranks=1, batch_of_a_rank=64, sample_bytes=1000, ranks_of_a_machine=1, ratio="1", steps=1
    )
    row = {"held_bytes": 640, "requests": 5, "descriptors": 1}
    found = scale.simulate(options, {"samples": 64, "kept_bytes": 6400, "kept": row})
    assert (found["requests_of_a_batch"], found["shards_of_a_batch"]) == (4, 4)
    assert (found["index_bytes"], found["held_bytes_of_a_rank"], found["opening_requests"]) == (6400, 640, 20)
