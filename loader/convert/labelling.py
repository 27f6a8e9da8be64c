"""What images have beside their class, for `convert`: from a table, from COCO's annotations, from a folder of masks."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from budgetloader.convert.sources import SUFFIXES, Filled, Source, image_folder
from budgetloader.convert.tables import field_of, read_table
from budgetloader.errors import DatasetError, first_line
from budgetloader.fields import Field
from budgetloader.limits import MAX_LABEL, MAX_PIXELS, check_pixels
from budgetloader.paths import local

_KEYS = ("file_name", "filename", "file", "image_path", "path", "image", "key", "image_id", "name", "id")
Missing = Literal["raise", "skip"]


def annotated(
    source: Source,
    path: str | Path,
    *,
    key: str | None = None,
    columns: Mapping[str, str | Sequence[str]] | Sequence[str] | None = None,
    label: str | None = None,
    missing: Missing = "raise",
) -> Source:
    """A source whose images have, besides, what a table or COCO's annotations say of them.

    Args:
        source: the images.
        path: a table (see `budgetloader.convert.tables.read_table`), or COCO's JSON (instances or keypoints).
        key: the column that names the images, by their path in the source, by the file's name, or by that without its
            ending; default: the first of file_name, filename, file, image_path, path, image, key, image_id, name, id.
        columns: which columns to take, and by which names; several columns of numbers under one name are an array.
            Default: all others, by their own names.
        label: the column that is the label, in place of the class folders: whole numbers, or names of classes.
        missing: what to do with an image that has no row: "raise", or "skip" (leave it out).

    Raises:
        DatasetError: there is no such column, images without a row, or rows that do not tell images apart.
    """
    place = local(path)
    if place.suffix.lower() == ".json" and place.is_file():
        content = _coco_of(place)
        if content is not None:
            return _with_coco(source, content, place, missing=missing)
    table = read_table(place)
    key = key or next((name for name in _KEYS if name in table), None)
    if key is None or key not in table:
        what = "none of its columns is known to name the images" if key is None else f"it has no column {key!r}"
        raise DatasetError(f"{place}: {what}; say which does, with --key, of {_shown(table)}")
    rows, kept = _rows(source, [str(one) for one in table[key]], place, missing)
    taken = _chosen(table, columns, leave=(key, label), place=place)
    filled = []
    for name, values in taken.items():
        field, ready = field_of(name, [values[row] for row in rows])
        filled.append(Filled(field, ready))
    whole = _part(source, kept, rows, len(next(iter(table.values()))), place)
    if label is not None:
        if label not in table:
            raise DatasetError(f"{place} has no column {label!r} for the label; it has {_shown(table)}")
        labels, classes = _labels([table[label][row] for row in rows], label, place)
        whole = dataclasses.replace(whole, labels=labels, classes=classes)
    return dataclasses.replace(whole, columns=(*whole.columns, *filled))


def masked(source: Source, folder: str | Path, *, name: str = "mask", max_pixels: int = MAX_PIXELS) -> Source:
    """A source whose images have masks: PNGs of numbers (or of a palette's) of the images' size.

    Args:
        source: the images.
        folder: with a PNG for each image, named as it is but for the ending.
        name: of the field.
        max_pixels: of a mask.

    Raises:
        DatasetError: an image has no mask.
    """
    root = local(folder)
    by_name = _index([file.relative_to(root).as_posix() for file in sorted(root.rglob("*.png"))])
    files = []
    for image in source.names:
        found = next((by_name[one] for one in _names(image) if by_name.get(one)), None)
        if found is None:
            raise DatasetError(f"{image} has no mask in {root}; it would be {PurePosixPath(image).stem}.png")
        files.append(root / found)
    return dataclasses.replace(
        source, columns=(*source.columns, Filled(Field(name, "bytes", role="mask"), _Files(files, max_pixels)))
    )


def images_in(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Source | None:
    """The images of a folder that has some beside no class folder, without labels; None for any other source."""
    root = local(path)
    if not root.is_dir() or not any(file.suffix.lower() in SUFFIXES and file.is_file() for file in root.iterdir()):
        return None
    return image_folder(root, max_pixels=max_pixels, flat=True)


class _Files(Sequence[bytes]):
    """Files' bytes, read when they are asked for."""

    def __init__(self, files: list[Path], max_pixels: int) -> None:
        self._files, self._max_pixels = files, max_pixels

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, i: Any) -> Any:
        from PIL import Image

        file = self._files[i]
        try:
            data = file.read_bytes()
            with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
                check_pixels(*image.size, most=self._max_pixels)
                if image.mode not in ("1", "L", "P"):
                    raise DatasetError(f"{file} has pixels of {image.mode}; a mask has numbers of 8 bits")
        except DatasetError:
            raise
        except Exception as error:  # whatever a decoder thinks of
            raise DatasetError(f"{file} is no PNG ({first_line(error)})") from None
        return data


# Rows and images


def _names(image: str) -> tuple[str, str, str, str]:
    """By what a row may name an image: its path, its file's name, and each without its ending."""
    path = PurePosixPath(image.replace("\\", "/"))
    return (str(path), str(path.with_suffix("")), path.name, path.stem) if path.name else (image,) * 4


def _index(names: Sequence[str]) -> dict[str, str]:
    """Each of the names by which a file may be called; "" where two files would be."""
    found: dict[str, str] = {}
    for name in names:
        for one in dict.fromkeys(_names(name)):
            found[one] = name if one not in found else ""
    return found


def _rows(source: Source, keys: list[str], place: Path, missing: Missing) -> tuple[list[int], list[int]]:
    """The row of each image, and the images that have one."""
    numbers: dict[str, int] = {}
    for row, one in enumerate(keys):
        if one in numbers:
            raise DatasetError(
                f"{place} names {one!r} in rows {numbers[one] + 1:,} and {row + 1:,}; give one row an image"
            )
        numbers[one] = row
    times: dict[str, int] = {}
    for image in source.names:
        for one in set(_names(image)):
            times[one] = times.get(one, 0) + 1
    rows, kept, without = [], [], []
    for i, image in enumerate(source.names):
        found = [one for one in _names(image) if one in numbers]
        if not found:
            without.append(image)
            continue
        if times[found[0]] > 1:
            raise DatasetError(
                f"{place}: {found[0]!r} names {times[found[0]]} images, such as {image}; give their paths"
            )
        rows.append(numbers[found[0]])
        kept.append(i)
    if without and (missing == "raise" or not kept):
        raise DatasetError(
            f"{place} has no row for {len(without):,} of the {len(source):,} images, such as {without[0]}; add them, "
            "or leave such images out with --missing skip"
        )
    return rows, kept


def _part(source: Source, kept: list[int], rows: list[int], total: int, place: Path) -> Source:
    """The images that have rows, with a word on rows that have no images."""
    warnings = source.warnings
    if len(rows) < total:
        warnings = (*warnings, f"{total - len(rows):,} of the {total:,} rows of {place} are of no image")
    if len(kept) == len(source):
        return dataclasses.replace(source, warnings=warnings)
    read, labelled = source.read, bool(source.labels)
    return Source(
        names=[source.names[i] for i in kept],
        labels=[source.labels[i] for i in kept] if labelled else [],
        classes=source.classes,
        load=lambda i: source.load(kept[i]),
        lossy=source.lossy,
        read=None if read is None else lambda i: read(kept[i]),
        warnings=(*warnings, f"{len(source) - len(kept):,} images that {place} does not name are left out"),
        columns=tuple(Filled(one.field, [one.values[i] for i in kept]) for one in source.columns),
    )


def _chosen(
    table: dict[str, list[Any]], columns: Any, *, leave: tuple[str | None, ...], place: Path
) -> dict[str, list[Any]]:
    """The columns that are taken, by their new names."""
    if columns is None:
        columns = [name for name in table if name not in leave]
    named = dict(columns) if isinstance(columns, Mapping) else {name: name for name in columns}
    taken: dict[str, list[Any]] = {}
    for name, of in named.items():
        parts = [of] if isinstance(of, str) else list(of)
        for part in parts:
            if part not in table:
                raise DatasetError(f"{place} has no column {part!r}; it has {_shown(table)}")
        Field(name, "int").check_name()
        if isinstance(of, str):
            taken[name] = table[of]
        else:
            taken[name] = [list(row) for row in zip(*(table[part] for part in parts), strict=True)]
    return taken


def _labels(values: list[Any], column: str, place: Path) -> tuple[list[int], tuple[str, ...]]:
    if all(isinstance(value, str) for value in values):
        classes = tuple(sorted(set(values)))
        number = {name: label for label, name in enumerate(classes)}
        return [number[value] for value in values], classes
    for value in values:
        whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if not whole or not 0 <= value <= MAX_LABEL:
            raise DatasetError(f"{place}: label {value!r} in {column!r} is no whole number from 0, and no class's name")
    return [int(value) for value in values], ()


def _shown(table: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, list(table)[:20]))


# COCO


def _coco_of(path: Path) -> dict[str, Any] | None:
    """COCO's annotations, or None for other JSON."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path} cannot be read: {first_line(error)}") from None
    known = isinstance(content, dict) and {"images", "annotations"} <= set(content)
    if not known or not all(
        isinstance(content.get(name, []), list) for name in ("images", "annotations", "categories")
    ):
        return None
    return content if all(isinstance(one, dict) for one in content["images"]) else None


def _with_coco(source: Source, content: dict[str, Any], place: Path, *, missing: Missing) -> Source:
    """A source with COCO's boxes, and its keypoints if there are."""
    try:
        images = {int(one["id"]): str(one["file_name"]) for one in content["images"]}
        categories = sorted((int(one["id"]), one) for one in content.get("categories", []))
        number = {one: place for place, (one, _) in enumerate(categories)}
        names = [str(one["name"]) for _, one in categories]
        by_image: dict[int, list[dict[str, Any]]] = {one: [] for one in images}
        for annotation in content["annotations"]:
            by_image[int(annotation["image_id"])].append(annotation)
        rows, kept = _rows(source, list(images.values()), place, missing)
        numbers = list(images)
        ids = [numbers[row] for row in rows]
        found = [[_annotation(one, number) for one in by_image[image]] for image in ids]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DatasetError(f"{place} is not as COCO has it: {type(error).__name__} {str(error)[:80]}") from None
    filled = [
        Filled(Field("image_id", "int"), ids),
        Filled(Field("boxes", "list", "<f4", (4,), "boxes"), [[one[0] for one in each] for each in found]),
        Filled(
            Field("box_labels", "list", "<i8", (), "", {"classes": names}), [[one[1] for one in each] for each in found]
        ),
        Filled(Field("box_crowd", "list", "<i8"), [[one[2] for one in each] for each in found]),
    ]
    points = [point for _, one in categories for point in [one.get("keypoints")] if point]
    if points:
        mirrored = _mirrored([str(name) for name in points[0]])
        field = Field(
            "points", "list", "<f4", (len(points[0]), 3), "points", {"names": points[0], "mirrored": mirrored}
        )
        empty = [0.0] * (3 * len(points[0]))
        filled.append(Filled(field, [[np.reshape(one[3] or empty, (-1, 3)) for one in each] for each in found]))
    whole = _part(source, kept, rows, len(images), place)
    return dataclasses.replace(whole, columns=(*whole.columns, *filled))


def _annotation(one: dict[str, Any], number: dict[int, int]) -> tuple[list[float], int, int, list[float] | None]:
    """A box's corners, its category's number, whether it is a crowd, and its keypoints."""
    x, y, width, height = (float(side) for side in one["bbox"])
    if not all(map(math.isfinite, (x, y, width, height))) or width < 0 or height < 0:
        raise ValueError(f"bbox {one['bbox']}")
    points = one.get("keypoints")
    return [x, y, x + width, y + height], number[int(one["category_id"])], int(one.get("iscrowd", 0)), points


def _mirrored(names: list[str]) -> list[int]:
    """Which point takes each place in a mirrored image: left and right change."""
    places = {name: place for place, name in enumerate(names)}

    def other(name: str) -> str:
        return name.replace("left", "\0").replace("right", "left").replace("\0", "right")

    return [places.get(other(name), place) for place, name in enumerate(names)]
