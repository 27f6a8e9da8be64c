"""A trainer for any iterable of (images, labels) that has a length, and its clock.

Training time of an epoch is the time from asking for its first batch to the end of its last
optimiser step (synchronised on a GPU), without evaluation and checkpoints.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sized
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional

from models.metrics import Accuracy, TopK
from models.recipes import Recipe


class Batches(Sized, Iterable[tuple[torch.Tensor, torch.Tensor]], Protocol):
    """What is trained on: its length is the number of batches of the epoch that comes next."""


class TrainingError(RuntimeError):
    """Training that cannot go on; the message says why."""


@dataclass
class EpochRecord:
    """What one epoch of training took. All times in seconds.

    Attributes:
        epoch, batches, images: counts.
        train_seconds: as defined in this module's docstring.
        first_wait_seconds: of it, waiting for the epoch's first batch.
        wait_seconds: of it, waiting for the other batches.
        full_batches, full_batch_seconds: the batches of full size, and their time from the end of
            the step before to the end of theirs, `first_wait_seconds` not counted.
        last_batch_seconds: the same for the epoch's last batch, whatever its size.
        loss: mean over the epoch's batches.
        learning_rate: of the last step.
    """

    epoch: int
    batches: int
    images: int
    train_seconds: float
    first_wait_seconds: float
    wait_seconds: float
    full_batches: int
    full_batch_seconds: float
    last_batch_seconds: float
    loss: float
    learning_rate: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Trainer:
    """Trains a classifier by a recipe.

    Args:
        model: images [n, 3, h, w] → scores [n, classes].
        recipe: optimiser and learning rate.
        epochs: full epochs that the learning rate's schedule spans; default: the recipe's.
        device: where to train.
        amp: "auto" (mixed precision on a GPU, not on a CPU), "on" or "off". It is bfloat16 where
            the GPU has it, else float16 with loss scaling.
        compile: "on" or "off", torch.compile.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        recipe: Recipe,
        epochs: int | None = None,
        device: str | torch.device = "cpu",
        amp: str = "auto",
        compile: str = "off",
    ) -> None:
        for name, value, allowed in (("amp", amp, ("auto", "on", "off")), ("compile", compile, ("on", "off"))):
            if value not in allowed:
                raise ValueError(f"{name} {value!r} is not known; give one of {', '.join(allowed)}")
        self.device = torch.device(device)
        self.recipe, self.epochs = recipe, epochs or recipe.epochs
        self.model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._forward: Any = torch.compile(self.model) if compile == "on" else self.model
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        self._amp = amp == "on" or (amp == "auto" and self.device.type == "cuda")
        half = self.device.type == "cuda" and not torch.cuda.is_bf16_supported()
        self._amp_dtype = torch.float16 if half else torch.bfloat16
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self._amp and half)

    def train_epoch(self, batches: Batches, *, epoch: int) -> EpochRecord:
        """Train on every batch of `batches`, which is the schedule's epoch `epoch`.

        Raises:
            TrainingError: no batch came, more or fewer came than `len` had said, or the loss is not
                finite.
        """
        self.model.train()
        steps = len(batches)
        clock = _Clock(self.device)
        loss_sum = torch.zeros((), device=self.device)
        waits: list[float] = []
        sizes: list[int] = []
        source = iter(batches)
        while True:
            asked = time.perf_counter()
            batch = next(source, None)
            if batch is None:
                break
            waits.append(time.perf_counter() - asked)
            images, labels = (tensor.to(self.device, non_blocking=True) for tensor in batch)
            rate = self._set_learning_rate((epoch + len(sizes) / steps) / self.epochs)
            loss_sum += self._step(images, labels)
            sizes.append(len(labels))
            clock.lap()
            if len(sizes) > steps:
                raise TrainingError(f"epoch {epoch}: the loader said {steps} batches and gives more")
        if not sizes or len(sizes) != steps:
            raise TrainingError(f"epoch {epoch}: the loader said {steps} batches and gave {len(sizes)}")
        laps = clock.seconds()
        loss = float(loss_sum) / steps
        if not torch.isfinite(torch.tensor(loss)):
            raise TrainingError(f"epoch {epoch}: the loss is {loss}; lower the learning rate ({rate:g})")
        steady = [laps[0] - waits[0], *laps[1:]]
        full = [seconds for seconds, size in zip(steady, sizes, strict=True) if size == max(sizes)]
        return EpochRecord(
            epoch=epoch,
            batches=steps,
            images=sum(sizes),
            train_seconds=sum(laps),
            first_wait_seconds=waits[0],
            wait_seconds=sum(waits[1:]),
            full_batches=len(full),
            full_batch_seconds=sum(full),
            last_batch_seconds=steady[-1],
            loss=loss,
            learning_rate=rate,
        )

    def _step(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, dtype=self._amp_dtype, enabled=self._amp):
            loss = functional.cross_entropy(self._forward(images), labels)
        self._scaler.scale(loss).backward()
        self._scaler.step(self.optimizer)
        self._scaler.update()
        return loss.detach()

    def _set_learning_rate(self, progress: float) -> float:
        rate = self.recipe.learning_rate_at(progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    @torch.inference_mode()
    def evaluate(self, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Accuracy:
        """Top-1 and top-5 over every batch."""
        self.model.eval()
        counts = TopK()
        for batch in batches:
            images, labels = (tensor.to(self.device, non_blocking=True) for tensor in batch)
            with torch.autocast(self.device.type, dtype=self._amp_dtype, enabled=self._amp):
                scores = self._forward(images)
            counts.add(scores.float(), labels)
        return counts.result()

    def state_dict(self) -> dict[str, Any]:
        """Model, optimiser and loss scaling. The random state is torch's own affair: see the bench."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])


class _Clock:
    """Laps between the ends of steps: wall-clock on a CPU, events in the stream on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        if self._cuda:
            torch.cuda.synchronize(device)
        self._marks: list[Any] = []
        self.lap()

    def lap(self) -> None:
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """The laps' lengths; waits for the last one's end."""
        pairs = zip(self._marks, self._marks[1:], strict=False)
        if not self._cuda:
            return [after - before for before, after in pairs]
        self._marks[-1].synchronize()
        return [before.elapsed_time(after) / 1000 for before, after in pairs]
