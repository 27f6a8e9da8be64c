"""What a batch gives beside its images: looked up by the samples' numbers when the batch is handed out.

Engines never see targets. A batch says which samples are shown, those that stand in for others included, and with that
every engine, any number of ranks and a resumed run give the same targets. What depends on the crop and the flip (boxes,
points, masks) is made from the plan's windows, which are the same on every engine, too.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from budgetloader.batch import Batch
from budgetloader.columns import Column, Plain, Ragged
from budgetloader.dataset import Dataset
from budgetloader.engines.base import Job, stand_ins
from budgetloader.errors import ArgumentError, ArgumentTypeError, DatasetError, EngineError
from budgetloader.joined import join
from budgetloader.plans import BatchPlan
from budgetloader.spatial import Spatial, following

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
        dataset: what they are samples of.
        ids: int64 [n], numbers of samples.
        image_size: height and width of the batch's images, pixels.
    """

    def __init__(self, job: Job, plan: BatchPlan, samples: np.ndarray | None = None) -> None:
        self.ids = plan.samples if samples is None else samples
        self.dataset, self.image_size = job.dataset, job.output.size_of(plan)
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
            tried = stand_ins(self._job, self._plan, row)
            shown = next((plan for plan in tried if plan.samples[0] == self.ids[row]), None)
            if shown is None:
                raise EngineError(f"sample {self.ids[row]} stands in for another, and the plan does not say how")
            windows[row], flips[row] = shown.windows[0], shown.flips[0]
        return windows, flips


class Targets:
    """What a loader gives beside images.

    Args:
        asked: as `BudgetLoader(…, targets=…)` has it; None: the labels.
        dataset: what numbers of samples are of.
        job: the engine's.

    Attributes:
        each: whether targets lie in the image, and are each view's own: True or False, or a tuple or a dict of these
            where there are several.

    Raises:
        ArgumentError: there is no such field, or an array is not of the set's length.
        ArgumentTypeError: it is nothing that can be looked up.
    """

    def __init__(self, asked: Any, dataset: Any, *, job: Job) -> None:
        self._job = job
        source = _Source(dataset)
        self._make: Callable[[Rows], Any] | None
        self.each: Any
        self._make, self.each = (None, False) if asked is None else _made(asked, source)
        self._pool = ThreadPoolExecutor(job.workers, "targets") if source.slow else None
        self._begun: dict[tuple[int, int], Future[Any]] = {}
        if asked is None and not source.labelled:
            raise ArgumentError(
                f"{dataset.path} has no integers that could be labels; say what a batch gives, as targets=…"
                + (f", of its fields {_listed(dataset.fields)}" if hasattr(dataset, "fields") else "")
            )

    def __call__(self, batch: Batch) -> Any:
        """A batch's targets: torch tensors on its images' device, or lists of what is no number."""
        if batch.transformed:  # it was given what is looked up here
            return on_device(batch.handed_out, batch.images.device)
        if self._make is None:
            return batch.labels
        begun = self._begun.pop((batch.plan.epoch, batch.plan.step), None)
        found = self.of(batch.plan, batch.samples) if begun is None or batch.replaced else begun.result()
        return on_device(found, batch.images.device)

    def ahead(self, plans: Iterator[BatchPlan]) -> Iterator[BatchPlan]:
        """The same plans. Where targets take long to make, threads begin them as the plans are taken."""
        if self._pool is None:
            return plans
        for begun in self._begun.values():
            begun.cancel()
        self._begun = {}
        return self._begin(plans, self._pool)

    def _begin(self, plans: Iterator[BatchPlan], pool: ThreadPoolExecutor) -> Iterator[BatchPlan]:
        for plan in plans:
            self._begun[plan.epoch, plan.step] = pool.submit(self.of, plan)
            yield plan

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

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
        self.slow = False  # whether something that was asked for is

    @functools.cached_property
    def labelled(self) -> bool:
        """Whether samples have labels: a file without integers has none."""
        return getattr(self.dataset, "label_field", None) is not None or not (self.dataset.labels < 0).all()

    @functools.cached_property
    def _file(self) -> Any:
        if hasattr(self.dataset, "column"):
            return self.dataset
        path = getattr(self.dataset, "path", type(self.dataset).__name__)
        advice = "give an array by sample or a function of ids as targets=…"
        if not hasattr(self.dataset, "capacity_bytes"):  # it is not served
            raise ArgumentError(f"{path} has no fields but its labels; {advice}")
        advice += ", or a column of a copy of it"
        files, verify = [file for file, _ in getattr(self.dataset, "files", ())], self.dataset.verifies
        try:
            if len(files) > 1:
                file: Any = join(files, verify=verify)
            else:
                file = Dataset(os.fspath(path), mapped=False, verify=verify)
        except DatasetError as error:
            raise ArgumentError(
                f"the service's fields are read from its file, which cannot be opened here ({error}); {advice}"
            ) from None
        if file.fingerprint != self.dataset.fingerprint:
            raise ArgumentError(f"{path} is not the file here that the service serves; {advice}")
        return file

    def column(self, name: str) -> Column | None:
        """The column of a name; None: the labels."""
        if self.labelled and name == (getattr(self.dataset, "label_field", None) or "label"):
            return None
        names = tuple(getattr(self._file, "fields", ()))
        if name not in names:
            raise ArgumentError(f"targets={name!r}: there is no such field; there are {_listed(names)}")
        return self._file.column(name)


def _made(asked: Any, source: _Source, *, moved: bool = True) -> tuple[Callable[[Rows], Any], Any]:
    """What looks up what was asked for, and which parts of it lie in the image, see `Targets.each`.

    Args:
        asked: one target, or several.
        source: its fields.
        moved: whether fields that are known to be boxes, points, masks or images follow the crop and the flip.
    """
    if isinstance(asked, Spatial):
        source.slow = source.slow or asked.slow
        inner = {name: _made(part, source, moved=False)[0] for name, part in asked.parts.items()}
        return lambda rows: asked.move({name: part(rows) for name, part in inner.items()}, rows), True
    if isinstance(asked, Mapping):
        parts = {name: _made(part, source) for name, part in asked.items()}
        each = {name: is_each for name, (_, is_each) in parts.items()}
        return lambda rows: {name: part(rows) for name, (part, _) in parts.items()}, each
    if isinstance(asked, str):
        column = source.column(asked)
        if column is None:
            labels = source.dataset.labels
            return lambda rows: labels[rows.ids], False
        return _of_column(column, source, moved)
    if isinstance(asked, Column):
        _check_length(asked, source)
        return _of_column(asked, source, moved)
    if callable(asked):
        return functools.partial(_called, asked), False
    if isinstance(asked, tuple) or (isinstance(asked, list) and not _numbers(asked)):
        if not asked:
            raise ArgumentError(f"targets={asked!r} asks for nothing; leave it out for the labels")
        those = [_made(part, source) for part in asked]
        return lambda rows: tuple(part(rows) for part, _ in those), tuple(each for _, each in those)
    return _array(asked, source), False


def _of_column(column: Column, source: _Source, moved: bool) -> tuple[Callable[[Rows], Any], Any]:
    known = following(column) if moved else None
    if moved and column.field.kind == "image":
        from budgetloader.pictures import Image  # numba's import costs a trainer of other targets half a second

        column[:0]  # where its entries are damaged, or it is not fetched, that is told now
        known = Image(column)
    return _made(known, source) if known is not None else (lambda rows: column.take(rows.ids), False)


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
        tensor[:1].cpu()  # waits for what was written to it: it is looked up on another stream than the trainer's
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
    length = len(array) if isinstance(array, Column) or array.ndim else 0
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
    if isinstance(targets, Plain):
        return list(targets)
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
