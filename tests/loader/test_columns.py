import shutil
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetloader import CorruptSampleError, Dataset, DatasetError, beton
from budgetloader.columns import Joined, Ragged, Scalars
from budgetloader.fields import Field

FIELDS = (
    Field("score", "float"),
    Field("count", "int"),
    Field("vector", "array", "<f4", (3,)),
    Field("grid", "tensor", ">i2", (2, 2)),
    Field("meta", "json"),
    Field("raw", "bytes"),
    Field("caption", "text"),
    Field("boxes", "list", "<f4", (4,)),
    Field("tags", "list", "<i8", ()),
)


def values(i):
    return {
        "score": i / 4,
        "count": -i,
        "vector": [i, 0.5, -i],
        "grid": np.full((2, 2), 300 + i),
        "meta": {"é": [i, None]},
        "raw": bytes(range(i)),
        "caption": "ü" * i,
        "boxes": np.arange(4.0 * (i % 3)).reshape(-1, 4),
        "tags": list(range(i)),
    }


@given(st.lists(st.integers(0, 4), min_size=1, max_size=6))
def test_ragged_arrays_are_a_sequence_of_arrays(lengths):
    arrays = [np.arange(length) + 10 * row for row, length in enumerate(lengths)]
    ragged = Ragged.of(arrays)
    assert len(ragged) == len(lengths)
    for row in (*range(len(lengths)), -1):
        np.testing.assert_array_equal(ragged[row], arrays[row])
    assert [one.tolist() for one in ragged] == [one.tolist() for one in ragged[:]] == [one.tolist() for one in arrays]


def same(a, b):
    return type(a) is type(b) and np.array_equal(a, b) and getattr(a, "dtype", 0) == getattr(b, "dtype", 0)


EXPECTED = {
    "score": lambda i: np.float64(i / 4),
    "count": lambda i: np.int64(-i),
    "vector": lambda i: np.float32([i, 0.5, -i]),
    "grid": lambda i: np.full((2, 2), 300 + i, np.int16),
    "meta": lambda i: {"é": [i, None]},
    "raw": lambda i: bytes(range(i)),
    "caption": lambda i: "ü" * i,
    "boxes": lambda i: np.arange(4 * (i % 3), dtype=np.float32).reshape(-1, 4),
    "tags": lambda i: np.arange(i),
}


def write(path, count=10, fields=FIELDS, **options):
    with beton.Writer(path, capacity=count, notes={}, fields=fields, **options) as writer:
        for i in range(count):
            label = i if options.get("labelled", True) else None
            writer.add(b"\xff\xd8" + bytes(i), width=8, height=8, label=label, values=values(i))
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write(tmp_path_factory.mktemp("columns") / "x.beton")


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("name", EXPECTED)
def test_what_is_written_is_read_back(path, name, mapped):
    column = Dataset(path, mapped=mapped).column(name)
    ids = np.array([7, 0, 9, 7])
    taken = column.take(ids)
    assert len(column) == 10 and len(taken) == 4
    assert all(same(value, EXPECTED[name](i)) for value, i in zip(taken, ids, strict=True))
    assert same(column[3], EXPECTED[name](3)) and len(column[:]) == 10 and len(column[[]]) == 0


def test_the_fields_of_a_file_are_told_and_the_label_is_one(path):
    dataset = Dataset(path)
    assert dataset.fields == ("image", "label", *(field.name for field in FIELDS))
    assert dataset.column("label")[:].tolist() == dataset.labels.tolist() == list(range(10))
    assert [dataset.column(field.name).field for field in FIELDS] == list(FIELDS)
    with pytest.raises(DatasetError, match="no field 'none'; there are 'image', 'label', 'score'"):
        dataset.column("none")
    assert dataset.column("image")[3].data == dataset.jpeg(3).tobytes()


def test_a_file_may_have_no_label(tmp_path):
    fields = tuple(field for field in FIELDS if field.kind != "int")
    with beton.Writer(tmp_path / "x.beton", capacity=1, notes={}, fields=fields, labelled=False) as writer:
        writer.add(b"x", width=1, height=1, values={k: v for k, v in values(3).items() if k != "count"})
    dataset = Dataset(tmp_path / "x.beton")
    assert dataset.label_field is None and dataset.labels.tolist() == [-1]
    assert dataset.column("score")[0] == 0.75


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ((Field("a", "int"), Field("a", "int")), "two fields are named 'a'"),
        ((Field("image", "int"),), "two fields are named 'image'"),
        ((Field("a name", "int"),), "16 letters"),
        (tuple(Field(f"f{i}", "int") for i in range(63)), "65 fields are more than the 64"),
    ],
)
def test_fields_that_a_file_cannot_hold_are_refused_before_it_is_begun(tmp_path, fields, why):
    with pytest.raises(DatasetError, match=why):
        beton.Writer(tmp_path / "x.beton", capacity=1, notes={}, fields=fields)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, r"values of \[\], and the fields are \['a'\]"),
        ({"a": 1, "b": 2}, "'b'"),
        ({"a": "x"}, "sample 0: field 'a' \\(array\\) cannot hold 'x'"),
        ({"a": np.zeros((3 << 20,))}, "shape"),
    ],
)
def test_values_that_do_not_go_into_the_fields_leave_no_file(tmp_path, given, why):
    writer = beton.Writer(tmp_path / "x.beton", capacity=1, notes={}, fields=[Field("a", "array", "<f4", (2,))])
    with pytest.raises(DatasetError, match=why), writer:
        writer.add(b"x", width=1, height=1, label=0, values=given)
    assert list(tmp_path.iterdir()) == []


def test_a_value_over_a_page_is_refused(tmp_path):
    writer = beton.Writer(tmp_path / "x.beton", capacity=1, notes={}, fields=[Field("a", "bytes")])
    with pytest.raises(DatasetError, match="its field 'a' of 8,388,609 bytes is over a page"), writer:
        writer.add(b"x", width=1, height=1, label=0, values={"a": bytes(beton.PAGE_BYTES + 1)})


# Several files


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.data())
def test_joined_columns_are_each_files_values_in_turn(sizes, data):
    parts = [Scalars(Field("x", "int"), 100 * k + np.arange(size)) for k, size in enumerate(sizes)]
    whole = np.concatenate([part[:] for part in parts])
    ids = np.array(data.draw(st.lists(st.integers(0, sum(sizes) - 1), max_size=9)), np.int64)
    np.testing.assert_array_equal(Joined(parts).take(ids), whole[ids])


@pytest.mark.parametrize("name", EXPECTED)
def test_joined_columns_of_any_kind_keep_the_ids_order(path, name):
    column = Dataset(path).column(name)
    taken = Joined([column, column]).take(np.array([13, 2, 19]))
    assert all(same(value, EXPECTED[name](i)) for value, i in zip(taken, (3, 2, 9), strict=True))


def test_columns_of_several_kinds_are_not_joined(path):
    dataset = Dataset(path)
    with pytest.raises(DatasetError, match="not the same in all files"):
        Joined([dataset.column("score"), dataset.column("count")])


# Strangers


def index_of(path, name):
    """Where a field's entry of the first sample stands in a file, and the bytes of a sample's entry."""
    dataset = Dataset(path)
    layout = beton.metadata_type(_types(path))
    start = beton.HEADER.itemsize + len(dataset.fields) * beton.FIELD.itemsize
    return start + layout.fields[f"f{dataset.fields.index(name)}"][1]


def _types(path):
    count = len(Dataset(path).fields)
    rows = np.fromfile(path, beton.FIELD, count=count, offset=beton.HEADER.itemsize)
    return rows["type_id"].tolist()


def forged(path, target, name, entry):
    """A copy whose first sample has another entry in the index, and which does not say that it has."""
    shutil.copy(path, target)
    data = bytearray(target.read_bytes())
    at = index_of(path, name)
    data[at : at + len(entry)] = entry
    data = data.replace(b'"fingerprint"', b'"fingerprin_"')
    target.write_bytes(data)
    return target


@pytest.mark.parametrize(
    ("name", "entry", "why"),
    [
        ("vector", struct.pack("<Q", (1 << 64) - 4), "outside the file"),
        ("vector", struct.pack("<Q", 1 << 63), "outside the file"),
        ("raw", struct.pack("<QQ", 8 << 20, 1 << 63), "more than the 8,388,608"),
        ("raw", struct.pack("<QQ", 8 << 20, 8 << 20), "outside the file"),
        ("meta", struct.pack("<QQ", (1 << 64) - 1, 8), "outside the file"),
    ],
)
def test_a_value_outside_the_file_is_refused_before_it_is_read(path, tmp_path, name, entry, why):
    dataset = Dataset(forged(path, tmp_path / "x.beton", name, entry))
    with pytest.raises(DatasetError, match=f"field '{name}' of sample 0 .*{why}"):
        dataset.column(name)


@pytest.mark.parametrize(
    ("name", "content"),
    [("meta", b"[" * 100_000), ("meta", b"{"), ("meta", b"9" * 10_000), ("caption", b"\xff"), ("boxes", b"123")],
)
def test_a_value_that_is_not_of_its_kind_names_the_sample(path, tmp_path, name, content):
    target = tmp_path / "x.beton"
    with beton.Writer(target, capacity=2, notes={}, fields=[Field(name, "bytes")]) as writer:
        for part in (content, b""):
            writer.add(b"x", width=1, height=1, label=0, values={name: part})
    field = next(field for field in FIELDS if field.name == name)
    kinds = {"json": 5}
    data = bytearray(target.read_bytes())
    data[beton.HEADER.itemsize + 2 * beton.FIELD.itemsize] = kinds.get(field.kind, 3)
    note = f'"kind": "{field.kind}"'.encode()
    old = b'"kind": "bytes", "dtype": "", "shape": [], "role": ""'
    new = note + f', "dtype": "{field.dtype}", "shape": {list(field.shape)}'.encode()
    target.write_bytes(data.replace(old, new.ljust(len(old))))
    with pytest.raises(CorruptSampleError, match=f"'{name}' of sample 0 is no {field.kind}") as caught:
        Dataset(target).column(name)[0]
    assert caught.value.sample == 0


def test_a_file_that_was_cut_short_is_an_error_and_no_crash(path, tmp_path):
    target = tmp_path / "x.beton"
    shutil.copy(path, target)
    columns = [Dataset(target).column(name) for name in ("vector", "raw")]
    with open(target, "r+b") as file:
        file.truncate(beton.PAGE_BYTES)
    for column in columns:
        with pytest.raises(DatasetError, match="cut short"):
            column[9]
