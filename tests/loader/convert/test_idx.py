"""IDX files, and what strangers make of them."""

import gzip
import resource
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetloader import Dataset, DatasetError
from budgetloader.convert import idx
from budgetloader.convert.converting import convert
from budgetloader.convert.sources import open_source


def file(values, *, kind=8, shape=None):
    shape = values.shape if shape is None else shape
    return bytes([0, 0, kind, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + values.tobytes()


def write_set(root, *, count=6, packed=True, size=8, test="t10k"):
    """Fashion-MNIST in small: grey images of `size` pixels in two splits."""
    root.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for split in ("train", test):
        images, labels = random.integers(0, 256, (count, size, size)), np.arange(count) % 10
        for name, values in (("images-idx3", images), ("labels-idx1", labels)):
            data = file(values.astype(np.uint8))
            path = root / f"{split}-{name}-ubyte{'.gz' * packed}"
            path.write_bytes(gzip.compress(data) if packed else data)
    return root


@pytest.mark.parametrize("packed", [True, False])
def test_a_set_is_read_split_by_split_and_converted(tmp_path, packed):
    root = write_set(tmp_path / "set", packed=packed, size=16)
    train, test = open_source(root), open_source(root, split="test")
    assert len(train) == len(test) == 6 and train.labels == [0, 1, 2, 3, 4, 5] and not train.lossy
    assert train.load(2).mode == "L" and train.load(2).tobytes() != test.load(2).tobytes()
    report = convert(train, tmp_path / "x.beton")
    assert report.converted == {"L": 6} and Dataset(tmp_path / "x.beton").labels.tolist() == train.labels


def test_a_plain_file_is_taken_before_its_packed_copy(tmp_path):
    write_set(tmp_path, packed=False)
    write_set(tmp_path, packed=True)
    assert idx.pair(tmp_path, split="train")[0].suffix != ".gz"


def test_several_sets_and_missing_labels_are_said(tmp_path):
    root = write_set(tmp_path / "set")
    (root / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DatasetError, match=r"no labels beside it; train-labels-idx1-ubyte\.gz is missing"):
        open_source(root)
    (root / "emnist-letters-train-images-idx3-ubyte").write_bytes(b"")
    with pytest.raises(DatasetError, match="has several sets"):
        open_source(root)


def test_a_split_that_is_not_there_is_said(tmp_path):
    root = write_set(tmp_path / "set")
    for path in root.glob("t10k*"):
        path.unlink()
    with pytest.raises(DatasetError, match="has no test split"):
        open_source(root, split="test")
    with pytest.raises(DatasetError, match="split 'val' is not known"):
        open_source(root, split="val")


GOOD = np.zeros((3, 4, 5), np.uint8)


BAD = {
    "empty": (b"", "no IDX file"),
    "jpeg": (b"\xff\xd8\xff\xe0", "no IDX file"),
    "floats": (file(GOOD, kind=0x0D), "IDX type 0x0d"),
    "two axes": (file(GOOD[0]), "has 2 axes, and 3 are needed"),
    "cut header": (file(GOOD)[:9], "ends in its header"),
    "cut": (file(GOOD)[:-1], "ends 1 bytes early"),
    "longer": (file(GOOD) + b"x", "goes on behind the 60 bytes"),
    "no images": (file(GOOD, shape=(0, 4, 5)), "is empty"),
    "too large": (file(GOOD, shape=(0xFFFFFFFF,) * 3), "more than the"),
    "promises": (file(GOOD, shape=(1 << 20, 28, 28)), "ends 822,083,524 bytes early"),
    "cut gzip": (gzip.compress(file(GOOD))[:-9], "cannot be read"),
    "damaged gzip": (gzip.compress(file(GOOD))[:12] + b"\xff" * 20, "cannot be read|ends|no IDX file"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_such_file_is_one_error(tmp_path, name):
    data, says = BAD[name]
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=says) as caught:
        idx.read(path, axes=3)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_what_a_header_promises_takes_no_memory(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(gzip.compress(file(GOOD, shape=(2_000_000, 28, 28))))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DatasetError, match="early"):
        idx.read(path, axes=3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB; the header says 1.5 GB


def test_labels_must_fit_the_images(tmp_path):
    root = write_set(tmp_path / "set")
    (root / "train-labels-idx1-ubyte.gz").write_bytes(file(np.zeros(7, np.uint8)))
    with pytest.raises(DatasetError, match="7 labels for 6 images"):
        open_source(root)


@given(st.binary(max_size=40), st.booleans())
def test_no_bytes_do_more_than_raise_one_error(tmp_path_factory, data, packed):
    path = tmp_path_factory.getbasetemp() / "any-idx"
    whole = file(GOOD)[:4] + data
    path.write_bytes(gzip.compress(whole) if packed else whole)
    try:
        found = idx.read(path, axes=3)
    except DatasetError:
        return
    assert found.size == len(data) - 12
