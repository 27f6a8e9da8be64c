"""A process that fills a cache until it is killed: python -m … URL LOCAL CACHE CACHE_BYTES SEED.

It says "ready", then reads samples for ever: for each batch how many, and "WRONG" for one that is not what the local
file has.
"""

from __future__ import annotations

import sys

import numpy as np

from budgetloader.dataset import Dataset
from budgetloader.storage.dataset import RemoteDataset


def main(url: str, local: str, cache: str, cache_bytes: str, seed: str) -> None:
    far = RemoteDataset(url, cache=cache, cache_bytes=float(cache_bytes) or None)
    here, random = Dataset(local), np.random.default_rng(int(seed))
    print("ready", flush=True)
    while True:
        ticket = far.begin(random.integers(0, len(here), 8))
        ticket.wait()
        for sample in ticket.samples.tolist():
            if not np.array_equal(far.jpeg(sample), here.jpeg(sample)):
                print(f"WRONG {sample}", flush=True)
        print(len(ticket.samples), flush=True)
        ticket.release()


if __name__ == "__main__":
    main(*sys.argv[1:])
