"""Sources whose images come packed with all that is known of them: WebDataset shards and Hugging Face's Parquet."""

from __future__ import annotations

import functools
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from budgetloader.convert.sources import SUFFIXES, Filled, Source, image_of
from budgetloader.convert.tables import field_of, parquet_file
from budgetloader.errors import DatasetError
from budgetloader.limits import MAX_LABEL, MAX_PIXELS, max_bytes
from budgetloader.tars import Member, members_of_tar, open_regular

if TYPE_CHECKING:
    from PIL import Image

Values: TypeAlias = list[tuple[str, list[Any]]]  # columns: a name, and a value for each image
_SPLITS = ("train", "val", "dev", "test")
_TEXT_BYTES = 8 << 20  # of a member that is no image: a page of the file
_GROUPS = 4  # of Parquet's rows, held at a time
IMAGE_NAMES = ("image", "img", "jpg", "png", "picture")


def shard_source(path: Path, *, max_pixels: int = MAX_PIXELS) -> Source | None:
    """The samples of a WebDataset shard that have `.json` or `.txt` beside their images; None: there are none.

    What an object in `KEY.json` names become fields; any other JSON, and the text, are the fields "json" and "txt". A
    number in `KEY.cls` is the label.

    Raises:
        DatasetError: no tar, damaged, or a sample lacks what others have.
    """
    file = open_regular(path)
    samples: dict[str, dict[str, Member]] = {}
    for member in members_of_tar(file, path):
        folder, slash, last = member.name.rpartition("/")
        stem, _, ending = last.partition(".")
        samples.setdefault(folder + slash + stem, {})[ending.lower()] = member
    images = {key: _image_of(parts) for key, parts in samples.items()}
    kept = {key: parts for key, parts in samples.items() if images[key] is not None}
    endings = [one for one in ("cls", "json", "txt") if any(one in parts for parts in kept.values())]
    if not set(endings) - {"cls"}:
        return None
    found: dict[str, list[Any]] = {one: [] for one in endings}
    for key, parts in kept.items():
        for one in endings:
            if one not in parts:
                raise DatasetError(f"{path}: {key!r} has no .{one} beside it, as others have; pack one")
            found[one].append(_read_member(file.fileno(), parts[one], one, path))
    columns = [] if "txt" not in found else [("txt", found["txt"])]
    if "json" in found:
        objects = all(isinstance(value, dict) for value in found["json"])
        names = dict.fromkeys(name for value in found["json"] for name in value) if objects else {}
        columns += [(name, [value.get(name) for value in found["json"]]) for name in names if name != "label"]
        if objects and "cls" not in found and "label" in names:
            found["cls"] = [value.get("label") for value in found["json"]]
        columns += [] if objects else [("json", found["json"])]
    members = [images[key] for key in kept]

    def read(i: int) -> bytes:
        member = members[i]
        assert member is not None, "samples without an image were left out"
        return _pread(file.fileno(), member, most=16 * max_pixels + max_bytes(1), path=path)

    load = functools.partial(_load, read, max_pixels)
    return source_of(list(kept), found.get("cls", []), (), columns, path=path, load=load, read=read)


def parquet_source(path: Path, *, split: str = "train", max_pixels: int = MAX_PIXELS) -> Source:
    """The images of a Parquet file, or of a folder of them, as Hugging Face's datasets have them.

    The image is the column that the file's own notes say is one, or one of bytes that is called image, img and the
    like; the label is the one that they say is a class, or `label`. All other columns become fields.

    Args:
        path: the file or the folder.
        split: of a folder: the files that begin with this word, such as "train", or lie in folders that do; all, where
            none begins with a split's name.
        max_pixels: of an image.

    Raises:
        DatasetError: pyarrow is not installed, or it has no images.
    """
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    chosen = [one for one in files if _of_split(one, path, split)]
    if path.is_dir() and not chosen and any(_of_split(one, path, _SPLITS) for one in files):
        there = ", ".join(file.name for file in files[:9])
        raise DatasetError(f"{path} has no .parquet that begins with {split!r}; it has {there}")
    files = (chosen or files) if path.is_dir() else files
    groups = _Groups(files, path)
    columns: list[tuple[str, list[Any]]] = []
    labels: list[Any] = []
    classes: tuple[str, ...] = ()
    for other in groups.others:
        values = groups.column(other)
        if other == groups.label:
            labels, classes = values, groups.classes
        else:
            columns.append((other, values))
    names = [f"row {i} of {path.name}" for i in range(groups.count)]
    load = functools.partial(_load, groups.read, max_pixels)
    return source_of(names, labels, classes, columns, path=path, load=load, read=groups.read)


def _of_split(file: Path, root: Path, split: str | tuple[str, ...]) -> bool:
    """Whether a file's name, or that of a folder between it and the root, begins with a split's."""
    return any(part.startswith(split) for part in file.relative_to(root).parts) if file != root else False


class _Groups:
    """The rows of Parquet files, of which a few groups are held: a conversion goes through them in order.

    Attributes:
        image, label: the columns that are the image, and the label (None: none is).
        others: the names of all columns but the image.
        classes: the classes' names, or ().
        count: rows.
    """

    def __init__(self, files: list[Path], path: Path) -> None:
        self._files = [parquet_file(file) for file in files]
        schema = self._files[0].schema_arrow
        features = _features(schema.metadata or {})
        said = [name for name, one in features.items() if one.get("_type") == "Image"]
        self.image = next((name for name in (*said, *IMAGE_NAMES) if _holds_bytes(schema, name)), "")
        if not self.image:
            raise DatasetError(f"{path} has no column of images' bytes; it has {', '.join(schema.names[:20])}")
        kinds = [name for name, one in features.items() if one.get("_type") == "ClassLabel"]
        self.label = next((name for name in (*kinds, "label") if name in schema.names), None)
        self.classes = tuple(str(name) for name in features.get(self.label or "", {}).get("names", ()))
        self.others = [name for name in schema.names if name != self.image]
        self._places = [
            (number, group) for number, file in enumerate(self._files) for group in range(file.metadata.num_row_groups)
        ]
        sizes = [self._files[n].metadata.row_group(g).num_rows for n, g in self._places]
        self._firsts = np.cumsum([0, *sizes])
        self.count = int(self._firsts[-1])
        self._held: dict[int, list[Any]] = {}
        self._lock = threading.Lock()

    def column(self, name: str) -> list[Any]:
        return [value for file in self._files for value in file.read(columns=[name]).column(0).to_pylist()]

    def read(self, i: int) -> bytes:
        """The bytes of an image. Called from several threads."""
        place = int(np.searchsorted(self._firsts, i, side="right")) - 1
        with self._lock:
            if place not in self._held:
                while len(self._held) >= _GROUPS:
                    del self._held[next(iter(self._held))]
                number, group = self._places[place]
                table = self._files[number].read_row_group(group, columns=[self.image])
                self._held[place] = table.column(0).to_pylist()
            value = self._held[place][i - int(self._firsts[place])]
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise DatasetError("its bytes are not in the table, which names a file elsewhere")
        return data


def _features(metadata: dict[bytes, bytes]) -> dict[str, Any]:
    """What Hugging Face's notes in a schema say of its columns; {} where they are none that can be read."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError, RecursionError):
        return {}
    return {name: one for name, one in features.items() if isinstance(one, dict)} if isinstance(features, dict) else {}


def _holds_bytes(schema: Any, name: str) -> bool:
    """Whether a column is of bytes, or of records that have some."""
    import pyarrow

    if name not in schema.names:
        return False
    kind = schema.field(name).type
    if pyarrow.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)


def source_of(
    names: list[str],
    labels: list[Any],
    classes: tuple[str, ...],
    columns: Values,
    *,
    path: Path,
    load: Callable[[int], Image.Image],
    read: Callable[[int], bytes] | None = None,
) -> Source:
    """A source of images with columns.

    Args:
        names, classes, load, read: as `Source` has them.
        labels: whole numbers, or what is no label but may be a target; [] where there are none.
        columns: a name and a value for each image, of any kind.
        path: for messages.

    Raises:
        DatasetError: there is neither a label nor a column, or a column has a name that no field has.
    """
    wrong = [value for value in labels if type(value) is not int or not 0 <= value <= MAX_LABEL]
    if wrong:  # it is no label, but may be a target
        columns, labels, classes = [*columns, ("label", labels)], [], ()

    filled = []
    for name, values in columns:
        field, ready = field_of(name, values)
        field.check_name()
        filled.append(Filled(field, ready))
    if not labels and not filled:
        raise DatasetError(f"{path} says nothing of its images; it has no label and no other column")
    return Source(names, labels, classes, load, read=read, columns=tuple(filled))


def _load(read: Callable[[int], bytes], max_pixels: int, i: int) -> Image.Image:
    return image_of(read(i), max_pixels=max_pixels)


def _image_of(parts: dict[str, Member]) -> Member | None:
    return next((member for ending, member in parts.items() if f".{ending}" in SUFFIXES), None)


def _read_member(descriptor: int, member: Member, ending: str, path: Path) -> Any:
    data = _pread(descriptor, member, most=_TEXT_BYTES, path=path)
    try:
        if ending == "json":
            return json.loads(data)
        text = data.decode()
        return int(text) if ending == "cls" else text
    except (ValueError, RecursionError):
        raise DatasetError(f"{path}: {member.name!r} is no .{ending} that can be read; pack it again") from None


def _pread(descriptor: int, member: Member, *, most: int, path: Path) -> bytes:
    if member.size > most:
        raise DatasetError(f"{path}: {member.name!r} has {member.size:,} bytes, more than {most:,}")
    data = os.pread(descriptor, member.size, member.start)
    if len(data) != member.size:
        raise DatasetError(f"{path} was cut short while it was read")
    return data
