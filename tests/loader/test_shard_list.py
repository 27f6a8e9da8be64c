"""Lists of shards, as they are read; tests/loader/convert/test_sharding.py has those that are written."""

import os

import numpy as np
import pytest

from budgetloader import Dataset, DatasetError
from budgetloader.shard_list import is_list, open_list, open_set


def test_a_list_that_is_too_long_or_no_file_is_refused(tmp_path):
    place = tmp_path / "x.shards.json"
    with open(place, "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DatasetError, match="no list of shards: it has 1,099,511,627,776 bytes"):
        open_list(place)
    with pytest.raises(DatasetError, match="cannot be read"):
        open_list(tmp_path / "none.shards.json")
    os.mkfifo(tmp_path / "pipe.shards.json")
    with pytest.raises(DatasetError, match="is no list of shards"):
        open_list(tmp_path / "pipe.shards.json")


def test_only_a_lists_name_is_one():
    assert is_list("a/train.shards.json") and is_list("s3://b/train.shards.json")
    assert not is_list("train.beton") and not is_list(["train.shards.json"]) and not is_list(np.zeros(3))


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_what_is_no_list_is_opened_as_a_file(beton, prefix):
    assert type(open_set(f"{prefix}{beton}", verify=True)) is Dataset
