"""Batches: what engines make of plans."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from budgetloader.plans import BatchPlan

if TYPE_CHECKING:
    import torch


@dataclass(slots=True)
class Batch:
    """One batch that an engine made.

    Attributes:
        images: [n, 3, height, width] in the loader's dtype, layout and device.
        labels: int64 [n], of the samples that are shown.
        plan: what it was made from.
        samples: int64 [n], the samples that are shown, where some did not decode and others stand in for them;
            None: the plan's.
        arrival: what is left to do on the trainer's thread before the batch is used, or None; see `arrived`.
        transformed: whether a transform has seen it: what it made of the targets is handed out.
        targets: that, where it is no tensor in place of the labels; None: the labels.
    """

    images: torch.Tensor
    labels: torch.Tensor
    plan: BatchPlan
    samples: np.ndarray | None = None
    arrival: Arrival | None = None
    transformed: bool = False
    targets: Any = None

    @property
    def shown(self) -> np.ndarray:
        """The numbers of the samples that are shown: int64 [n]."""
        return self.plan.samples if self.samples is None else self.samples

    @property
    def replaced(self) -> int:
        """How many samples stand in for others."""
        return 0 if self.samples is None else int((self.samples != self.plan.samples).sum())

    @property
    def handed_out(self) -> Any:
        """The targets of a batch that was transformed."""
        return self.labels if self.targets is None else self.targets

    def arrived(self) -> Batch:
        """Itself, ready to be used by the thread that calls this: the last thing that an engine's `get` does."""
        if self.arrival is not None:
            self.arrival(self)
            self.arrival = None
        return self


Arrival = Callable[[Batch], None]
