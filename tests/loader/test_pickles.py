"""Pickles that a stranger made, in place of CIFAR's."""

import pickle
import pickletools
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetloader import DatasetError, pickles

RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"


def array(dtype, shape, data):
    """An array as Python 2's numpy pickled it, with whatever dtype, shape and bytes."""
    state = b"(I1\n(" + b"".join(b"I%d\n" % side for side in shape) + b"t"
    state += b"cnumpy\ndtype\n(S'%s'\nI0\nI1\ntR" % dtype + b"I00\n" + b"S" + repr(data)[1:].encode() + b"\ntb"
    return RECONSTRUCT + state


def whole(part):
    return b"(dS'data'\n" + part + b"s."


def test_what_cifar_has_comes_out():
    data = np.arange(2 * 3072, dtype=np.uint8).reshape(2, 3072)
    for protocol in range(5):
        content = {b"data": data, b"labels": [1, 2], b"filenames": [b"a", b"b"], b"batch_label": b"one", b"n": 3}
        found = pickles.loads(pickle.dumps(content, protocol=protocol), name="batch")
        np.testing.assert_array_equal(found[b"data"], data)
        assert {k: v for k, v in found.items() if k != b"data"} == {k: v for k, v in content.items() if k != b"data"}
    assert pickles.loads(whole(array(b"u1", (2, 2), b"abcd")), name="x")[b"data"].tolist() == [[97, 98], [99, 100]]


class Evil:
    def __reduce__(self):
        return print, ("run",)


def bombs():
    pointers = whole(array(b"O8", (2,), b"\x41" * 16))  # dtype O: bytes as pointers ended the process
    yield "pointers", pointers
    yield "shape", whole(array(b"u1", (32_000_000_000,), b""))  # asked for 32 GB
    yield "negative shape", whole(array(b"u1", (-1,), b"abc"))
    yield "float array", pickle.dumps({b"data": np.zeros(3)})
    yield "object array", pickle.dumps({b"data": np.array([1, "a"], object)})
    yield "call", pickle.dumps({b"data": Evil()})
    yield "nothing", b""
    yield "cut", pickle.dumps({b"data": np.zeros(3, np.uint8)})[:-5]
    yield "a list", pickle.dumps([1, 2])
    yield "a float", pickle.dumps({b"a": 1.5})
    yield "nested", pickle.dumps({b"a": [[[[[[1]]]]]]})
    yield "deep", b"(" * 100_000 + b"l" * 100_000 + b"."
    yield "memo", b"\x80\x02}" + b"r" + struct.pack("<I", (1 << 31) - 1) + b"."  # asked for a memo of 32 GB
    yield "long bytes", b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"abc."
    yield "long text", b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"abc."
    yield "long number", b"\x80\x02\x8b" + struct.pack("<i", (1 << 31) - 1) + b"abc."
    yield "frame", b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"}."
    yield "extension", b"\x80\x02\x82\x01."
    yield "persistent", b"Pid\n."
    yield "setattr", b"cnumpy\ndtype\n(N}S'__call__'\nI1\nstb."
    yield "attribute", b"\x80\x04\x8c\x05numpy\x8c\x12ndarray.__init_subclass__\x93."


BOMBS = dict(bombs())


@pytest.mark.parametrize("name", [name for name in BOMBS if name not in ("memo", "frame")])
def test_anything_else_is_one_error(name):
    with pytest.raises(DatasetError, match="batch is no pickle of CIFAR's") as caught:
        pickles.loads(BOMBS[name], name="batch")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_memo_is_as_large_as_what_is_in_it():
    """The interpreter in C makes room for all the places before one that is named."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert pickles.loads(BOMBS["memo"], name="batch") == pickles.loads(BOMBS["frame"], name="batch") == {}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


OPCODES = st.sampled_from([opcode.code.encode("latin1") for opcode in pickletools.opcodes])


@given(st.lists(st.one_of(OPCODES, st.sampled_from([RECONSTRUCT, b"cnumpy\ndtype\n", b"I1\n", b"(", b"t", b"R", b"b"]),
                          st.binary(max_size=9)), max_size=40).map(b"".join))  # fmt: skip
def test_no_program_does_more_than_raise_one_error(data):
    try:
        found = pickles.loads(data + b".", name="batch")
    except DatasetError:
        return
    assert isinstance(found, dict)
