"""Processes that are killed while they write the cache, and passing faults: short versions of the bench."""

import numpy as np
import pytest

from budgetloader import Dataset
from budgetloader.bench import storage_faults
from budgetloader.storage.dataset import RemoteDataset


@pytest.mark.slow
def test_nothing_wrong_is_read_after_kills_at_any_moment(beton, own_home, tmp_path):
    pytest.importorskip("obstore", reason="obstore is not installed")
    found = storage_faults.kills(beton, tmp_path, count=6)
    assert (found["kills"], found["wrong"]) == (6, 0) and found["found_in_the_cache"] > 0


@pytest.mark.parametrize("fault", ["damaged", "cut"])
def test_streams_are_the_local_one_while_requests_fail(beton, own_home, fault):
    pytest.importorskip("obstore", reason="obstore is not installed")
    found = storage_faults.passing(fault, beton, times=4)
    assert found["wrong"] == 0 and found["same"] == found["trainings"] and found["injected"] >= 4


@pytest.mark.parametrize("fault", ["replaced", "full disk"])
def test_trainings_that_cannot_go_on_end_with_one_clear_error(beton, own_home, tmp_path, fault):
    pytest.importorskip("obstore", reason="obstore is not installed")
    found = storage_faults.ending(fault, beton, times=2, folder=tmp_path)
    assert (found["errors"], found["wrong"]) == (2, 0)


def test_bytes_of_the_cache_that_somebody_changed_are_fetched_again(web, beton, tmp_path):
    url, local = f"{web.url}/train.beton", Dataset(beton)
    first = RemoteDataset(url, cache=tmp_path)
    first.begin(np.arange(70)).wait()
    first.close()
    (path,) = tmp_path.glob("*/data")
    with open(path, "r+b") as file:
        for sample in (3, 40):
            file.seek(int(local.starts[sample]) + 20)
            file.write(b"damage")
    again = RemoteDataset(url, cache=tmp_path)
    assert all((again.jpeg(i) == local.jpeg(i)).all() for i in range(70))
    assert again.traffic.damaged == 2 and again.traffic.misses == 0
