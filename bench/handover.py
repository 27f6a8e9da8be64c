"""The hand-over of batches to a GPU, checked without one: engines, trainers and faults, interleaved at random.

    python -m budgetloader.bench.handover                # 1,000 interleavings over all engines, and the planted faults
    python -m budgetloader.bench.handover --seeds 412 --engines ffcv

Claims: whatever order the threads run in, and wherever a trainer breaks off, moves, or an error strikes,
every access to device and pinned memory is ordered, on the right device, and no call waits for a trainer's
stream; and the check is one that finds faults: each of `budgetloader.bench.planted` is found.

Each seed is a run of one engine, as it is, on `budgetloader.bench.fake_cuda`, its threads scheduled by
`budgetloader.bench.interleaving`, under a trainer that does what trainers do. Decoding is real; DALI's pipeline and the
service's other processes are stood in for.
"""

from __future__ import annotations

import argparse
import functools
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import torch

from budgetloader import BudgetLoader, Dataset, LoaderError, Schedule
from budgetloader.bench import handover_parts as parts
from budgetloader.bench.entry import parser_of
from budgetloader.bench.fake_cuda import FakeCUDA
from budgetloader.bench.interleaving import Interleaving
from budgetloader.dataset import corrupt
from budgetloader.engines import base_threaded, render_threads, upload
from budgetloader.engines.rendering import Renderer
from budgetloader.engines.rows import RowRenderer

if TYPE_CHECKING:
    from rich.console import Console

ENGINES = tuple(parts.ENGINES)


def check(engine: str, seed: int, *, dataset: Dataset) -> list[str]:
    """The faults of one run."""
    chance = random.Random(seed)
    run = Interleaving(seed, stay=chance.choice((0.0, 0.5, 0.9)))
    rank = chance.randrange(2)  # of a second rank's process, GPU 1 is the only one
    fake = FakeCUDA(devices=2, home={rank}, seed=seed, on_operation=run.give_way)
    with run.patched(render_threads, base_threaded, upload), fake, _host_writes(fake, chance):
        device = f"cuda:{rank}"
        if chance.random() < 0.5:
            torch.cuda.set_device(rank)
            device = "cuda"
        trainer = _Trainer(fake, chance, f"cuda:{rank}")
        options: Any = {
            "batch_size": chance.choice((3, 8)),
            "image_size": parts.SIZE if engine in parts.PAD and chance.random() < 0.5 else 8,
            "dtype": chance.choice(("float32", "float16", "uint8")),
            "layout": chance.choice(("channels_last", "contiguous")),
            "prefetch": chance.randint(1, 3),
            "workers": chance.randint(1, 3),
            "seed": seed,
            "schedule": Schedule.of([1, "0.5", 1]),
        }
        options["crop"] = "pad" if options["image_size"] == parts.SIZE else "resized"
        try:
            with parts.ENGINES[engine](fake, dataset, options) as make:
                trainer.train(BudgetLoader(dataset, engine=make, device=device, **options))
        except BaseException as error:
            raise RuntimeError(f"engine {engine}, seed {seed}: {error!r}") from error
        trainer.use_what_is_kept()
    return fake.order.faults + trainer.faults


class _Trainer:
    """Takes batches on streams of its own, keeps some, breaks off, moves, and lives through errors."""

    def __init__(self, fake: FakeCUDA, chance: random.Random, device: str) -> None:
        self.faults: list[str] = []
        self.batches = 0
        self._fake, self._chance, self._device = fake, chance, device
        self._streams = [None, torch.cuda.Stream(device)]  # None: what is the current one, the default
        self._kept: list[tuple[torch.cuda.Stream | None, torch.Tensor]] = []

    def train(self, batches: BudgetLoader) -> None:
        waited = len(self._fake.order.waits)
        for _ in range(4):
            try:
                if self._chance.random() < 0.3:
                    batches.set_epoch(self._chance.randrange(2))
                if batches.epoch < 3:
                    self._epoch(batches)
            except (LoaderError, torch.OutOfMemoryError):
                continue
        batches.close()
        names = {f"{self._device} default", self._streams[1].name}  # type: ignore[union-attr]
        drained = names.intersection(self._fake.order.waits[waited:])
        if drained:
            self.faults.append(f"the loader waited for the trainer's {', '.join(sorted(drained))}")

    def _epoch(self, batches: BudgetLoader) -> None:
        taken, iterator = self._chance.randint(1, 6), iter(batches)
        for _ in range(taken):
            if self._chance.random() < 0.1:
                self._fake.failures["mul_"] = torch.OutOfMemoryError("of a device, made up")
            stream = self._chance.choice(self._streams)
            with _on(stream):
                batch = next(iterator, None)
                if batch is None:
                    return
                images, labels = batch
                self._step(images, labels, stream)
            if self._chance.random() < 0.3:
                self.use_what_is_kept()
                self._kept.clear()
        if self._chance.random() < 0.5:
            iterator.close()  # type: ignore[attr-defined]

    def _step(self, images: torch.Tensor, labels: torch.Tensor, stream: torch.cuda.Stream | None) -> None:
        """Queue work that reads a batch, and perhaps keep it."""
        self.batches += 1
        if str(images.device) != self._device or str(labels.device) != self._device:
            self.faults.append(f"a batch is on {images.device}, its labels on {labels.device}")
        (images * 2).sum(), labels + 1
        if self._chance.random() < 0.3:
            self._kept.append((stream, images))

    def use_what_is_kept(self) -> None:
        for stream, images in self._kept:
            with _on(stream):
                images + 1


@contextmanager
def _on(stream: torch.cuda.Stream | None) -> Iterator[None]:
    """As a trainer uses a stream that knows its GPU: torch would set the device back to another one, and touch that."""
    if stream is None:
        yield
        return
    with torch.cuda.device(stream.device), torch.cuda.stream(stream):
        yield


@contextmanager
def _host_writes(fake: FakeCUDA, chance: random.Random) -> Iterator[None]:
    """Tell the fake what is written to host memory without torch, and have some images not decode."""
    fill, render = Renderer.fill, RowRenderer.render

    def logged(renderer: Any, plan: Any, row: int, out: np.ndarray) -> int:
        fake.on_operation()
        if chance.random() < 0.005:
            raise corrupt(renderer._job.dataset, int(plan.samples[row]), "made up")
        sample = fill(renderer, plan, row, out)
        fake.host_writes(out)
        return sample

    def rendered(rows: Any, plan: Any, which: np.ndarray, out: np.ndarray) -> np.ndarray:
        fake.on_operation()
        if chance.random() < 0.5:  # all of them are left to `fill`
            return np.zeros(len(which), np.bool_)
        done = render(rows, plan, which, out)
        fake.host_writes(out)
        return done

    class Numpy:
        def __getattr__(self, name: str) -> Any:
            return getattr(np, name)

        @staticmethod
        def copyto(target: np.ndarray, source: np.ndarray) -> None:
            np.copyto(target, source)
            fake.host_writes(target)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(Renderer, "fill", logged))
        stack.enter_context(mock.patch.object(RowRenderer, "render", rendered))
        stack.enter_context(mock.patch.object(upload, "np", Numpy()))
        yield


def faults(engines: Sequence[str], seeds: Sequence[int], *, dataset: Dataset, done: Callable[[], object]) -> list[str]:
    """What is wrong in any of some runs, each engine with every seed."""
    found = []
    for engine in engines:
        for seed in seeds:
            found += [f"engine {engine}, seed {seed}: {fault}" for fault in check(engine, seed, dataset=dataset)]
            done()
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of("handover", __doc__)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=[e for e in ENGINES if parts.installed(e)])
    parser.add_argument("--runs", type=int, default=1000, help="interleavings, over all engines")
    parser.add_argument("--seeds", type=int, nargs="+", help="these alone, of each engine; no planted faults")
    parser.add_argument("--out", default="runs/handover")
    options = parser.parse_args(arguments)
    from budgetloader.bench.console import guarded

    return guarded(functools.partial(_main, options), interrupted="nothing was recorded")


def _main(options: argparse.Namespace, console: Console) -> int:
    from budgetloader.bench.console import bars
    from budgetloader.bench.planted import PLANTED, seeds_until_found
    from budgetloader.bench.record import environment, write_json

    each = -(-options.runs // len(options.engines))
    seeds = options.seeds or range(each)
    results: dict[str, Any] = {"environment": environment(), "interleavings": len(seeds) * len(options.engines)}
    with tempfile.TemporaryDirectory(prefix="handover-") as folder, bars(console) as progress:
        dataset = parts.images(Path(folder))
        task = progress.add_task("interleavings", total=results["interleavings"])
        found = faults(options.engines, seeds, dataset=dataset, done=lambda: progress.advance(task))
        results["faults"] = found
        planted = {} if options.seeds else {name: seeds_until_found(name, dataset=dataset) for name in PLANTED}
        results["planted_found_at_seed"] = planted
    for fault in found:
        console.print(fault)
    for name, seed in planted.items():
        console.print(f"planted: {name}: " + ("not found" if seed is None else f"found in run {seed + 1}"))
    console.print(f"{results['interleavings']} interleavings, {len(found)} faults")
    write_json(Path(options.out) / "results.json", results)
    return 1 if found or None in planted.values() else 0


if __name__ == "__main__":
    sys.exit(main())
