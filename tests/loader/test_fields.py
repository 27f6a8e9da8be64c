import contextlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetloader import DatasetError
from budgetloader.fields import ARGUMENTS_BYTES, Field, described, noted

DTYPES = ("bool", "int8", "uint16", "int64", "float16", "float32", ">f8", "complex64")


@given(
    st.sampled_from(DTYPES), st.lists(st.integers(1, 9), min_size=1, max_size=5), st.sampled_from(["array", "tensor"])
)
def test_a_descriptor_says_what_the_field_is(dtype, shape, kind):
    field = Field("x", kind, np.dtype(dtype).str, tuple(shape))
    arguments = field.descriptor()
    assert len(arguments) <= ARGUMENTS_BYTES
    assert described("x", field.type_id, arguments.ljust(ARGUMENTS_BYTES, b"\0")) == field


@given(st.binary(min_size=ARGUMENTS_BYTES, max_size=ARGUMENTS_BYTES), st.integers(0, 255))
def test_any_descriptor_is_a_field_or_one_error(arguments, kind):
    with contextlib.suppress(DatasetError):
        field = described("x", kind, arguments)
        assert field.type_id == kind and (not field.dtype or field.entry_bytes > 0)


def arguments(*, shape=(2,), dtype=b'[["", "<f4"]]', length=None):
    header = np.zeros(33, "<u8")
    header[: len(shape)], header[32] = shape, len(dtype) if length is None else length
    return (header.tobytes() + dtype).ljust(ARGUMENTS_BYTES, b"\0")


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"dtype": b'[["", "|O"]]'}, "no dtype of numbers"),  # pointers of a stranger's
        ({"dtype": b'[["", "<M8[ns]"]]'}, "no dtype of numbers"),
        ({"dtype": b'[["", "S8"]]'}, "no dtype of numbers"),
        ({"dtype": b'[["", "<f4", [1000000]]]'}, "arrays of arrays"),
        ({"dtype": b'[["", "<f4"], ["", "<f4"]]'}, "cannot be read"),
        ({"dtype": b'[["", [["", "<f4"]]]]'}, "no dtype of numbers"),
        ({"dtype": b"[" * 700}, "cannot be read"),
        ({"dtype": b"\xff\xfe"}, "cannot be read"),
        ({"length": 1 << 63}, "has 9,223,372,036,854,775,808 bytes"),
        ({"length": 0}, "has 0 bytes"),
        ({"shape": ()}, "whole numbers above 0"),
        ({"shape": (0, 3)}, "whole numbers above 0"),
    ],
)
def test_a_damaged_descriptor_is_one_error(wrong, why):
    with pytest.raises(DatasetError, match=why):
        described("x", 4, arguments(**wrong))


def test_a_shape_beyond_all_memory_is_counted_exactly():
    assert described("x", 4, arguments(shape=(1 << 62,) * 3)).entry_bytes == 4 << 186


def test_a_field_that_only_its_writer_knows_is_refused():
    with pytest.raises(DatasetError, match="type 255"):
        described("x", 255, b"")


@given(st.sampled_from(["text", "list", "bytes"]), st.sampled_from(["", "boxes"]))
def test_notes_say_what_bytes_are(kind, role):
    field = Field("x", kind, "<f4" if kind == "list" else "", (4,) if kind == "list" else (), role)
    assert noted(described("x", 3, b""), json.loads(json.dumps(field.note()))) == field


@pytest.mark.parametrize(
    "note",
    [
        {"kind": "array", "dtype": "<f4", "shape": [2]},
        {"kind": "list", "dtype": "|O", "shape": [2]},
        {"kind": "list", "dtype": "<f4", "shape": [-1]},
        {"kind": "list", "dtype": "<f4", "shape": 3},
        {"kind": "list", "dtype": ["<f4"], "shape": [3]},
        {"kind": ["text"]},
        {"kind": "text", "role": "cats"},
        {"kind": "text", "role": 3},
        {},
    ],
)
def test_notes_that_do_not_fit_the_descriptor_are_refused(note):
    with pytest.raises(DatasetError):
        noted(described("x", 3, b""), note)


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        (Field("x", "int"), 0.5, "no whole number"),
        (Field("x", "int"), "a", "invalid literal"),
        (Field("x", "int"), 1 << 63, "64 bits"),
        (Field("x", "int"), float("inf"), "whole number"),
        (Field("x", "float"), "high", "high"),
        (Field("x", "text"), b"a", "a str"),
        (Field("x", "bytes"), "a", "give bytes"),
        (Field("x", "bytes"), np.zeros(2), "float64"),
        (Field("x", "json"), {1, 2}, "set"),
        (Field("x", "array", "float32", (2,)), [1, 2, 3], r"shape is \(3,\)"),
        (Field("x", "array", "int64", (1,)), [0.5], "float64 does not go into int64"),
        (Field("x", "array", "int8", (1,)), [200], "outside int8"),
        (Field("x", "array", "float32", (2,)), ["a", "b"], "does not go"),
        (Field("x", "list", "float32", (4,)), [[1, 2]], r"\(1, 2\)"),
        (Field("x", "list", "float32", (4,)), [[1], [1, 2]], "inhomogeneous"),
    ],
)
def test_a_value_that_a_field_cannot_hold_is_one_error(field, value, why):
    with pytest.raises(DatasetError, match=rf"field 'x' .*{why}"):
        field.encode(value)


@pytest.mark.parametrize("name", ["", "a name", "Größe", "x" * 17, "a\n"])
def test_a_name_that_ffcv_cannot_hold_is_refused(name):
    with pytest.raises(DatasetError, match="16 letters"):
        Field(name, "int").check_name()
