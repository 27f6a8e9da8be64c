"""One run of a study: an arm with a seed and a learning rate, trained and measured, as a row of the record.

Everything that a run draws comes from its seed: the images that are held out, the first weights, the order, the
windows and the flips. One thread computes, so that the same machine gives the same weights again, bit by bit.
"""

from __future__ import annotations

import hashlib
import importlib
import math
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from budgetloader import BudgetLoader, Dataset
from budgetloader.bench.study import arms
from budgetloader.bench.study.networks import NETWORKS
from budgetloader.bench.study.recipes import Arm, Study
from budgetloader.engines import Job
from budgetloader.engines.resident import Decoded, ResidentEngine, decode
from budgetloader.order import Permutation, round_keys

_CURVE = (0.25, 0.5, 0.75)  # shares of the budget after which a main run is measured, too
_SPLIT = 1 << 40  # the "epoch" whose permutation says which images a seed holds out: no training has as many


@dataclass(frozen=True)
class Run:
    """A training that is to be done.

    Attributes:
        study, arm: of which.
        phase: "pilot" (measured on the images that it holds out) or "main" (measured on the test set).
        factor: of the study's learning rate.
        seed: of everything that is drawn.
    """

    study: Study
    arm: Arm
    phase: str
    factor: float
    seed: int

    @property
    def name(self) -> str:
        """Unique in the study. The learning rate of a main run is the pilot's choice, and no part of it."""
        factor = f"/x{self.factor:g}" if self.phase == "pilot" else ""
        return f"{self.phase}/{self.arm.name}{factor}/seed{self.seed}"


@dataclass(frozen=True)
class Files:
    """The files of a set.

    Attributes:
        train, test: open; the labels count from 0.
    """

    train: Dataset
    test: Dataset

    @property
    def classes(self) -> int:
        return 1 + max(int(part.labels.max()) for part in (self.train, self.test))


def split(study: Study, *, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(training, held out): a seed's images of the training set, int64, sorted."""
    if not 0 <= study.held_out < size:
        raise ValueError(f"{study.held_out:,} of {size:,} images cannot be held out; give a set of more")
    order = Permutation(size, key=round_keys(seed, _SPLIT))(np.arange(size))
    return np.sort(order[study.held_out :]), np.sort(order[: study.held_out])


def train(run: Run, files: Files, *, device: str = "cpu") -> dict[str, Any]:
    """Train and measure: the part of a row that depends on nothing but the run, and what it took.

    A run whose loss is not finite any more (with twice the learning rate it may be) is a row like the others.
    """
    torch.set_num_threads(1)
    study, began = run.study, time.perf_counter()
    kept, held_out = split(study, size=len(files.train), seed=run.seed)
    torch.manual_seed(run.seed)
    model = NETWORKS[study.network](files.classes).to(device, memory_format=torch.channels_last)
    pilot, curve = run.phase == "pilot", []
    with (
        closing(_Test(study, files.train if pilot else files.test, held_out if pilot else None, device=device)) as test,
        closing(session(run, model, kept, files.train, device=device)) as training,
    ):
        loaded = time.perf_counter() - began
        marks = [] if pilot else [int(share * training.total) for share in _CURVE]
        for _ in training.steps():
            if training.done in marks:
                with training.paused():
                    curve.append([training.samples, test.correct(model)])
        correct = test.correct(model)
    return {
        "epochs": len(training.batches_taken),
        "steps": training.done,
        "samples": training.samples,
        "training_set": len(kept),
        "correct": correct,
        "tested": test.size,
        "accuracy": round(100 * correct / test.size, 4),
        "curve": [*curve, [training.samples, correct]],
        "loss": round(training.last_loss, 6) if math.isfinite(training.last_loss) else None,  # it can diverge
        "train_seconds": round(training.wall_seconds, 3),
        "cpu_seconds": round(training.cpu_seconds, 3),
        "load_seconds": round(loaded, 3),
        "weights": digest(model),
    }


def digest(model: nn.Module) -> str:
    """SHA-256 of the parameters' and buffers' bytes, in the order of their names: 32 hex digits."""
    found = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        found.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:32]


def session(run: Run, model: nn.Module, kept: np.ndarray, dataset: Dataset, *, device: str) -> Session:
    """The training of a run; InfoBatch has one of its own."""
    if run.arm.plan == "infobatch":
        module = importlib.import_module("budgetloader.bench.study.infobatch")
        return module.InfoBatchSession(run, model, kept, dataset, device=device)
    return Session(run, model, kept, dataset, device=device)


class Session:
    """A training under way.

    Attributes:
        total, done: steps.
        samples: that were trained on.
        batches_taken: of each epoch so far.
        last_loss: the mean of the last epoch's batches.
        wall_seconds, cpu_seconds: of the training, evaluations left out. The processor's seconds are the process's.
    """

    def __init__(self, run: Run, model: nn.Module, kept: np.ndarray, dataset: Dataset, *, device: str) -> None:
        study = run.study
        self._run, self._model, self._device = run, model, device
        self.total = arms.steps(run.arm, study, samples=len(kept))
        self.open(dataset, kept)
        self._optimizer = torch.optim.SGD(
            model.parameters(),
            lr=study.learning_rate,
            momentum=study.momentum,
            nesterov=study.nesterov,
            weight_decay=study.weight_decay,
        )
        self.done, self.samples = 0, 0
        self.batches_taken: list[int] = []
        self.last_loss, self.wall_seconds, self.cpu_seconds = 0.0, 0.0, 0.0

    def open(self, dataset: Dataset, kept: np.ndarray) -> None:
        """Make the loader: `_batches`."""
        run, study = self._run, self._run.study
        schedule = arms.schedule(run.arm, study, samples=len(kept))
        self._planned = schedule.budget(len(kept), batch_size=study.batch_size).batches
        self._batches = BudgetLoader(
            dataset,
            schedule=schedule,
            sampling=run.arm.sampling,
            samples=kept,
            batch_size=study.batch_size,
            seed=run.seed,
            **shape(study, self._device),
        )

    def close(self) -> None:
        self._batches.close()

    def progress(self, epoch: int, step: int) -> float:
        """Where the learning rate stands before a step, 0 … 1."""
        return arms.progress(self._run.arm, self._planned, epoch=epoch, step=step)

    def loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """What a step minimises."""
        return functional.cross_entropy(self._model(images), labels)

    def steps(self) -> Iterator[None]:
        """Train until the budget is spent; yields after each step."""
        self._start()
        for epoch in self._batches.epochs():
            self._model.train()
            losses = []
            self.batches_taken.append(0)
            for step, batch in enumerate(self._batches):
                losses.append(self._step(batch, self.progress(epoch, step)))
                self.done += 1
                self.samples += len(batch[1])
                self.batches_taken[-1] += 1
                yield
                if self.done == self.total:
                    break
            self.last_loss = float(torch.stack(losses).mean())
            if self.done == self.total:
                break
        self._stop()

    def _step(self, batch: tuple[torch.Tensor, ...], at: float) -> torch.Tensor:
        rate = arms.learning_rate(self._run.arm, self._run.study, factor=self._run.factor, at=at)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        loss = self.loss(*batch)
        loss.backward()
        self._optimizer.step()
        return loss.detach()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A block whose time is not the training's, and that may put the network into evaluation."""
        self._stop()
        yield
        self._model.train()
        self._start()

    def _start(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def _stop(self) -> None:
        if self._device != "cpu":
            torch.cuda.synchronize(self._device)
        self.wall_seconds += time.perf_counter() - self._began[0]
        self.cpu_seconds += time.process_time() - self._began[1]


class _Test:
    """Images to measure a network on.

    Args:
        chosen: of the set's images; None: all.
    """

    def __init__(self, study: Study, dataset: Dataset, chosen: np.ndarray | None, *, device: str) -> None:
        self.size = len(dataset) if chosen is None else len(chosen)
        self._batches = BudgetLoader(dataset, train=False, samples=chosen, batch_size=500, **shape(study, device))

    @torch.inference_mode()
    def correct(self, model: nn.Module) -> int:
        """How many of the images the network gets right."""
        model.eval()
        return sum(int((model(images).argmax(1) == labels).sum()) for images, labels in self._batches)

    def close(self) -> None:
        self._batches.close()


def resident(job: Job) -> ResidentEngine:
    """The resident engine; a set is decoded once for all runs of a process."""
    output = job.output
    key = (job.dataset.fingerprint, output.crop)
    if key not in _decoded:
        _decoded[key] = decode(job)
    return ResidentEngine(job, decoded=_decoded[key])


_decoded: dict[tuple[str, str], Decoded] = {}


def shape(study: Study, device: str) -> dict[str, Any]:
    """The keywords that the loaders of a study share."""
    return {
        "image_size": study.image_size,
        "mean": study.mean,
        "std": study.std,
        "engine": resident if study.resident else "auto",
        "device": device,
        "workers": study.workers,
    }
