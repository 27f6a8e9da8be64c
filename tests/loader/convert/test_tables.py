import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetloader import DatasetError
from budgetloader.convert.tables import field_of, read_table

TEXT = 'name,n,x,empty,word,code\na.jpg,1,0.5,,good,007\nb.jpg,-2,1e3,3,"x, y",010\n'
COLUMNS = {
    "name": ["a.jpg", "b.jpg"],
    "n": [1, -2],
    "x": [0.5, 1000.0],
    "empty": [None, 3],
    "word": ["good", "x, y"],
    "code": ["007", "010"],
}


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_every_kind_of_table_gives_the_same_columns(tmp_path):
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in zip(*COLUMNS.values(), strict=True)]
    tables = {
        "t.csv": "\ufeff" + TEXT,
        "t.tsv": TEXT.replace('"x, y"', "x; y").replace(",", "\t").replace("x; y", "x, y"),
        "t.json": json.dumps(rows),
        "columns.json": json.dumps(COLUMNS),
        "t.jsonl": "\n".join(map(json.dumps, rows)) + "\n\n",
    }
    for name, text in tables.items():
        assert read_table(written(tmp_path / name, text)) == COLUMNS, name


def test_parquet_gives_them_too_from_a_file_and_a_folder(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    (tmp_path / "data").mkdir()
    parquet.write_table(pa.table(COLUMNS), tmp_path / "t.parquet")
    for number in range(2):
        part = {name: values[number : number + 1] for name, values in COLUMNS.items()}
        parquet.write_table(pa.table(part, schema=pa.table(COLUMNS).schema), tmp_path / "data" / f"{number}.parquet")
    assert read_table(tmp_path / "t.parquet") == read_table(tmp_path / "data") == COLUMNS


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("t.csv", "a,b\n1,2\n3\n", "line 3 has 1 cells, and the first line 2"),
        ("t.csv", "a,a\n1,2\n", "names 'a' twice"),
        ("t.csv", "a,b\n", "has no rows"),
        ("t.csv", "", "has no rows"),
        ("t.csv", b"a\n\xff\n", "is not UTF-8"),
        ("t.csv", 'a\n"x\n', "cannot be read"),
        ("t.json", "[1, 2]", "entry 1 is no object"),
        ("t.json", "{", "cannot be read"),
        ("t.json", "[" * 100_000, "cannot be read"),
        ("t.json", "3", "neither a list of objects nor an object of lists"),
        ("t.json", '{"a": [1], "b": [1, 2]}', "several lengths"),
        ("t.jsonl", '{"a": 1}\n{\n', "line 2 is no JSON"),
        ("t.parquet", b"PAR1 nothing", "cannot be read"),
        ("t.xlsx", "", "no table that is known here"),
    ],
)
def test_a_table_that_cannot_be_read_is_one_error(tmp_path, name, content, why):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    with pytest.raises(DatasetError, match=why):
        read_table(written(tmp_path / name, content))
    with pytest.raises(DatasetError, match="cannot be read: No such file|no table|cannot be read"):
        read_table(tmp_path / f"missing{name}")


@pytest.mark.parametrize(
    ("values", "kind", "dtype", "shape"),
    [
        ([1, True, -3], "int", "", ()),
        ([1, 0.5, None], "float", "", ()),
        (["a", ""], "text", "", ()),
        ([b"a", b""], "bytes", "", ()),
        ([[1, 2], [3, 4]], "array", "<i8", (2,)),
        ([[0.5], [1]], "array", "<f4", (1,)),
        ([[[1, 2]], [[3, 4]]], "array", "<i8", (1, 2)),
        ([[1], [], [2, 3]], "list", "<i8", ()),
        ([[[0.5, 1]], [], [[2, 3], [4, 5]]], "list", "<f4", (2,)),
        ([[], []], "list", "<f4", ()),
        ([[1], [[2]]], "json", "", ()),
        ([["a"], ["b"]], "json", "", ()),
        ([{"a": 1}, None], "json", "", ()),
        ([None, None], "json", "", ()),
        ([1 << 70], "json", "", ()),
    ],
)
def test_the_field_of_a_column_is_what_its_values_are(values, kind, dtype, shape):
    field, ready = field_of("x", values)
    assert (field.kind, field.dtype, field.shape) == (kind, dtype, shape)
    for value in ready:
        field.encode(value)


NUMBERS = st.one_of(st.integers(-(1 << 70), 1 << 70), st.floats(allow_nan=False), st.booleans(), st.none(), st.text())


@given(st.lists(st.one_of(NUMBERS, st.lists(NUMBERS, max_size=3)), min_size=1, max_size=5))
def test_any_column_of_json_has_a_field_that_holds_it(values):
    field, ready = field_of("x", values)
    assert len(ready) == len(values)
    for before, value in zip(values, ready, strict=True):
        stored = field.encode(value)
        if field.kind == "float":
            assert math.isnan(stored) if before is None else stored == float(before)
        elif field.kind == "int":
            assert stored == before
        elif field.kind == "json":
            assert json.loads(stored[:-1]) == before
        elif field.kind in ("array", "list") and field.dtype == "<i8":
            assert np.frombuffer(stored, "<i8").tolist() == np.ravel(before).tolist()
