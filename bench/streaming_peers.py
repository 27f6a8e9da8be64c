"""Loaders that read from object storage, each in a process of its own: ours, LitData and Mosaic streaming.

Each `…_epochs` gives a function that runs one epoch of a budget each time that it is called. What is not ours does not
know a budget: its user leaves the epoch with `break`. The peers decode as the fastest peers of the other benches do, in
the workers of a DataLoader, and crop and flip alike.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

Epoch = Callable[[], dict[str, float]]


def ours(
    address: str,
    local: str,
    *,
    kind: str,
    epochs: int,
    ratio: str,
    batch_size: int,
    image_size: int,
    cache: dict[str, Any],
) -> Any:
    """Ours.

    Args:
        address, local: of the same file, in the store and here.
        kind: "windows" (byte ranges, no cache), "samples" or a word for `sampling` that begins with "blocks".
        epochs, ratio: of the schedule.
        batch_size, image_size: of the batches.
        cache: folder and bytes, as `BudgetLoader` takes them.
    """
    from budgetloader import BudgetLoader, Schedule
    from budgetloader.storage.dataset import RemoteDataset

    shape: Any = {"batch_size": batch_size, "image_size": image_size, "dtype": "uint8", "interpolation": "linear"}
    shape |= {"engine": "native", "workers": 2}
    with BudgetLoader(local, schedule=Schedule.flat(ratio, epochs=1), **shape) as batches:
        for _ in batches:  # numba compiles
            pass
    windows = kind == "windows"
    sampling = "independent" if kind in ("windows", "samples") else kind
    far = RemoteDataset(address, **({"fetch": "window"} if windows else cache))
    return _ours(BudgetLoader(far, schedule=Schedule.flat(ratio, epochs=epochs), sampling=sampling, **shape))


@contextlib.contextmanager
def _ours(batches: Any) -> Iterator[Epoch]:
    with batches:
        yield lambda: _timed(batches, len(batches))


def litdata_epochs(
    address: str,
    *,
    ratio: float,
    batch_size: int,
    image_size: int,
    samples: int,
    cache: dict[str, Any],
    endpoint: str,
    workers: int,
) -> Epoch:
    """LitData, from its chunks in the store.

    What an epoch leaves in its cache when it is broken off counts as in use for ever (0.2.76): with a cache smaller
    than the set the next epoch waits for room until it gives up. So its chunks are deleted between epochs.
    """
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming import downloader

    # Its fastest client refuses a server without TLS, and there is no option for that.
    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True
    keys = {"AWS_ACCESS_KEY_ID": "aws_access_key_id", "AWS_SECRET_ACCESS_KEY": "aws_secret_access_key"}
    options = {name: os.environ[variable] for variable, name in keys.items()} | {"endpoint_url": endpoint}
    dataset = StreamingDataset(
        address,
        cache_dir=cache["cache"],
        max_cache_size=int(cache["cache_bytes"]),
        shuffle=True,
        storage_options=options | {"region_name": os.environ["AWS_REGION"]},
        transform=partial(_made, image_size=image_size),
    )
    loader = StreamingDataLoader(dataset, batch_size=batch_size, num_workers=workers)

    def epoch() -> dict[str, float]:
        found = _timed(loader, int(ratio * -(-samples // batch_size)))
        for path in files_of(cache["cache"]):
            if path.name.startswith(("chunk-", ".litdata_cache_slots")):
                path.unlink(missing_ok=True)
        return found

    return epoch


def mosaic_epochs(
    address: str,
    *,
    ratio: float,
    batch_size: int,
    image_size: int,
    samples: int,
    cache: dict[str, Any],
    endpoint: str,
    workers: int,
) -> Epoch:
    """Mosaic streaming, from its shards in the store; it shuffles blocks that its cache can hold."""
    os.environ["S3_ENDPOINT_URL"] = endpoint
    from streaming import StreamingDataset
    from torch.utils.data import DataLoader

    class Images(StreamingDataset):
        def __getitem__(self, at: Any) -> Any:
            return _made(super().__getitem__(at), image_size=image_size)

    dataset = Images(
        remote=address,
        local=cache["cache"],
        cache_limit=int(cache["cache_bytes"]),
        shuffle=True,
        shuffle_algo="py1e",
        shuffle_block_size=max(batch_size, samples // 8),
        num_canonical_nodes=1,
        batch_size=batch_size,
        predownload=2 * batch_size,
    )
    # Workers that stay: those that `break` ends in the middle of a download leave a part of a shard behind.
    loader: Any = DataLoader(dataset, batch_size=batch_size, num_workers=workers, persistent_workers=workers > 0)
    return lambda: _timed(loader, int(ratio * -(-samples // batch_size)))


def _timed(batches: Any, count: int) -> dict[str, float]:
    """An epoch, left after a number of batches: its samples, and the seconds until the last of them."""
    began, samples = time.perf_counter(), 0
    for number, (images, _) in enumerate(batches, start=1):
        assert images.shape[1:] in ((3, images.shape[-1], images.shape[-1]), (images.shape[1], images.shape[1], 3))
        samples += len(images)
        if number == count:
            break
    return {"samples": samples, "seconds": time.perf_counter() - began}


def _made(sample: dict[str, Any], *, image_size: int) -> tuple[np.ndarray, int]:
    """A JPEG's random resized crop, uint8 [size, size, 3], and its label."""
    out = np.empty((image_size, image_size, 3), np.uint8)
    _render(image_size)(bytes(sample["image"]), out)
    return out, int(sample["label"])


_renderers: dict[int, Any] = {}


def _render(image_size: int) -> Any:
    if image_size not in _renderers:
        from budgetloader.bench.threaded_peers import renderer
        from budgetloader.bench.work import Work

        _renderers[image_size] = renderer(Work("", "", 0, image_size, 1, "uint8", "linear"))
    return _renderers[image_size]


# Writing the same JPEGs in each peer's own format


def write_litdata(beton: str, out: str, shard_bytes: int) -> int:
    """Write LitData's chunks."""
    from litdata import optimize

    from budgetloader.dataset import Dataset

    optimize(
        fn=partial(_sample, beton),
        inputs=list(range(len(Dataset(beton)))),
        output_dir=out,
        chunk_bytes=shard_bytes,
        num_workers=1,
        verbose=False,
    )
    return 0


def write_mosaic(beton: str, out: str, shard_bytes: int) -> int:
    """Write Mosaic's shards."""
    from streaming import MDSWriter

    from budgetloader.dataset import Dataset

    shutil.rmtree(out, ignore_errors=True)
    with MDSWriter(out=out, columns={"image": "bytes", "label": "int"}, size_limit=shard_bytes) as writer:
        for sample in range(len(Dataset(beton))):
            writer.write(_sample(beton, sample))
    return 0


_opened: dict[str, Any] = {}


def _sample(beton: str, sample: int) -> dict[str, Any]:
    from budgetloader.dataset import Dataset

    if beton not in _opened:
        _opened[beton] = Dataset(beton)
    dataset = _opened[beton]
    return {"image": dataset.jpeg(sample).tobytes(), "label": int(dataset.labels[sample])}


def files_of(folder: str) -> list[Path]:
    """The files that a peer has written."""
    return sorted(path for path in Path(folder).rglob("*") if path.is_file())
