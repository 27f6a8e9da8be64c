"""A trainer for any iterable of (images, labels) that has a length, and its clock.

Training time of an epoch is the time from asking for its first batch to the end of its last
optimiser step (synchronised on a GPU), without evaluation and checkpoints.

Where torch.distributed is initialised (torchrun), the network is wrapped for data parallelism: each
rank trains on its own part of every batch, and all must be given equally many batches.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator, Iterable, Sequence, Sized
from typing import Any, Protocol

import torch
from torch import distributed, nn
from torch.nn import functional

from budgetloader.models.epoch import Clock, EpochRecord, EpochUnderWay
from budgetloader.models.metrics import Accuracy, TopK
from budgetloader.models.recipes import Recipe


class Batches(Sized, Iterable[tuple[torch.Tensor, torch.Tensor]], Protocol):
    """Batches to train on. The length is the number of batches of the next epoch."""


class TrainingError(RuntimeError):
    """Training that cannot go on; the message says why."""


class Trainer:
    """Trains a classifier by a recipe.

    On a GPU it has cuDNN choose algorithms by measuring them (torch.backends.cudnn.benchmark), because batches
    are all of one size; where torch.backends.cudnn.deterministic is set, it does not.

    Args:
        model: any network, images [n, 3, h, w] → scores [n, classes].
        recipe: optimiser and learning rate.
        epochs: full epochs that the learning rate's schedule spans; default: the recipe's.
        epoch_shares: how much of the learning rate's schedule each epoch takes, one number above 0 per
            epoch, in any unit. Default: all the same, whatever the number of their batches (section 3.2).
        device: where to train.
        amp: "auto" (mixed precision on a GPU, not on a CPU), "on" or "off". It is bfloat16 where
            the GPU has it in hardware, else float16 with loss scaling.
        compile: "on" or "off", torch.compile.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        recipe: Recipe,
        epochs: int | None = None,
        epoch_shares: Sequence[float] | None = None,
        device: str | torch.device = "cpu",
        amp: str = "auto",
        compile: str = "off",
    ) -> None:
        for name, value, allowed in (("amp", amp, ("auto", "on", "off")), ("compile", compile, ("on", "off"))):
            if value not in allowed:
                raise ValueError(f"{name} {value!r} is not known; give one of {', '.join(allowed)}")
        self.device = torch.device(device)
        self.recipe, self.epochs = recipe, epochs or recipe.epochs
        shares = [1.0] * self.epochs if epoch_shares is None else list(epoch_shares)
        if len(shares) != self.epochs or not all(share > 0 for share in shares):
            raise ValueError(f"epoch_shares {shares}: give a number above 0 for each of {self.epochs} epochs")
        self._ends = [0.0, *itertools.accumulate(shares)]  # of the epochs, in the shares' unit
        self.model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._forward: Any = self.model
        self._ranks = distributed.get_world_size() if _distributed() else 1
        if self._ranks > 1:
            ids = [self.device] if self.device.type == "cuda" else None
            self._forward = nn.parallel.DistributedDataParallel(self.model, device_ids=ids)
        if compile == "on":
            self._forward = torch.compile(self._forward)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        self._amp = amp == "on" or (amp == "auto" and self.device.type == "cuda")
        half = self.device.type == "cuda" and not _has_bfloat16(self.device)
        if self.device.type == "cuda" and not torch.backends.cudnn.deterministic:
            torch.backends.cudnn.benchmark = True
        self._amp_dtype = torch.float16 if half else torch.bfloat16
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self._amp and half)

    def train_epoch(
        self,
        batches: Batches,
        *,
        epoch: int,
        begun: EpochUnderWay | None = None,
        after_step: Callable[[EpochUnderWay], object] | None = None,
    ) -> EpochRecord:
        """Train on every batch of `batches`, which is the schedule's epoch `epoch`.

        Args:
            batches, epoch, begun: see `steps`.
            after_step: called after each step. The time it takes is not counted as training if it
                returns something true (a checkpoint was written).

        Raises:
            TrainingError: see `steps`.
        """
        steps = self.steps(batches, epoch=epoch, begun=begun)
        try:
            now = next(steps)
            while True:
                now = steps.send(bool(after_step is not None and after_step(now)))
        except StopIteration as end:
            return end.value

    def steps(
        self, batches: Batches, *, epoch: int, begun: EpochUnderWay | None = None
    ) -> Generator[EpochUnderWay, bool | None, EpochRecord]:
        """The steps of an epoch, one at a time, for those who do other things between them.

        Args:
            batches: the epoch's batches, or its remaining ones; `len` is always the whole epoch's.
            epoch: for the learning rate and messages.
            begun: the part that was trained before a checkpoint; default: none.

        Yields:
            The epoch under way, after each step. Send True where time was spent on something else: it is then
            not counted as training.

        Returns:
            The epoch's record.

        Raises:
            TrainingError: no batch came, more or fewer came than `len` had said, the network does not
                take the images, a label is outside the classes, or the loss is not finite.
        """
        self.model.train()
        steps = len(batches)
        now = begun or EpochUnderWay(epoch)
        now.loss_sum = torch.as_tensor(now.loss_sum, dtype=torch.float32, device=self.device)
        clock = Clock(self.device)
        now.start(clock)
        rate = self.recipe.learning_rate_at(self._progress(epoch, now.steps / max(steps, 1)))
        source = iter(batches)
        while True:
            began = time.perf_counter()
            batch = next(source, None)
            if batch is None:
                break
            now.waits.append(time.perf_counter() - began)
            if now.steps == steps:
                raise TrainingError(f"epoch {epoch}: the loader said {steps} batches and gives more")
            rate = self._set_learning_rate(self._progress(epoch, now.steps / steps))
            self._step(*batch, now)
            now.sizes.append(len(batch[1]))
            clock.lap()
            if (yield now):
                clock.restart()
        if not steps or now.steps != steps:
            raise TrainingError(f"epoch {epoch}: the loader said {steps} batches and gave {now.steps}")
        return self._record(now, rate)

    def _record(self, now: EpochUnderWay, rate: float) -> EpochRecord:
        """The record of a finished epoch."""
        laps = now.laps()
        loss = self._mean(now.loss_sum) / now.steps
        if int(now.wrong_labels):
            raise TrainingError(
                f"epoch {now.epoch}: {int(now.wrong_labels)} labels are outside the network's classes; "
                "build the network with more classes"
            )
        if not torch.isfinite(torch.tensor(loss)):
            raise TrainingError(f"epoch {now.epoch}: the loss is {loss}; lower the learning rate ({rate:g})")
        steady = [laps[0] - now.waits[0], *laps[1:]]
        full = [seconds for seconds, size in zip(steady, now.sizes, strict=True) if size == max(now.sizes)]
        return EpochRecord(
            epoch=now.epoch,
            batches=now.steps,
            images=sum(now.sizes) * self._ranks,
            train_seconds=sum(laps),
            first_wait_seconds=now.waits[0],
            wait_seconds=sum(now.waits[1:]),
            full_batches=len(full),
            full_batch_seconds=sum(full),
            last_batch_seconds=steady[-1],
            loss=loss,
            learning_rate=rate,
            batch_seconds=tuple(round(seconds, 6) for seconds in steady),
        )

    def _step(self, images: torch.Tensor, labels: torch.Tensor, now: EpochUnderWay) -> None:
        images = images.to(self.device, non_blocking=True)
        labels = labels.to(self.device, non_blocking=True)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, dtype=self._amp_dtype, enabled=self._amp):
            scores = self._scores(images, labels)
            # A label outside would abort a GPU's process; here it costs no synchronisation to find it.
            wrong = (labels < 0) | (labels >= scores.shape[1])
            if self.device.type == "cpu" and wrong.any():
                label = int(labels[wrong][0])
                raise TrainingError(
                    f"epoch {now.epoch}, step {now.steps}: label {label} is outside the network's "
                    f"{scores.shape[1]} classes (0 … {scores.shape[1] - 1}); build it with more classes"
                )
            loss = functional.cross_entropy(scores, labels.masked_fill(wrong, 0))
        self._scaler.scale(loss).backward()
        self._scaler.step(self.optimizer)
        self._scaler.update()
        now.loss_sum = now.loss_sum + loss.detach()
        now.wrong_labels = now.wrong_labels + wrong.sum()

    def _scores(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        try:
            scores = self._forward(images)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            shape, why = tuple(images.shape), str(error).partition("\n")[0]
            raise TrainingError(f"the network does not take images of shape {shape}: {why}") from error
        if scores.ndim != 2 or len(scores) != len(labels):
            raise TrainingError(
                f"the network gives scores of shape {tuple(scores.shape)} for {len(labels)} images; "
                "it must be (images, classes)"
            )
        return scores

    def _progress(self, epoch: int, share: float) -> float:
        """Where in the learning rate's schedule a share of an epoch ends, 0 … 1."""
        if epoch >= self.epochs:
            raise TrainingError(f"epoch {epoch} is beyond the learning rate's schedule of {self.epochs} epochs")
        begin, end = self._ends[epoch], self._ends[epoch + 1]
        return min((begin + share * (end - begin)) / self._ends[-1], 1.0)

    def _set_learning_rate(self, progress: float) -> float:
        rate = self.recipe.learning_rate_at(progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _mean(self, value: Any) -> float:
        """The mean over the ranks."""
        if self._ranks > 1:
            distributed.all_reduce(value)
        return float(value) / self._ranks

    @torch.inference_mode()
    def evaluate(self, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Accuracy:
        """Top-1 and top-5 over every batch, of all ranks together."""
        self.model.eval()
        counts = TopK(self.device)
        for batch in batches:
            images, labels = (tensor.to(self.device, non_blocking=True) for tensor in batch)
            with torch.autocast(self.device.type, dtype=self._amp_dtype, enabled=self._amp):
                scores = self.model(images)
            counts.add(scores.float(), labels)
        if self._ranks > 1:
            distributed.all_reduce(counts.totals)
        return counts.result()

    def state_dict(self) -> dict[str, Any]:
        """Model, optimiser and loss scaling, the same on every rank. See `budgetloader.models.fit` for the rest.

        Raises:
            TrainingError: a weight is not finite: the checkpoint before is worth more.
        """
        finite = torch.stack([p.isfinite().all() for p in self.model.parameters()])
        if not finite.all():
            raise TrainingError("a weight is not finite any more; lower the learning rate")
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])


def _has_bfloat16(device: torch.device) -> bool:
    """Whether a GPU computes in bfloat16 itself: older ones emulate it, slower than float32."""
    return torch.version.hip is not None or torch.cuda.get_device_properties(device).major >= 8


def _distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()
