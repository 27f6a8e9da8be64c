"""Targets that lie in the image: boxes, points and masks, which follow its crop and flip.

A field that is noted as boxes, points or a mask follows by itself. For other fields, arrays and functions, `Boxes`,
`Points` and `Mask` say what they are. All of it is made from the plan's windows, which are the same on every engine.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from budgetloader import geometry
from budgetloader.columns import Column, Ragged
from budgetloader.errors import ArgumentError, CorruptSampleError, DatasetError, first_line


class Shown(Protocol):
    """The samples of a batch as they are shown; see `budgetloader.targets.Rows`."""

    dataset: Any
    ids: np.ndarray
    image_size: int

    @property
    def geometry(self) -> tuple[np.ndarray, np.ndarray]: ...


class Spatial:
    """A target that is moved with the image.

    Attributes:
        parts: what it is made of, each as `targets=` takes it.
        slow: whether making it takes so long that threads do it ahead.
    """

    parts: dict[str, Any]
    slow = False

    def move(self, values: Mapping[str, Any], rows: Shown) -> Any:
        """The parts' values as the batch's images have them."""
        raise NotImplementedError


class Boxes(Spatial):
    """Boxes: float32 [k, 4] for each sample: left, top, right and bottom, in pixels of the batch's images.

    They are cut off at the image's borders; one that lies outside has no width or no height then, and none is left out,
    so that other targets of the boxes still go with them. `Detection` leaves them out.

    Args:
        asked: a field, an array [D, k, 4] or a function, with boxes in pixels of the stored image.
    """

    def __init__(self, asked: Any) -> None:
        self.parts = {"boxes": asked}

    def move(self, values: Mapping[str, Any], rows: Shown) -> Any:
        boxes = _entries(values["boxes"], "boxes", (4,))
        flat, windows, flips = geometry.each(boxes, *rows.geometry)
        return _like(boxes, geometry.move_boxes(flat, windows, flips, image_size=rows.image_size))


class Points(Spatial):
    """Points: float32 [k, …, 2 or 3] for each sample: x, y, and perhaps whether it is visible.

    A point that leaves the image keeps its coordinates, and is not visible (0) where that is told.

    Args:
        asked: a field, an array [D, …, 2 or 3] or a function, with points in pixels of the stored image.
        mirrored: for points [k, p, …]: which of the p takes each place where the image is mirrored, such as
            (0, 2, 1) for nose, left eye and right eye.
    """

    def __init__(self, asked: Any, *, mirrored: Sequence[int] | None = None) -> None:
        self.parts = {"points": asked}
        self._mirrored = None if mirrored is None else np.asarray(mirrored, np.int64)
        if self._mirrored is not None and sorted(self._mirrored.tolist()) != list(range(self._mirrored.size)):
            raise ArgumentError(f"mirrored={mirrored!r}: give each of the places 0 … p − 1 once")

    def move(self, values: Mapping[str, Any], rows: Shown) -> Any:
        points = _entries(values["points"], "points", (2, 3))
        flat, windows, flips = geometry.each(points, *rows.geometry)
        if self._mirrored is not None and (flat.ndim < 3 or flat.shape[-2] != self._mirrored.size):
            raise ArgumentError(f"mirrored= has {self._mirrored.size} places, and points are {list(flat.shape[1:])}")
        moved = geometry.move_points(flat, windows, flips, image_size=rows.image_size, mirrored=self._mirrored)
        return _like(points, moved)


class Mask(Spatial):
    """Masks: uint8 [n, image_size, image_size], each pixel the nearest one of the stored mask.

    Args:
        asked: a field of PNGs (one channel, or a palette, whose indices count), each of the stored image's size.
        fill: what stands outside the stored image, with crop="pad".
    """

    slow = True

    def __init__(self, asked: Any, *, fill: int = 0) -> None:
        if isinstance(fill, bool) or not isinstance(fill, int) or not 0 <= fill <= 255:
            raise ArgumentError(f"fill={fill!r}: give a value of the mask, 0 … 255")
        self.parts, self._fill = {"masks": asked}, fill

    def move(self, values: Mapping[str, Any], rows: Shown) -> np.ndarray:
        windows, flips = rows.geometry
        made = np.empty((len(rows.ids), rows.image_size, rows.image_size), np.uint8)
        for row, (sample, data) in enumerate(zip(rows.ids.tolist(), values["masks"], strict=True)):
            size = (int(rows.dataset.heights[sample]), int(rows.dataset.widths[sample]))
            try:
                mask = read_mask(data, size=size)
            except DatasetError as error:
                raise CorruptSampleError(f"sample {sample}: its mask {error}", sample=sample) from None
            made[row] = geometry.move_mask(
                mask, windows[row], bool(flips[row]), image_size=rows.image_size, fill=self._fill
            )
        return made


class Detection(Spatial):
    """What detectors such as torchvision's take: for each sample a dict of its boxes, and of what goes with them.

    Boxes are moved as `Boxes` does it; those of which less than `least` pixels are left in width or height are left
    out, with their part of everything else.

    Args:
        boxes: a field of lists of boxes, or what `Boxes` takes besides.
        least: pixels of a batch's image, above 0.
        others: what goes with the boxes, an entry for each, such as labels="box_labels"; it keeps its name.
    """

    def __init__(self, boxes: Any, *, least: float = 1.0, **others: Any) -> None:
        if not least > 0:
            raise ArgumentError(f"least={least!r}: give pixels, above 0: a detector cannot take boxes of no width")
        self.parts, self._least, self._boxes = {"boxes": boxes, **others}, least, Boxes(boxes)

    def move(self, values: Mapping[str, Any], rows: Shown) -> list[dict[str, np.ndarray]]:
        moved = {**values, "boxes": self._boxes.move({"boxes": values["boxes"]}, rows)}
        samples = []
        for row in range(len(rows.ids)):
            one = {name: np.asarray(part[row]) for name, part in moved.items()}
            sides = one["boxes"][:, 2:] - one["boxes"][:, :2]
            wrong = [name for name, part in one.items() if part.shape[:1] != sides.shape[:1]]
            if wrong:
                raise DatasetError(
                    f"sample {rows.ids[row]} has {len(sides)} boxes, and its {wrong[0]!r} are of shape "
                    f"{one[wrong[0]].shape}; give one for each box"
                )
            kept = (sides >= self._least).all(axis=1)
            samples.append({name: part[kept] for name, part in one.items()})
        return samples


def following(column: Column) -> Spatial | None:
    """What a column is known to be by its field's role; None: it does not lie in the image.

    Raises:
        DatasetError: the file's notes of it are damaged.
    """
    if column.field.role == "boxes":
        return Boxes(column)
    if column.field.role != "points":
        return Mask(column) if column.field.role == "mask" else None
    mirrored = column.field.notes.get("mirrored")
    whole = isinstance(mirrored, list) and all(type(place) is int for place in mirrored)
    if mirrored is not None and not (whole and sorted(mirrored) == list(range(len(mirrored)))):
        raise DatasetError(
            f"field {column.field.name!r} has notes that are not of the form that we write; convert it again"
        )
    return Points(column, mirrored=mirrored)


def read_mask(data: bytes, *, size: tuple[int, int]) -> np.ndarray:
    """A PNG's numbers: uint8 [height, width].

    Raises:
        DatasetError: it is no PNG of one channel, or not of this size.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if (image.height, image.width) != size:  # before it is decoded
                raise DatasetError(
                    f"is of {image.width} × {image.height} pixels, and its image of {size[1]} × {size[0]}"
                )
            if image.mode not in ("1", "L", "P"):
                raise DatasetError(f"has pixels of {image.mode}, and not numbers of 8 bits")
            return np.asarray(image).astype(np.uint8)
    except DatasetError:
        raise
    except Exception as error:  # whatever a decoder thinks of damaged bytes
        raise DatasetError(f"is no PNG ({first_line(error)})") from None


def _entries(values: Any, what: str, last: tuple[int, ...]) -> Ragged | np.ndarray:
    """Boxes or points of n samples, as arrays."""
    try:
        if isinstance(values, (list, tuple)):
            arrays = [np.asarray(one, np.float32) for one in values]
            shape = next((one.shape[1:] for one in arrays if one.size), (last[0],))
            values = Ragged.of([one if one.size else np.empty((0, *shape), np.float32) for one in arrays])
        elif not isinstance(values, Ragged):
            values = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{what} are no arrays of one shape ({first_line(error)})") from None
    flat = values.flat if isinstance(values, Ragged) else values
    if flat.dtype.kind not in "iuf" or flat.ndim < 2 or flat.shape[-1] not in last:
        numbers = " or ".join(map(str, last))
        raise DatasetError(f"{what} are {flat.dtype} of shape {list(flat.shape)}; they need {numbers} numbers each")
    return values


def _like(values: Ragged | np.ndarray, moved: np.ndarray) -> Any:
    return Ragged(moved, values.lengths) if isinstance(values, Ragged) else moved
