"""What the ranks of one training tell each other, so that all choose the same samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from budgetloader.errors import ArgumentError, EngineError, ScheduleError
from budgetloader.shard import Shard

Gather = Callable[[np.ndarray], Sequence[np.ndarray]]
"""Gives each rank's array, in the order of the ranks; every rank calls it. int64 [n, 2] in, one for each rank out."""


class Ranks:
    """The ranks that share a training's batches.

    Args:
        shard: this rank's part.
        most: rows, at most, that a rank has to tell at a time: the samples of its part of a batch.
        gather: one's own way to tell each other; default: torch.distributed's default group.
        device: this rank's, for a group that tells each other through GPUs (NCCL).
    """

    def __init__(self, shard: Shard, *, most: int, gather: Gather | None = None, device: str = "cpu") -> None:
        self.shard, self.most, self._device = shard, most, device
        self._gather = gather
        if gather is None and shard.world_size > 1 and _group() == shard.world_size:
            self._gather = self._through_torch

    @property
    def connected(self) -> bool:
        """Whether there is a way to tell each other, or nobody to tell."""
        return self.shard.world_size == 1 or self._gather is not None

    def check_connected(self, what: str) -> None:
        """Refuse ranks that cannot tell each other.

        Raises:
            ArgumentError: they cannot.
        """
        if not self.connected:
            raise ArgumentError(
                f"{what} on {self.shard.world_size} ranks needs the losses of all of them, and torch.distributed is "
                "not initialised with as many; initialise it before the loader is made, or give the selection gather="
            )

    def all(self, rows: np.ndarray) -> np.ndarray:
        """The rows of all ranks, one after the other: int64 [n, 2] in and out. Every rank calls it.

        Raises:
            ScheduleError: more rows than a batch has.
        """
        if self.shard.world_size == 1:
            return rows
        if len(rows) > self.most:
            raise ScheduleError(
                f"{len(rows)} losses at once, and this rank's part of a batch has {self.most}; on several ranks give "
                "those of each batch by themselves"
            )
        assert self._gather is not None, "checked when the loader was made"
        parts = self._gather(rows)
        if len(parts) != self.shard.world_size:
            raise EngineError(f"gather gave {len(parts)} arrays for {self.shard.world_size} ranks; give one for each")
        return np.concatenate([np.asarray(part, np.int64).reshape(-1, 2) for part in parts])

    def agree(self, number: int, *, what: str) -> None:
        """Check that every rank has the same number. Every rank calls it.

        Raises:
            EngineError: they do not.
        """
        if self.shard.world_size == 1 or not self.connected:
            return
        found = self.all(np.array([[number, 0]], np.int64))[:, 0]
        if (found != number).any():
            other = int(np.flatnonzero(found != number)[0])
            raise EngineError(
                f"rank {other} has other {what} than rank {self.shard.rank} ({int(found[other]):x} and {number:x}); "
                "every rank must be given the same"
            )

    def _through_torch(self, rows: np.ndarray) -> list[np.ndarray]:
        import torch
        from torch import distributed

        on = "cpu"
        if distributed.get_backend() == "nccl":  # which refuses two ranks on one GPU
            on = self._device if self._device.startswith("cuda") else "cuda"
        own = torch.zeros(self.most + 1, 2, dtype=torch.int64, device="cpu")
        own[0, 0] = len(rows)
        own[1 : len(rows) + 1] = torch.from_numpy(np.ascontiguousarray(rows))
        own = own.to(on)
        parts = [torch.empty_like(own) for _ in range(self.shard.world_size)]
        distributed.all_gather(parts, own)
        found = [part.cpu().numpy() for part in parts]
        return [part[1 : int(part[0, 0]) + 1] for part in found]


def _group() -> int:
    """The size of torch.distributed's default group; 0 where there is none."""
    from torch import distributed

    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 0
