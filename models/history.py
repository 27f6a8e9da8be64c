"""The results of a training, epoch by epoch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from budgetloader.models.epoch import EpochRecord
from budgetloader.models.metrics import Accuracy


@dataclass
class History:
    """The results of a training.

    Attributes:
        records: its finished epochs.
        accuracies: epoch → accuracy after it.
        other_seconds: evaluation and checkpoints, not counted as training.
        stopped: whether it ended because `stop` said so, and goes on from the checkpoint.
        earlier_epochs: of the run that the checkpoint was written by, where it had fewer.
    """

    records: list[EpochRecord] = field(default_factory=list)
    accuracies: dict[int, Accuracy] = field(default_factory=dict)
    other_seconds: float = 0.0
    stopped: bool = False
    earlier_epochs: int | None = None

    @property
    def accuracy(self) -> Accuracy | None:
        """The latest."""
        return self.accuracies[max(self.accuracies)] if self.accuracies else None

    def row(self, number: int) -> dict[str, Any]:
        """The finished epoch at this place of `records` as a row of a log."""
        record = self.records[number]
        accuracy = self.accuracies.get(record.epoch)
        single = {name: value for name, value in record.as_dict().items() if not isinstance(value, tuple)}
        return {
            **single,
            "images_per_second": record.images / record.train_seconds,
            "top1": accuracy.top1 if accuracy else None,
            "top5": accuracy.top5 if accuracy else None,
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "records": [record.as_dict() for record in self.records],
            "accuracies": {e: [a.top1, a.top5, a.samples] for e, a in self.accuracies.items()},
            "other_seconds": self.other_seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.records = [EpochRecord(**record) for record in state["records"]]
        self.accuracies = {int(e): Accuracy(*a) for e, a in state["accuracies"].items()}
        self.other_seconds = state["other_seconds"]
