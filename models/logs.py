"""A training's log files: JSON lines, and TensorBoard's events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import distributed

from budgetloader.models.history import History
from budgetloader.models.train import TrainingError


class Logs:
    """The JSON-lines file and TensorBoard's events, written by rank 0.

    Args:
        log: the file, a line for each epoch; None: none.
        tensorboard: the events' folder; None: none.
        history: the epochs that are finished already. Lines of later epochs, which a killed run logged after its
            last checkpoint, are removed: those epochs are run, and logged, again.

    Raises:
        TrainingError: TensorBoard is asked for and not installed.
    """

    def __init__(self, log: Path | None, tensorboard: Path | None, history: History) -> None:
        primary = not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0
        self._log = log if primary else None
        self._events: Any = None
        if self._log is not None:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            rows = [history.row(i) for i in range(len(history.records))]
            self._log.write_text("".join(json.dumps(row) + "\n" for row in rows))
        if tensorboard is not None and primary:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise TrainingError("TensorBoard is not installed; pip install tensorboard") from None
            self._events = SummaryWriter(str(tensorboard), purge_step=len(history.records))

    def add(self, history: History) -> None:
        """Log the epoch that was finished last."""
        row = history.row(-1)
        if self._log is not None:
            with open(self._log, "a") as file:
                file.write(json.dumps(row) + "\n")
        if self._events is not None:
            for name, value in row.items():
                if name != "epoch" and value is not None:
                    self._events.add_scalar(name, value, row["epoch"])
            self._events.flush()

    def close(self) -> None:
        if self._events is not None:
            self._events.close()
