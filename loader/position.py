"""Where a stream of batches stands, and the state that resumes it exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from budgetloader.errors import ResumeError, ScheduleError

_STATE_VERSION = 1


class Position:
    """The next batch's epoch and step, in a stream that runs on across epochs.

    Args:
        steps: batches of each epoch.
        identity: what a state must agree with to be of the same stream; JSON-able.
        after_last: what comes after the last epoch: "end", or "again" its only epoch.

    Attributes:
        epoch, step: of the next batch.
        begun: whether the epoch has been iterated over since it was gone to: the next iteration
            is then the next epoch's.
    """

    def __init__(
        self, steps: Sequence[int], *, identity: dict[str, Any], after_last: Literal["end", "again"] = "end"
    ) -> None:
        self._steps, self._identity, self._again = steps, identity, after_last == "again"
        self.epoch, self.step, self.begun = 0, 0, False

    def __len__(self) -> int:
        """Batches of the epoch; 0 after the last."""
        return self._steps[self.epoch] if self.epoch < len(self._steps) else 0

    def begin(self) -> None:
        """Start iterating: over the epoch, from its step, or over the next one if this one was begun."""
        self._go(self.check_next(), 0 if self.begun else self.step)
        self.begun = True

    def check_next(self) -> int:
        """The epoch that an iteration would be of.

        Raises:
            ScheduleError: there is none.
        """
        return self._check(self._following(self.epoch) if self.begun else self.epoch)

    def end(self) -> None:
        """The epoch's batches were all handed out."""
        self._go(self._following(self.epoch), 0)

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of `epoch`; stay where it was resumed, if it was in that epoch."""
        epoch = 0 if self._again else self._check(epoch)
        if epoch != self.epoch or self.begun:
            self._go(epoch, 0)

    def state_dict(self, *, at: tuple[int, int] | None = None) -> dict[str, Any]:
        """The state to resume from, here or at another (epoch, step)."""
        epoch, step = at or (self.epoch, self.step)
        if step and step == self._steps[epoch]:
            epoch, step = self._following(epoch), 0
        return {"version": _STATE_VERSION, "epoch": epoch, "step": step, **self._identity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if not isinstance(state, dict) or state.get("version") != _STATE_VERSION:
            raise ResumeError(f"state {state!r} is no state_dict of this version ({_STATE_VERSION})")
        for name, mine in self._identity.items():
            if state.get(name) != mine:
                raise ResumeError(
                    f"the state was taken with {name} {state.get(name)!r}, and this one has {mine!r}; "
                    "resume with what the state was taken with"
                )
        epoch: Any = state.get("epoch")
        step: Any = state.get("step")
        if not (_is_count(epoch) and _is_count(step) and self._is_inside(epoch, step)):
            raise ResumeError(f"the state's epoch {epoch!r}, step {step!r} is outside the schedule")
        self._go(epoch, step)

    def _following(self, epoch: int) -> int:
        return 0 if self._again else epoch + 1

    def _is_inside(self, epoch: int, step: int) -> bool:
        if epoch < len(self._steps):
            return step < self._steps[epoch]
        return (epoch, step) == (len(self._steps), 0)

    def _check(self, epoch: int) -> int:
        count = len(self._steps)
        if not (_is_count(epoch) and epoch < count):
            raise ScheduleError(
                f"epoch {epoch!r} is outside the schedule's {count} (0 … {count - 1}); "
                "use set_epoch to go back, or a longer schedule"
            )
        return epoch

    def _go(self, epoch: int, step: int) -> None:
        self.epoch, self.step, self.begun = epoch, step, False


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
