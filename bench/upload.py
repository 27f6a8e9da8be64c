"""What the uploader costs the host: the native engine's images per second with it, and without.

    python -m budgetloader.bench.upload

Claim: at most 3 %. The device is one that takes no time: torch's "meta" tensors, and streams and events
that do nothing: only the work of the host's threads is left. Both loaders write bytes to
host memory; the one with a device has them sent, normalised to float16, and handed over. Each has a process
of its own, and they take turns, so that the machine's drift hits both; the first turn is warm-up. The cost is
the median over the turns' ratios, once of images per second and once of processor time per image, which a busy
machine changes less. What sending itself takes of the processor time is measured, too, in the threads that do it.
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

from budgetloader.bench.entry import generated, parser_of

if TYPE_CHECKING:
    from rich.console import Console

_COPY_SECONDS = 0.0008  # of a copy, as the events have it: 64 images of 224 pixels over a bus of 12 GB/s
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
def idle_device(spent: list[float]) -> Iterator[str]:
    """A device that takes no time; native's uploader sends there.

    Args:
        spent: gets the processor time of each `send`, seconds.
    """
    from budgetloader.engines import native, upload

    class Nowhere(upload._Beside):
        def _pinned(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
            return np.empty(shape, dtype)

        def send(self, *arguments: Any, **options: Any) -> upload.Sent:
            began = time.thread_time()
            try:
                return super().send(*arguments, **options)
            finally:
                spent.append(time.thread_time() - began)

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


def measure_part(*, uploaded: bool, beton: str, **shape: Any) -> Callable[[], dict[str, float]]:
    """Gives a function that measures an epoch: images per second, and per second of a core. See bench/child.py."""
    from budgetloader import BudgetLoader, Schedule

    stack = ExitStack()
    spent: list[float] = []
    device = stack.enter_context(idle_device(spent)) if uploaded else "cpu"
    dtype = "float16" if uploaded else "uint8"
    options: Any = {"device": device, "dtype": dtype, "engine": "native", "schedule": Schedule.full(epochs=10_000)}
    batches = stack.enter_context(BudgetLoader(beton, **options, **shape))

    def epoch() -> dict[str, float]:
        began, worked, samples = time.perf_counter(), time.process_time(), 0
        for images, _ in batches:
            samples += len(images)
        assert stack is not None, "the patches last as long as this function"
        seconds, core_seconds = time.perf_counter() - began, time.process_time() - worked
        share = sum(spent) / core_seconds
        spent.clear()
        return {"second": samples / seconds, "core second": samples / core_seconds, "sending": share}

    return epoch


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of("upload", __doc__)
    parser.add_argument("--images", type=int, default=2048, help="JPEGs to generate")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--turns", type=int, default=15, help="counted measurements of each")
    parser.add_argument("--out", default="runs/upload")
    options = parser.parse_args(arguments)
    from budgetloader.bench.console import guarded

    return guarded(functools.partial(_main, options), interrupted="nothing was recorded")


def _main(options: argparse.Namespace, console: Console) -> int:
    from budgetloader.bench.child import Child, together
    from budgetloader.bench.record import environment, write_json

    out = Path(options.out)
    data = generated(out / "data", images=options.images, console=console)
    shape = {"batch_size": options.batch_size, "image_size": options.image_size}
    shape["beton"] = str(data)
    turns: dict[str, list[dict[str, float]]] = {"native": [], "native, uploaded": []}
    made = (
        Child("budgetloader.bench.upload:measure_part", name=name, arguments={"uploaded": name != "native", **shape})
        for name in turns
    )
    with together(made) as children:
        for turn in range(options.turns + 1):
            for child in children if turn % 2 else children[::-1]:  # who is first changes
                rate = child.ask()
                if turn:
                    turns[child.name].append(rate)
    results = {"environment": environment(), "options": {**vars(options), "out": None}, "turns": turns, "cost": {}}
    for per in ("second", "core second"):
        rates = {name: [turn[per] for turn in of] for name, of in turns.items()}
        for name, figures in rates.items():
            median, least, most = statistics.median(figures), min(figures), max(figures)
            console.print(f"{name}: {median:,.0f} images per {per} ({least:,.0f} – {most:,.0f})")
        ratios = [b / a for a, b in zip(*rates.values(), strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        results["cost"][per] = 1 - middle
        shown = f"{1 - middle:.2%} (quartiles {1 - high:.2%} – {1 - low:.2%})"
        console.print(f"cost per {per}: {shown}; at most {MOST_COST:.0%}")
    shares = [turn["sending"] for turn in turns["native, uploaded"]]
    results["cost"]["sending"] = statistics.median(shares)
    console.print(
        f"sending: {statistics.median(shares):.2%} of the processor time (at most {max(shares):.2%} in a turn)"
    )
    write_json(out / "results.json", results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
