"""Which part of each global batch is a rank's own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from budgetloader.errors import ScheduleError


@dataclass(frozen=True)
class Shard:
    """The part of each global batch that one rank makes."""

    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not (self.world_size >= 1 and 0 <= self.rank < self.world_size):
            raise ScheduleError(f"rank {self.rank} of world_size {self.world_size}: give 0 <= rank < world_size")

    def share(self, batch_size: int) -> int:
        """This rank's samples of a batch of `batch_size`.

        Raises:
            ScheduleError: the ranks would get unequal shares.
        """
        if batch_size % self.world_size:
            raise ScheduleError(
                f"batch_size {batch_size} is the whole batch of all ranks and is no multiple of "
                f"world_size {self.world_size}; give one that is"
            )
        return batch_size // self.world_size

    def positions(self, start: int, stop: int) -> np.ndarray:
        """This rank's positions of the batch [start, stop): every rank gets equally many.

        Together the ranks have the whole batch. Where its size is no multiple of world_size (only
        the short last batch of a full epoch), the batch's first samples fill the ranks up, so that
        no rank is left without work in a collective operation.
        """
        share = -(-(stop - start) // self.world_size)
        offsets = np.arange(self.rank * share, (self.rank + 1) * share, dtype=np.int64)
        return start + offsets % (stop - start)


def local_shard(rank: int | None, world_size: int | None) -> Shard:
    """The shard that was asked for; where none was, torch.distributed's, or the whole."""
    if (rank is None) != (world_size is None):
        raise ScheduleError(f"rank {rank} and world_size {world_size}: give both or neither")
    if rank is not None and world_size is not None:
        return Shard(rank, world_size)
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        return Shard(distributed.get_rank(), distributed.get_world_size())
    return Shard()
