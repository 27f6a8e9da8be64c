"""Tables that labels come in: CSV, JSON, JSON lines and Parquet, as columns of equal length."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from budgetloader.errors import DatasetError, first_line
from budgetloader.fields import Field
from budgetloader.paths import local

_FLOAT32 = float(np.finfo(np.float32).max)
_WORDS = {"true": True, "false": False}


def read_table(path: str | Path) -> dict[str, list[Any]]:
    """A table's columns, in the file's order.

    Args:
        path: .csv or .tsv (the first line names the columns), .json (a list of objects, or an object of lists),
            .jsonl (an object on each line), .parquet, or a folder of .parquet.

    Raises:
        DatasetError: it cannot be read, is damaged, or has no rows; names the line.
    """
    found = local(path)
    parquet = found.is_dir() or found.suffix.lower() == ".parquet"
    reader = _parquet if parquet else _READERS.get(found.suffix.lower())
    if reader is None:
        raise DatasetError(f"{found} is no table that is known here; give a {', '.join(_READERS)} or .parquet")
    try:
        columns = reader(found)
    except OSError as error:
        raise DatasetError(f"{found} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise DatasetError(f"{found} is not UTF-8 (at byte {error.start:,}); save it as UTF-8") from None
    except (ValueError, RecursionError, csv.Error) as error:
        raise DatasetError(f"{found} cannot be read: {first_line(error)}") from None
    if not columns or not len(next(iter(columns.values()))):
        raise DatasetError(f"{found} has no rows")
    return columns


def field_of(name: str, values: Sequence[Any]) -> tuple[Field, list[Any]]:
    """A field for a column's values, and the values as it takes them.

    Whole numbers and truth values are "int"; numbers of which some have digits behind the point, or are missing (None),
    are "float"; lists of numbers of one shape are an "array", of several lengths a "list" (int64, or float32, which is
    what trainers compute in, or float64 where that is too small); the rest is "text", "bytes" or "json".
    """
    kinds = {_kind(value) for value in values}
    if kinds <= {"int"}:
        return Field(name, "int"), [int(value) for value in values]
    if kinds <= {"int", "float", "none"} and kinds != {"none"}:
        return Field(name, "float"), [math.nan if value is None else float(value) for value in values]
    if kinds == {"str"}:
        return Field(name, "text"), list(values)
    if kinds == {"bytes"}:
        return Field(name, "bytes"), list(values)
    if kinds == {"list"}:
        arrays = [_numbers(value) for value in values]
        if all(array is not None for array in arrays):
            return _of_arrays(name, [array for array in arrays if array is not None])
    return Field(name, "json"), list(values)


def _of_arrays(name: str, arrays: list[np.ndarray]) -> tuple[Field, list[Any]]:
    filled = [array for array in arrays if array.size]
    whole = all(array.dtype.kind in "biu" for array in filled)
    large = any(np.abs(array[np.isfinite(array)].astype(np.float64)).max(initial=0) > _FLOAT32 for array in filled)
    dtype = "<i8" if whole and filled else "<f8" if large else "<f4"
    shapes = {array.shape for array in arrays}
    if len(shapes) == 1 and filled:
        return Field(name, "array", dtype, shapes.pop()), list(arrays)
    entries = {array.shape[1:] for array in filled}
    if len(entries) > 1:
        return Field(name, "json"), [array.tolist() for array in arrays]
    return Field(name, "list", dtype, entries.pop() if entries else ()), list(arrays)


def _kind(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, (bool, int, np.integer, np.bool_)):
        return "int" if -(1 << 63) <= int(value) < 1 << 63 else "other"
    if isinstance(value, (float, np.floating)):
        return "float"
    if isinstance(value, str):
        return "str"
    if isinstance(value, (bytes, bytearray)):
        return "bytes"
    return "list" if isinstance(value, (list, tuple, np.ndarray)) else "other"


def _numbers(value: Any) -> np.ndarray | None:
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError):
        return None
    return array if array.ndim and (array.dtype.kind in "biuf" or not array.size) else None


def _separated(path: Path, separator: str) -> dict[str, list[Any]]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file, delimiter=separator, strict=True)
        names = next(rows, [])
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"its first line names {twice[0]!r} twice")
        columns: dict[str, list[Any]] = {name: [] for name in names}
        for row in rows:
            if not row:
                continue
            if len(row) != len(names):
                raise ValueError(f"line {rows.line_num} has {len(row)} cells, and the first line {len(names)}")
            for cells, cell in zip(columns.values(), row, strict=True):
                cells.append(cell)
    return {name: _typed(cells) for name, cells in columns.items()}


def _typed(cells: list[str]) -> list[Any]:
    """Text as numbers, if all of a column's cells are; empty cells among numbers are None."""
    if any(cells) and all(cell.strip().lower() in _WORDS for cell in cells):
        return [_WORDS[cell.strip().lower()] for cell in cells]
    for number in (int, float):
        try:
            found = [number(cell) if cell.strip() else None for cell in cells]
        except (ValueError, OverflowError):
            continue
        # A number that does not come back as it was, such as 007, is a name.
        exact = number is float or all(n is None or str(n) == c.strip() for n, c in zip(found, cells, strict=True))
        if exact and any(n is not None for n in found):
            return found
        if not exact:
            break
    return list(cells)


def _json(path: Path) -> dict[str, list[Any]]:
    content = json.loads(path.read_bytes())
    if isinstance(content, dict) and content and all(isinstance(column, list) for column in content.values()):
        lengths = {name: len(column) for name, column in content.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"its columns are of several lengths: {lengths}")
        return content
    if not isinstance(content, list):
        raise ValueError("it is neither a list of objects nor an object of lists")
    return _of_rows(content, "entry")


def _json_lines(path: Path) -> dict[str, list[Any]]:
    rows = []
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    rows.append(json.loads(line))
                except ValueError as error:
                    raise ValueError(f"line {number} is no JSON ({error})") from None
    return _of_rows(rows, "line")


def _of_rows(rows: list[Any], what: str) -> dict[str, list[Any]]:
    """Columns of all names that occur; None where a row lacks one."""
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ValueError(f"{what} {number} is no object")
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _parquet(path: Path) -> dict[str, list[Any]]:
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise DatasetError(f"{path} has no .parquet in it")
    columns: dict[str, list[Any]] = {}
    for number, file in enumerate(files):
        table = parquet_file(file).read()
        if number and list(columns) != table.column_names:
            raise DatasetError(f"{file} has other columns than {files[0].name}: {', '.join(table.column_names[:20])}")
        for name in table.column_names:
            columns.setdefault(name, []).extend(table.column(name).to_pylist())
    return columns


def parquet_file(path: Path) -> Any:
    """An open `pyarrow.parquet.ParquetFile`.

    Raises:
        DatasetError: pyarrow is not installed, or the file cannot be read.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise DatasetError(
            "pyarrow, which reads Parquet, is not installed; pip install 'budgetloader[tables]'"
        ) from None
    try:
        return parquet.ParquetFile(path, memory_map=True)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror or error}") from None
    except (pyarrow.ArrowException, ValueError) as error:
        raise DatasetError(f"{path} cannot be read: {first_line(error)}") from None


_READERS: dict[str, Callable[[Path], dict[str, list[Any]]]] = {
    ".csv": lambda path: _separated(path, ","),
    ".tsv": lambda path: _separated(path, "\t"),
    ".json": _json,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
}
