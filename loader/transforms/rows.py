"""Targets by rows: those of some samples of a batch, and batches out of samples'.

Targets are a tensor or an array with one entry per sample, a list of one value per sample, or a tuple or dict of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


def part(targets: Any, rows: slice) -> Any:
    """The targets of some rows."""
    if isinstance(targets, dict):
        return {name: part(value, rows) for name, value in targets.items()}
    if isinstance(targets, tuple):
        return _tuple(targets, [part(value, rows) for value in targets])
    return targets[rows]


def single(targets: Any, row: int) -> Any:
    """One sample's."""
    if isinstance(targets, dict):
        return {name: single(value, row) for name, value in targets.items()}
    if isinstance(targets, tuple):
        return _tuple(targets, [single(value, row) for value in targets])
    return targets[row]


def joined(parts: Sequence[Any]) -> Any:
    """The targets of a batch, out of its parts'."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, torch.Tensor):
        return torch.cat(list(parts))
    if isinstance(first, np.ndarray):
        return np.concatenate(list(parts))
    if isinstance(first, dict):
        return {name: joined([each[name] for each in parts]) for name in first}
    if isinstance(first, tuple):
        return _tuple(first, [joined(values) for values in zip(*parts, strict=True)])
    return [value for each in parts for value in each]


def stacked(samples: Sequence[Any]) -> Any:
    """The targets of some rows, out of single samples': tensors of one shape are stacked, others listed."""
    first = samples[0]
    if isinstance(first, torch.Tensor):
        same = all(isinstance(value, torch.Tensor) and value.shape == first.shape for value in samples)
        return torch.stack(list(samples)) if same else list(samples)
    if isinstance(first, dict):
        return {name: stacked([each[name] for each in samples]) for name in first}
    if isinstance(first, tuple):
        return _tuple(first, [stacked(values) for values in zip(*samples, strict=True)])
    if isinstance(first, (np.generic, np.ndarray)) and len({np.shape(value) for value in samples}) == 1:
        return np.stack(list(samples))
    return list(samples)


def count(targets: Any) -> int:
    """How many samples the targets are of."""
    while isinstance(targets, (dict, tuple)):
        values = list(targets.values() if isinstance(targets, dict) else targets)
        if not values:
            return 0
        targets = values[0]
    return len(targets)


def equal(first: Any, second: Any) -> bool:
    """Whether two targets are the same."""
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and first.dtype == second.dtype and _same(first, second)
    if isinstance(first, np.ndarray):
        return bool(np.array_equal(first, second))
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(value, second[name]) for name, value in first.items())
    if isinstance(first, (tuple, list)):
        return len(first) == len(second) and all(map(equal, first, second))
    return bool(first == second)


def copied(targets: Any) -> Any:
    """A copy that may be written to."""
    if isinstance(targets, torch.Tensor):
        return targets.clone()
    if isinstance(targets, np.ndarray):
        return targets.copy()
    if isinstance(targets, dict):
        return {name: copied(value) for name, value in targets.items()}
    if isinstance(targets, tuple):
        return _tuple(targets, [copied(value) for value in targets])
    return [copied(value) for value in targets] if isinstance(targets, list) else targets


def _same(first: torch.Tensor, second: torch.Tensor) -> bool:
    return first.shape == second.shape and bool(torch.equal(first, second))


def _tuple(like: tuple, values: list[Any]) -> tuple:
    """A tuple, or a named one of the same kind."""
    return type(like)(*values) if hasattr(like, "_fields") else tuple(values)
