"""Images and labels in one .npz, and what strangers make of it."""

import io
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetloader import DatasetError
from budgetloader.convert import npz
from budgetloader.convert.sources import open_source

IMAGES, LABELS = np.arange(5 * 8 * 8, dtype=np.uint8).reshape(5, 8, 8), np.arange(5)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (("x_train", "y_train"), ("x_test", "y_test")),
        (("train_images", "train_labels"), ("test_images", "test_labels")),
        (("images", "labels"), ("val_images", "val_labels")),
        (("data", "targets"), ("test_data", "test_targets")),
    ],
)
def test_usual_names_are_known(tmp_path, train, test):
    path = tmp_path / "set.npz"
    np.savez_compressed(path, **dict(zip(train + test, (IMAGES, LABELS, IMAGES[:2], LABELS[:2, None]), strict=True)))
    source = open_source(path)
    assert source.labels == [0, 1, 2, 3, 4] and np.array_equal(np.asarray(source.load(3)), IMAGES[3])
    assert open_source(path, split="test").labels == [0, 1]


def test_colour_and_a_channel_of_one_are_read(tmp_path):
    for images, mode in ((np.zeros((5, 4, 6, 3), np.uint8), "RGB"), (np.zeros((5, 4, 6, 1), np.uint8), "L")):
        np.savez(tmp_path / "x.npz", images=images, labels=LABELS)
        assert open_source(tmp_path / "x.npz").load(0).mode == mode


@pytest.mark.parametrize(
    ("images", "labels", "says"),
    [
        (IMAGES.astype(np.float32), LABELS, r"float32 \[5, 8, 8\]; images are uint8"),
        (IMAGES[0], LABELS, "images are uint8"),
        (IMAGES, LABELS.astype(float), "labels are integers"),
        (IMAGES, LABELS[:3], "3 labels for 5 images"),
        (IMAGES, LABELS - 1, "has labels -1 … 3"),
        (np.array([b"a", {}, 3, 4, 5], object), LABELS, "values of object"),
        (IMAGES[:0], LABELS[:0], r"says that it has \(0, 8, 8\)"),
    ],
)
def test_other_arrays_are_said(tmp_path, images, labels, says):
    np.savez(tmp_path / "x.npz", train_images=images, train_labels=labels)
    with pytest.raises(DatasetError, match=says):
        open_source(tmp_path / "x.npz")


def archive(path, header, data=b"abc", name="images.npy"):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        raw = header.encode()
        file.writestr(name, b"\x93NUMPY\x01\x00" + len(raw).to_bytes(2, "little") + raw + data)
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, LABELS)
        file.writestr("labels.npy", buffer.getvalue())


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (32000000000,)}", "between 1 and"),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (4000000, 28, 28)}", "bytes early"),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 4)}", "between 1 and"),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (1, 2)}", "goes on behind"),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (3,)}", "values of object"),
        ("{'descr': '|V900000000', 'fortran_order': False, 'shape': (3,)}", "values of"),
        ("__import__('os').abort()", "cannot be read"),
        ("(" * 900, "cannot be read"),
        ("{" + " " * 60_000 + "}", "cannot be read"),
        ("", "cannot be read"),
    ],
)
def test_headers_are_not_believed(tmp_path, header, says):
    archive(tmp_path / "x.npz", header)
    with pytest.raises(DatasetError, match=says) as caught:
        open_source(tmp_path / "x.npz")
    assert "\n" not in str(caught.value)


def test_what_has_no_known_names_is_said(tmp_path):
    np.savez(tmp_path / "x.npz", a=IMAGES, b=LABELS)
    with pytest.raises(DatasetError, match="no arrays that are known as images and labels"):
        open_source(tmp_path / "x.npz")
    (tmp_path / "y.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(DatasetError, match=r"is no \.npz that can be read"):
        open_source(tmp_path / "y.npz")


@given(st.binary(max_size=60), st.integers(0, 200))
def test_no_damage_does_more_than_raise_one_error(tmp_path_factory, junk, place):
    buffer = io.BytesIO()
    np.savez(buffer, images=IMAGES, labels=LABELS)
    data = bytearray(buffer.getvalue())
    data[place : place + len(junk)] = junk
    path = tmp_path_factory.getbasetemp() / "any.npz"
    path.write_bytes(data)
    try:
        found = npz.read(path, "images")
    except DatasetError:
        return
    assert found.nbytes <= len(data)
