"""Processes that are killed while they write the cache; `bench/cache_kills.py` has the long run."""

import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from budgetloader import Dataset
from budgetloader.storage.dataset import RemoteDataset

CHILD = Path(__file__).parents[2] / "storage_child.py"


@pytest.mark.parametrize("share", [0, 0.4], ids=["unbounded", "bounded"])
def test_nothing_wrong_is_read_after_kills_at_any_moment(web, beton, tmp_path, share):
    url, cache, local = f"{web.url}/train.beton", tmp_path / "cache", Dataset(beton)
    cache_bytes = max(share * local.sizes.sum(), share and 1 << 20)
    chance = random.Random(5)
    for turn in range(4):
        command = [sys.executable, str(CHILD), url, str(beton), str(cache), str(cache_bytes), str(turn)]
        children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        for child in children:
            assert child.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0.0, 0.05))
        for child in children:
            child.kill()
        assert [child.communicate()[0] for child in children] == ["", ""]
    far = RemoteDataset(url, cache=cache, cache_bytes=cache_bytes or None)
    ticket = far.begin(np.arange(70)) if not share else None
    assert all((far.jpeg(i) == local.jpeg(i)).all() for i in range(70))
    assert far.traffic.hits > 0
    del ticket
