"""Where a trainer stands in its batches, and the state that resumes it exactly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from budgetloader.errors import ResumeError, ScheduleError
from budgetloader.schedule import Schedule

_STATE_VERSION = 1


class Cursor:
    """The next batch's epoch and step, in a stream that runs on across epochs.

    Args:
        steps: batches of each epoch.
        identity: what a state must agree with to be of the same stream; JSON-able.
        schedule: the schedule of training. A state is accepted, too, if its schedule is the beginning of this one.
        after_last: what comes after the last epoch: "end", or "again" its only epoch.

    Attributes:
        epoch, step: of the next batch.
        begun: whether an iteration has begun since the cursor was moved: the next one is then the next epoch's,
            unless that one took no more than a look: one batch, or none.
    """

    def __init__(
        self,
        steps: Sequence[int],
        *,
        identity: dict[str, Any],
        schedule: Schedule | None = None,
        after_last: Literal["end", "again"] = "end",
    ) -> None:
        self._steps, self._schedule, self._again = steps, schedule, after_last == "again"
        self._identity = identity if schedule is None else {**identity, "schedule": str(schedule)}
        self.epoch, self.step, self.begun = 0, 0, False
        self._first: int | None = None  # the step at which the iteration began; None: its batches are not counted
        self._before = (0, 0, False)  # where an iteration would go on from, if this one was a look
        self._left = (0, 0)  # where `epochs` would
        self._announced = False  # whether `epochs` has named an epoch, and its iteration is to come
        self._training = False  # whether the iteration was that one

    def __len__(self) -> int:
        """Batches of the epoch; 0 after the last."""
        return self._steps[self.epoch] if self.epoch < len(self._steps) else 0

    def has_begun(self, epoch: int) -> bool:
        """Whether batches of an epoch were handed out, but for a look, or it lies behind."""
        here, step, begun = self._place()
        return epoch < here or (epoch == here and (step > 0 or begun))

    # Iterations

    def begin(self, *, counted: bool = True) -> None:
        """Start iterating: over the epoch, from its step, or over the next one if this one was begun.

        Args:
            counted: whether `step` will be moved on by each batch, so that a look can be told from a loop.
        """
        before, left = self._place(), self._resume()
        self._go(*self._next())
        self.begun, self._before, self._left = True, before, left
        self._first = self.step if counted else None
        self._training, self._announced = self._announced, False

    def check_next(self) -> int:
        """The epoch that an iteration would be of.

        Raises:
            ScheduleError: there is none.
        """
        return self._next()[0]

    def end(self) -> None:
        """The epoch's batches were all handed out."""
        self._go(self._following(self.epoch), 0)

    def epochs(self) -> Iterator[int]:
        """The epochs that are left; the caller iterates over each before it takes the next.

        The first one goes on behind the last batch that was handed out; a look (see `begun`) does not count. Where the
        caller's iteration ends early and the next epoch is taken, the rest of that epoch is skipped.
        """
        while True:
            self._go(*self._normal(*self._resume()))
            if self.epoch >= len(self._steps):
                self._announced = False
                return
            epoch, self._announced = self.epoch, True
            yield epoch
            if self.epoch == epoch:
                self.end()

    def _next(self) -> tuple[int, int]:
        """Where an iteration would begin."""
        epoch, step, begun = self._place()
        return self._check(self._following(epoch) if begun else epoch), 0 if begun else step

    def _place(self) -> tuple[int, int, bool]:
        """Epoch, step and `begun`; where the iteration was a look, those before it."""
        return self._before if self._is_look() else (self.epoch, self.step, self.begun)

    def _resume(self) -> tuple[int, int]:
        """The batch behind the last one that was handed out, but for looks."""
        return self._left if self._is_look() and not self._training else (self.epoch, self.step)

    def _is_look(self) -> bool:
        """Whether the iteration took one batch at most, and did not finish its epoch."""
        return self.begun and self._first is not None and self.step <= self._first + 1 and self.step < len(self)

    # Moves and states

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of `epoch`; to where it was resumed, if that was in this epoch and nothing came since."""
        epoch = 0 if self._again else self._check(epoch)
        place, step, begun = self._place()
        self._go(epoch, step if epoch == place and not begun else 0)

    def state_dict(self, *, at: tuple[int, int] | None = None) -> dict[str, Any]:
        """The state to resume from, here or at another (epoch, step)."""
        epoch, step = self._normal(*(at or (self.epoch, self.step)))
        return {"version": _STATE_VERSION, "epoch": epoch, "step": step, **self._identity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to where a state was taken.

        Raises:
            ResumeError: it is of another stream.
        """
        if not isinstance(state, dict) or state.get("version") != _STATE_VERSION:
            raise ResumeError(f"state {state!r} is no state_dict of this version ({_STATE_VERSION})")
        for name, own in self._identity.items():
            given = state.get(name)
            if given != own and not (name == "schedule" and self._extends(given)):
                raise ResumeError(
                    f"the state was taken with {name} {given!r}, and this one has {own!r}; "
                    "resume with what the state was taken with" + (_LONGER if name == "schedule" else "")
                )
        for name in state.keys() - self._identity.keys() - {"version", "epoch", "step"}:
            raise ResumeError(
                f"the state was taken with {name} {state[name]!r}, and this one has none; "
                "resume with what the state was taken with"
            )
        epoch: Any = state.get("epoch")
        step: Any = state.get("step")
        if not (_is_count(epoch) and _is_count(step) and self._is_inside(epoch, step)):
            raise ResumeError(f"the state's epoch {epoch!r}, step {step!r} is outside the schedule")
        self._go(epoch, step)

    def _extends(self, text: Any) -> bool:
        """Whether the schedule begins with all ratios of the one that a state names, and draws the same samples."""
        if self._schedule is None or not isinstance(text, str):
            return False
        epochs = text.rpartition("@")[2]
        if not epochs.isdecimal() or len(epochs) > 9 or int(epochs) > self._schedule.epochs:
            return False  # without making it: a stranger's text may name any number
        try:
            earlier = Schedule.parse(text).ratios
        except ScheduleError:
            return False
        if self._identity.get("sampling") == "static" and max(earlier) != max(self._schedule.ratios):
            return False  # the one draw that all epochs share is as large as the largest budget
        return self._schedule.ratios[: len(earlier)] == earlier

    def _normal(self, epoch: int, step: int) -> tuple[int, int]:
        """A place, that of an epoch's end as the beginning of what follows."""
        return (self._following(epoch), 0) if step and step == self._steps[epoch] else (epoch, step)

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


_LONGER = ", or with a longer schedule that begins with all of its ratios (for sampling='static', none larger)"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
