"""What a batch gives beside its images: looked up by the samples' numbers when the batch is handed out.

Engines never see targets. A batch says which samples are shown, those that stand in for others included, and with that
every engine, any number of ranks and a resumed run give the same targets. What depends on the crop and the flip (boxes,
points, masks) is made from the plan's windows, which are the same on every engine, too.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from budgetloader.batch import Batch
from budgetloader.columns import Column, Ragged
from budgetloader.dataset import Dataset
from budgetloader.engines.base import Job, stand_ins
from budgetloader.errors import ArgumentError, ArgumentTypeError, DatasetError, EngineError
from budgetloader.plans import BatchPlan

if TYPE_CHECKING:
    import torch

_LISTED = 20  # names in a message


class Rows:
    """The samples of a batch as they are shown.

    Args:
        job: the engine's.
        plan: what was asked for.
        samples: int64 [n], what is shown instead; None: the plan's.

    Attributes:
        ids: int64 [n], numbers of samples.
        image_size: height and width of the batch's images, pixels.
    """

    def __init__(self, job: Job, plan: BatchPlan, samples: np.ndarray | None = None) -> None:
        self.ids = plan.samples if samples is None else samples
        self.image_size = job.output.image_size
        self._job, self._plan = job, plan

    def __len__(self) -> int:
        return len(self.ids)

    @functools.cached_property
    def geometry(self) -> tuple[np.ndarray, np.ndarray]:
        """The windows (int64 [n, 4]: top, left, height, width) and flips (bool [n]) of what is shown."""
        replaced = np.flatnonzero(self.ids != self._plan.samples)
        if not replaced.size:
            return self._plan.windows, self._plan.flips
        windows, flips = self._plan.windows.copy(), self._plan.flips.copy()
        for row in replaced.tolist():
            # A sample's window at a position is the same at whichever attempt it was drawn.
            shown = next(plan for plan in stand_ins(self._job, self._plan, row) if plan.samples[0] == self.ids[row])
            windows[row], flips[row] = shown.windows[0], shown.flips[0]
        return windows, flips


class Target(Protocol):
    """One target of a loader: what is asked for by a name, an array or a function, made ready to look up."""

    def __call__(self, rows: Rows) -> Any:
        """The targets of some rows: numpy or torch arrays [n, …], or lists of n."""


class Targets:
    """What a loader gives beside images.

    Args:
        asked: as `BudgetLoader(…, targets=…)` has it; None: the labels.
        dataset: what numbers of samples are of.
        job: the engine's.

    Raises:
        ArgumentError: there is no such field, or an array is not of the set's length.
        ArgumentTypeError: it is nothing that can be looked up.
    """

    def __init__(self, asked: Any, dataset: Any, *, job: Job) -> None:
        self._job = job
        self._labels = asked is None
        self._make = None if asked is None else _made(asked, _Source(dataset))
        if asked is None and getattr(dataset, "label_field", "") is None:
            raise ArgumentError(
                f"{dataset.path} has no integers that could be labels; say what a batch gives, as targets=…, of its "
                f"fields {_listed(dataset.fields)}"
            )

    def __call__(self, batch: Batch) -> Any:
        """A batch's targets: torch tensors on its images' device, or lists of what is no number."""
        if batch.transformed:  # it was given what is looked up here
            return on_device(batch.handed_out, batch.images.device)
        if self._make is None:
            return batch.labels
        return on_device(self.of(batch.plan, batch.samples), batch.images.device)

    def of(self, plan: BatchPlan, samples: np.ndarray | None = None) -> Any:
        """The same of a plan, as numpy has it and not yet on a device.

        Args:
            plan: of a batch.
            samples: int64 [n], what is shown instead of the plan's; None: the plan's.
        """
        rows = Rows(self._job, plan, samples)
        return plan.labels if self._make is None else self._make(rows)


class _Source:
    """The fields of a dataset; of a served one those of the file, if it is on this machine, too."""

    def __init__(self, dataset: Any) -> None:
        self.dataset, self.size = dataset, len(dataset.labels)

    @functools.cached_property
    def _file(self) -> Any:
        if hasattr(self.dataset, "column"):
            return self.dataset
        path = getattr(self.dataset, "path", None)
        advice = "give an array by sample or a function of ids as targets=…, or a column of a copy of it"
        if path is None:
            raise ArgumentError(f"this dataset has no fields but its labels; {advice}")
        try:
            file = Dataset(os.fspath(path), mapped=False)
        except DatasetError as error:
            raise ArgumentError(
                f"the service's fields are read from its file, which cannot be opened here ({error}); {advice}"
            ) from None
        if file.fingerprint != self.dataset.fingerprint:
            raise ArgumentError(f"{path} is not the file here that the service serves; {advice}")
        return file

    def column(self, name: str) -> Column | None:
        """The column of a name; None: the labels."""
        if name == getattr(self.dataset, "label_field", "label"):
            return None
        names = tuple(self._file.fields)
        if name not in names:
            raise ArgumentError(f"targets={name!r}: there is no such field; there are {_listed(names)}")
        return self._file.column(name)


def _made(asked: Any, source: _Source) -> Callable[[Rows], Any]:
    """What looks up what was asked for."""
    if hasattr(asked, "bind"):
        return asked.bind(source)
    if isinstance(asked, Mapping):
        parts = {name: _made(part, source) for name, part in asked.items()}
        return lambda rows: {name: part(rows) for name, part in parts.items()}
    if isinstance(asked, str):
        return _named(asked, source)
    if isinstance(asked, Column):
        _check_length(asked, source)
        return lambda rows: asked.take(rows.ids)
    if callable(asked):
        return functools.partial(_called, asked)
    if isinstance(asked, tuple) or (isinstance(asked, list) and not _numbers(asked)):
        if not asked:
            raise ArgumentError(f"targets={asked!r} asks for nothing; leave it out for the labels")
        those = [_made(part, source) for part in asked]
        return lambda rows: tuple(part(rows) for part in those)
    return _array(asked, source)


def _named(name: str, source: _Source) -> Callable[[Rows], Any]:
    column = source.column(name)
    if column is None:
        labels = source.dataset.labels
        return lambda rows: labels[rows.ids]
    return lambda rows: column.take(rows.ids)


def _called(function: Callable[[np.ndarray], Any], rows: Rows) -> Any:
    given = function(rows.ids.copy())
    wrong = next((part for part in _arrays(given) if len(part) != len(rows)), None)
    if wrong is not None:
        raise EngineError(
            f"targets: {getattr(function, '__name__', function)!s} gave {len(wrong)} targets for {len(rows)} ids; give "
            "one for each, in their order"
        )
    return given


def _arrays(given: Any) -> list[Any]:
    """The arrays in what a function gave."""
    if isinstance(given, Mapping):
        given = tuple(given.values())
    if isinstance(given, tuple):
        return [array for part in given for array in _arrays(part)]
    return [given] if hasattr(given, "__len__") and not isinstance(given, (str, bytes)) else []


def _array(asked: Any, source: _Source) -> Callable[[Rows], Any]:
    import torch

    if isinstance(asked, torch.Tensor):
        _check_length(asked, source)
        tensor = asked.detach()
        if tensor.device.type == "cpu" and tensor.dtype != torch.bfloat16:  # torch would wake threads for it
            array = tensor.numpy()
            return lambda rows: array[rows.ids]
        return lambda rows: tensor[torch.from_numpy(np.array(rows.ids)).to(tensor.device)]
    try:
        array = asked if isinstance(asked, np.ndarray) else np.asarray(asked)
    except ValueError:
        array = np.array(None)
    if array.dtype.kind not in "biufc":
        raise ArgumentTypeError(
            f"targets={str(asked)[:60]} cannot be looked up; give a field's name, an array of numbers by sample, a "
            "function of ids, or a tuple or a dict of them"
        )
    _check_length(array, source)
    return lambda rows: array[rows.ids]


def _check_length(array: Any, source: _Source) -> None:
    length = len(array) if np.ndim(array) or isinstance(array, Column) else 0
    if length != source.size:
        raise ArgumentError(
            f"targets: an array of {length:,} entries does not go with the set's {source.size:,} samples"
        )


def _numbers(values: Sequence[Any]) -> bool:
    """Whether a list is an array, and no list of targets."""
    return bool(values) and all(isinstance(value, (bool, int, float, np.number, list)) for value in values)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:_LISTED]))
    return shown + (", …" if len(names) > _LISTED else "")


def on_device(targets: Any, device: torch.device) -> Any:
    """Arrays as tensors on a device, in whatever they stand in; the rest as it is.

    On "mps", which has no float64, such an array becomes float32.
    """
    import torch

    if isinstance(targets, Mapping):
        return {name: on_device(part, device) for name, part in targets.items()}
    if isinstance(targets, tuple):
        return tuple(on_device(part, device) for part in targets)
    if isinstance(targets, Ragged):
        flat = on_device(targets.flat, device)
        return list(flat.split(targets.lengths.tolist()))
    if isinstance(targets, list):
        return [on_device(part, device) for part in targets]
    if isinstance(targets, np.ndarray):
        if targets.dtype.kind not in "biufc":
            return targets
        targets = torch.from_numpy(np.ascontiguousarray(targets))
    if isinstance(targets, torch.Tensor):
        if device.type == "mps" and targets.dtype == torch.float64:
            targets = targets.float()
        return targets.to(device, non_blocking=device.type == "cuda")
    return targets
