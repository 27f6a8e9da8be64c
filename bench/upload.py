"""What the uploader costs the host: native's images per second with it, and without.

    python -m bench.upload

Claim: at most 3 %. The device is one that takes no time: torch's "meta" tensors, and streams and events
that do nothing, so that what is left is what the host's threads do for a batch. Both loaders write bytes to
host memory; the one with a device has them sent, normalised to float16, and handed over. Each has a process
of its own, and they take turns, so that the machine's drift hits both; the first turn is warm-up. The cost is
the median over the turns' ratios.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import torch

if TYPE_CHECKING:
    from rich.console import Console

_COPY_SECONDS = 0.003  # what the events say a copy takes: about that of 256 images of 224 pixels
MOST_COST = 0.03


class _Event:
    def __init__(self) -> None:
        self._recorded = 0.0

    def record(self, stream: object = None) -> None:
        self._recorded = time.perf_counter()

    def query(self) -> bool:
        return time.perf_counter() - self._recorded > _COPY_SECONDS

    def synchronize(self) -> None:
        while not self.query():
            time.sleep(_COPY_SECONDS / 10)


class _Stream:
    def __init__(self, device: object = None) -> None: ...

    def wait_event(self, event: _Event) -> None: ...


@contextmanager
def idle_device() -> Iterator[str]:
    """A device that takes no time; native's uploader sends there."""
    from loader.engines import native, upload

    class Nowhere(upload._Beside):
        def _pinned(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
            return np.empty(shape, dtype)

    names = {
        "Stream": _Stream,
        "Event": _Event,
        "stream": lambda stream: nullcontext(),
        "device": lambda device: nullcontext(),
        "current_stream": lambda device=None: _Stream(),
        "set_device": lambda device: None,
    }
    with ExitStack() as stack:
        for name, value in names.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        stack.enter_context(mock.patch.object(torch.Tensor, "record_stream", lambda tensor, stream: None))
        uploader = lambda job: Nowhere(job, torch.device(job.output.device))  # noqa: E731
        stack.enter_context(mock.patch.object(native, "uploader", uploader))
        yield "meta:0"


def measure_part(*, uploaded: bool, beton: str, **shape: Any) -> Callable[[], float]:
    """Gives a function that measures an epoch: images per second. See `bench.child`."""
    from loader import BudgetLoader, Schedule

    stack = ExitStack()
    device = stack.enter_context(idle_device()) if uploaded else "cpu"
    dtype = "float16" if uploaded else "uint8"
    options: Any = {"device": device, "dtype": dtype, "engine": "native", "schedule": Schedule.full(epochs=10_000)}
    batches = stack.enter_context(BudgetLoader(beton, **options, **shape))

    def epoch() -> float:
        began, samples = time.perf_counter(), 0
        for images, _ in batches:
            samples += len(images)
        assert stack is not None, "the patches last as long as this function"
        return samples / (time.perf_counter() - began)

    return epoch


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.upload",
        description=(__doc__ or "").split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--images", type=int, default=2048, help="JPEGs to generate")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--turns", type=int, default=15, help="counted measurements of each")
    parser.add_argument("--out", default="runs/upload")
    options = parser.parse_args(arguments)
    from bench.console import guarded

    return guarded(functools.partial(_main, options), interrupted="nothing was recorded")


def _main(options: argparse.Namespace, console: Console) -> int:
    from rich.progress import Progress

    from bench.child import Child
    from bench.data import prepare
    from bench.record import environment, write_json

    out = Path(options.out)
    with Progress(console=console) as progress:
        prepare(None, evaluation=None, folder=out / "data", images=options.images, seed=0, progress=progress)
    shape = {"batch_size": options.batch_size, "image_size": options.image_size}
    shape["beton"] = str(out / "data" / "train.beton")
    rates: dict[str, list[float]] = {"native": [], "native, uploaded": []}
    children = [
        Child("bench.upload:measure_part", name=name, arguments={"uploaded": name != "native", **shape})
        for name in rates
    ]
    try:
        for turn in range(options.turns + 1):
            for child in children if turn % 2 else children[::-1]:  # who is first changes
                rate = child.ask()
                if turn:
                    rates[child.name].append(rate)
    finally:
        for child in children:
            child.close()
    ratios = [b / a for a, b in zip(*rates.values(), strict=True)]
    cost = 1 - statistics.median(ratios)
    shown = {**vars(options), "out": None}
    results = {"environment": environment(), "options": shown, "turns": rates, "ratios": ratios, "cost": cost}
    write_json(out / "results.json", results)
    for name, turns in rates.items():
        console.print(f"{name}: {statistics.median(turns):,.0f} images/s ({min(turns):,.0f} – {max(turns):,.0f})")
    quartiles = statistics.quantiles(ratios, n=4)
    console.print(
        f"cost: {cost:.2%} (quartiles {1 - quartiles[2]:.2%} – {1 - quartiles[0]:.2%}); at most {MOST_COST:.0%}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
