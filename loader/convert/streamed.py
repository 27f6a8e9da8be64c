"""Sources of other loaders' formats: Mosaic's MDS and LitData's chunks, read by the libraries that wrote them.

Either is a folder with an `index.json`. What it says is checked before the library gets to see it: shards lie in the
folder, and nothing in it is a pickle, which would run what a stranger wrote.
"""

from __future__ import annotations

import importlib
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from budgetloader.convert.packed import IMAGE_NAMES, Values, source_of
from budgetloader.convert.sources import FORMATS, Source, image_of
from budgetloader.errors import DatasetError, first_line
from budgetloader.limits import MAX_PIXELS, check_pixels

if TYPE_CHECKING:
    from PIL import Image

_MOST_INDEX_BYTES = 256 << 20
_LABELS = ("label", "cls", "class", "target", "y")
_IMAGES = ("jpeg", "png", "pil", "jpeg_array", "jpegarray")  # encodings
_MDS = {*_IMAGES, "bytes", "str", "int", "ndarray", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32"}
_MDS |= {"int64", "float16", "float32", "float64", "str_int", "str_float", "json"}
_LITDATA = {*_IMAGES, "bytes", "str", "text", "bool", "int", "float", "numpy", "no_header_numpy", "tensor"}
_LITDATA |= {"no_header_tensor", "json"}


def streamed_source(path: Path, *, split: str = "train", max_pixels: int = MAX_PIXELS) -> Source | None:
    """The images of a folder of MDS shards or of LitData chunks; None: it is neither.

    The image is the first column that holds one; the label is the column label, cls, class, target or y, or of pairs
    the number. All other columns become fields.

    Args:
        path: the folder with `index.json`, or one with such folders of its splits.
        split: which of these.
        max_pixels: of an image.

    Raises:
        DatasetError: the library is not installed, the index is damaged, or holds what is not read here.
    """
    for folder in (path, path / split):
        index = folder / "index.json"
        if index.is_file():
            said = _index(index)
            if isinstance(said.get("shards"), list):
                return _mds(folder, said["shards"], max_pixels)
            if isinstance(said.get("chunks"), list):
                return _litdata(folder, said, max_pixels)
    return None


def _index(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MOST_INDEX_BYTES:
            raise ValueError
        said = json.loads(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise DatasetError(f"{path} is no index of shards that can be read") from None
    return said if isinstance(said, dict) else {}


def _mds(folder: Path, shards: list[Any], max_pixels: int) -> Source:
    known: dict[str, str] = {}
    for shard in shards:
        if not isinstance(shard, dict) or shard.get("format") != "mds":
            raise DatasetError(f"{folder} has shards that are no MDS; write them with streaming.MDSWriter")
        if shard.get("compression"):
            raise DatasetError(
                f"{folder} has compressed shards ({str(shard['compression'])[:20]}), which Mosaic's reader of local "
                "files does not unpack; write them with compression=None"
            )
        raw = shard.get("raw_data")
        _check_name(folder, raw.get("basename") if isinstance(raw, dict) else None)
        names, encodings = shard.get("column_names"), shard.get("column_encodings")
        if not isinstance(names, list) or not isinstance(encodings, list) or len(names) != len(encodings):
            raise DatasetError(f"{folder / 'index.json'} does not say which columns there are")
        known |= {str(name): str(kind) for name, kind in zip(names, encodings, strict=True)}
    _check_kinds(folder, known, _MDS)
    dataset = _library("streaming", "mosaic").LocalDataset(local=str(folder))
    return _source(folder, dataset, known, max_pixels)


def _litdata(folder: Path, said: dict[str, Any], max_pixels: int) -> Source:
    config = said.get("config")
    kinds = config.get("data_format") if isinstance(config, dict) else None
    if not isinstance(kinds, list):
        raise DatasetError(f"{folder / 'index.json'} does not say which columns there are")
    for chunk in said["chunks"]:
        _check_name(folder, chunk.get("filename") if isinstance(chunk, dict) else None)
    _check_kinds(folder, {str(place): str(kind) for place, kind in enumerate(kinds)}, _LITDATA)
    dataset = _library("litdata", "litdata").StreamingDataset(str(folder), shuffle=False)
    return _source(folder, dataset, {}, max_pixels)


def _check_name(folder: Path, name: Any) -> None:
    """Refuse a shard that lies elsewhere."""
    if not isinstance(name, str) or not name or name != os.path.basename(name) or name in (".", ".."):
        raise DatasetError(f"{folder / 'index.json'} names {str(name)[:60]!r}, which is no file beside it")


def _check_kinds(folder: Path, known: Mapping[str, str], allowed: set[str]) -> None:
    for name, kind in known.items():
        if kind.partition(":")[0] not in allowed:
            why = "a pickle, which would run what a stranger wrote" if kind in ("pkl", "pickle") else "not read here"
            raise DatasetError(f"{folder}: column {name!r} is {kind[:30]!r}, {why}; write it anew without it")


def _library(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = f" (it lacks {error.name})" if error.name not in (None, module) else ""
        raise DatasetError(
            f"this folder is read by the package {module!r}, which is not installed{missing}; pip install "
            f"'budgetloader[{extra}]'"
        ) from None


def _source(folder: Path, dataset: Any, known: Mapping[str, str], max_pixels: int) -> Source:
    """A source of the items of somebody's dataset. Each is read twice: for its columns, and for its image."""
    lock = threading.Lock()  # neither library says that its readers may be shared

    def item(i: int) -> dict[str, Any]:
        try:
            with lock:
                found = dataset[i]
        except Exception as error:  # whatever a reader thinks of damaged bytes
            raise DatasetError(f"{folder}: sample {i} cannot be read ({first_line(error)})") from None
        if isinstance(found, Mapping):
            return {str(name): value for name, value in found.items()}
        return dict(_numbered(found if isinstance(found, (tuple, list)) else [found]))

    count = len(dataset)
    if not count:
        raise DatasetError(f"{folder} has no samples")
    first = item(0)
    image = _image_name(first, known)
    if image is None:
        raise DatasetError(f"{folder} has no column of images; it has {', '.join(list(first)[:20])}")
    label = next((name for name in _LABELS if name in first), None)
    if label is None and set(first) == {"0", "1"}:
        label = next(name for name in first if name != image)
    values: dict[str, list[Any]] = {name: [] for name in first if name != image}
    for i in range(count):
        one = item(i) if i else first
        if one.keys() != first.keys():
            raise DatasetError(f"{folder}: sample {i} has other columns than the first; write it anew")
        for name, column in values.items():
            column.append(_plain(one[name]))
    labels = values.pop(label) if label is not None else []
    columns: Values = [(name if not name.isdigit() else f"column{name}", column) for name, column in values.items()]

    def load(i: int) -> Image.Image:
        return _image(item(i)[image], max_pixels)

    names = [f"sample {i} of {folder}" for i in range(count)]
    return source_of(names, labels, (), columns, path=folder, load=load)


def _numbered(values: Any) -> Any:
    return ((str(place), value) for place, value in enumerate(values))


def _image_name(first: Mapping[str, Any], known: Mapping[str, str]) -> str | None:
    """The column that holds images."""
    said = [name for name in first if known.get(name) in _IMAGES]
    held = [name for name, value in first.items() if _is_image(value)]
    named = [name for name in IMAGE_NAMES if isinstance(first.get(name), (bytes, bytearray, memoryview))]
    return next(iter((*said, *held, *named)), None)


def _is_image(value: Any) -> bool:
    shape = tuple(getattr(value, "shape", ()))
    pixels = len(shape) == 3 and (shape[0] in (1, 3) or shape[2] in (1, 3)) and "uint8" in str(value.dtype)
    return pixels or hasattr(value, "getbands")


def _image(value: Any, max_pixels: int) -> Image.Image:
    """An image as PIL has it, out of what a library gives."""
    from PIL import Image

    if isinstance(value, Image.Image):
        check_pixels(*value.size, most=max_pixels)
        if value.format is not None and value.format not in FORMATS:  # it is not decoded yet: others start programs
            raise DatasetError(f"it is a {value.format}, and {', '.join(FORMATS)} are read")
        value.load()
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return image_of(bytes(value), max_pixels=max_pixels)
    pixels = np.asarray(value)
    if pixels.dtype != np.uint8 or pixels.ndim != 3:
        raise DatasetError(f"it is {pixels.dtype} {list(pixels.shape)}, and no image")
    if pixels.shape[2] not in (1, 3):  # torch's order
        pixels = pixels.transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))


def _plain(value: Any) -> Any:
    """A value as tables have it: no tensor, and no number of numpy's."""
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    if hasattr(value, "numpy"):
        value = value.numpy()
    return value.item() if isinstance(value, (np.ndarray, np.generic)) and value.ndim == 0 else value
