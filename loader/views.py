"""Several images of each sample: random crops for self-supervision, and the crops of an evaluation.

To an engine they are rows of a larger batch: all samples' first views, then all second ones, and so on. The first view
of training is the one that there is without more of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from budgetloader import rng, windows
from budgetloader.arguments import check_count
from budgetloader.errors import ArgumentError
from budgetloader.plans import BatchPlan, Index

if TYPE_CHECKING:
    import torch

MOST = 256  # views of a sample
Windows = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Heights and widths of images, int64 [n], to int64 [n, 5]: top, left, height, width, flip."""


class Views:
    """What `BudgetLoader(…, views=…, crops=…)` mean.

    Args:
        index: the dataset's sizes.
        train: whether it is training.
        views: random crops of each sample.
        crops: of an evaluation: "five", "ten", a share of the shorter side, or several; None: one of 0.875.
        crop: "resized" or "pad", as the planner has it.
        seed: of the windows.

    Attributes:
        count: images of each sample.

    Raises:
        ArgumentError: they cannot be.
    """

    def __init__(self, index: Index, *, train: bool, views: int, crops: Any, crop: str, seed: int) -> None:
        self._index, self._seed = index, seed
        self._padded = crop == "pad"
        self.count = check_count(views, what="views")
        if self.count > MOST:
            raise ArgumentError(f"views {views} is more than {MOST}")
        if not train and self.count > 1:
            raise ArgumentError(f"views={views} are random crops of training; for an evaluation give crops='five'")
        if train and crops is not None:
            raise ArgumentError(f"crops={crops!r} are of an evaluation, train=False; for training give views=")
        if crops is not None and self._padded:
            raise ArgumentError(f"crops={crops!r}: with crop='pad' images are shown whole; give crop='resized'")
        self._crops = None if crops is None else crops_of(crops)
        self._stacked = views > 1 or (self._crops is not None and not isinstance(crops, (int, float)))
        if self._crops is not None:
            self.count = len(self._crops)

    def plans(self, plans: Iterator[BatchPlan]) -> Iterator[BatchPlan]:
        """Plans with all views of their samples."""
        return plans if self.count == 1 and self._crops is None else map(self.plan, plans)

    def plan(self, plan: BatchPlan) -> BatchPlan:
        """A plan of count·n rows, out of one of n."""
        found = [self._shown(plan, view) for view in range(self.count)]
        return BatchPlan(
            plan.epoch,
            plan.step,
            np.tile(plan.positions, self.count),
            np.tile(plan.samples, self.count),
            np.concatenate([each[:, :4] for each in found]),
            np.concatenate([each[:, 4] != 0 for each in found]),
            np.tile(plan.labels, self.count),
        )

    def replacement(self, replacement: Callable[..., BatchPlan]) -> Callable[..., BatchPlan]:
        """A planner's `replacement`, with the window of the view that a row is of."""
        if self.count == 1:
            return replacement

        def of_view(plan: BatchPlan, row: int, *, attempt: int) -> BatchPlan:
            found = replacement(plan, row, attempt=attempt)
            shown = self._shown(found, row // (len(plan) // self.count))
            return replace(found, windows=shown[:, :4], flips=shown[:, 4] != 0)

        return of_view

    def split(
        self, images: torch.Tensor, targets: Any, *, transformed: bool, each: Any = False
    ) -> tuple[torch.Tensor, Any]:
        """Images [views, n, c, h, w], and the targets of n samples.

        Args:
            images, targets: of views · n rows.
            transformed: whether a transform has changed the targets.
            each: which targets lie in the image, see `budgetloader.targets.Targets`: of those there are [views, n, …],
                or a list of n for each view.

        Raises:
            ArgumentError: a transform gave a sample's views other targets, or targets of another form.
        """
        if not self._stacked:
            return images, targets
        return images.unflatten(0, (self.count, -1)), self._split(targets, each, len(images) // self.count, transformed)

    def _split(self, targets: Any, each: Any, count: int, transformed: bool) -> Any:
        from budgetloader.transforms import rows

        def of_view(view: int) -> Any:
            return rows.part(targets, slice(count * view, count * (view + 1)))

        if isinstance(each, (dict, tuple)):
            keys: Any = each.keys() if isinstance(each, dict) else range(len(each))
            same = isinstance(targets, type(each)) and len(targets) == len(each)
            if not same or (isinstance(each, dict) and targets.keys() != each.keys()):
                raise ArgumentError("transform gave targets of another form; with views= and crops= give the same back")
            parts = [self._split(targets[key], each[key], count, transformed) for key in keys]
            return dict(zip(keys, parts, strict=True)) if isinstance(each, dict) else tuple(parts)
        if each:
            views = [of_view(view) for view in range(self.count)]
            return targets.unflatten(0, (self.count, count)) if hasattr(targets, "unflatten") else views
        if transformed and not all(rows.equal(of_view(view), of_view(0)) for view in range(self.count)):
            raise ArgumentError("transform gave the views of a sample different targets; mix samples without views=")
        return of_view(0)

    def first(self, targets: Any) -> Any:
        """What belongs to the first view, of arrays [count·n, …]."""
        if not self._stacked:
            return targets
        from budgetloader.transforms import rows

        return rows.part(targets, slice(0, rows.count(targets) // self.count))

    def _shown(self, plan: BatchPlan, view: int) -> np.ndarray:
        """The windows and flips of one view: int64 [n, 5]."""
        if self._crops is None and view == 0:
            return np.column_stack((plan.windows, plan.flips))
        heights, widths = self._index.heights[plan.samples], self._index.widths[plan.samples]
        if self._crops is not None:
            return self._crops[view](heights, widths)
        draw = windows.padded_crop if self._padded else windows.random_resized_crop
        return draw(heights, widths, plan.positions, seed=view_seed(self._seed, view), epoch=plan.epoch)


def view_seed(seed: int, view: int) -> int:
    """The seed of one view's windows, 0 … 2⁶⁴ − 1."""
    words = rng.draws(np.array([view]), seed=seed, epoch=0, purpose=rng.VIEW)
    return seed if view == 0 else int(words[0, 0]) << 32 | int(words[1, 0])


def crops_of(crops: Any) -> list[Windows]:
    """The windows that `crops=` asks for.

    Raises:
        ArgumentError: it is none of what there is.
    """
    if isinstance(crops, str):
        if crops not in ("five", "ten"):
            raise ArgumentError(
                f"crops {crops!r} is not known; give 'five', 'ten', a share of the shorter side, or several"
            )
        five = [_placed(down, across) for down, across in ((0, 0), (0, 2), (2, 0), (2, 2), (1, 1))]
        return five if crops == "five" else [*five, *map(_mirrored, five)]
    shares = crops if isinstance(crops, (tuple, list)) else (crops,)
    if not 1 <= len(shares) <= MOST:
        raise ArgumentError(f"crops {crops!r}: give from 1 to {MOST} shares of the shorter side")
    return [_centre(share) for share in shares]


def _centre(share: Any) -> Windows:
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
        raise ArgumentError(f"crops {share!r} is no share of the shorter side; give more than 0, and 1 at the most")
    return _placed(1, 1, share=share)


def _placed(down: int, across: int, *, share: float = windows.CENTER) -> Windows:
    """A square of a share of the shorter side, at 0, 1 or 2 halves of the way down and across."""

    def place(heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
        side = np.maximum(np.rint(np.minimum(heights, widths) * share).astype(np.int64), 1)
        top, left = (heights - side) * down // 2, (widths - side) * across // 2
        return np.stack((top, left, side, side, np.zeros_like(side)), axis=1)

    return place


def _mirrored(place: Windows) -> Windows:
    def mirrored(heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
        found = place(heights, widths)
        found[:, 4] = 1
        return found

    return mirrored
