import os

import numpy as np
import pytest

from budgetloader import Dataset, DatasetError, beton

JPEGS = [b"\xff\xd8" + bytes([i]) * (1000 + i) for i in range(10)]


def write(path, jpegs=JPEGS, **options):
    options = {"capacity": len(jpegs), "notes": {"classes": ["a", "b"]}, **options}
    with beton.Writer(path, **options) as writer:
        for i, data in enumerate(jpegs):
            writer.add(data, width=10 + i, height=20 + i, label=i % 2)


def test_what_is_written_is_read_back(tmp_path):
    write(tmp_path / "a.beton")
    dataset = Dataset(tmp_path / "a.beton")
    assert [dataset.jpeg(i).tobytes() for i in range(10)] == JPEGS
    np.testing.assert_array_equal(dataset.widths, np.arange(10, 20))
    np.testing.assert_array_equal(dataset.heights, np.arange(20, 30))
    np.testing.assert_array_equal(dataset.labels, [0, 1] * 5)
    assert dataset.classes == ("a", "b")


def test_no_sample_crosses_a_pages_border(tmp_path):
    write(tmp_path / "a.beton", [b"x" * 3_000_000] * 5)
    dataset = Dataset(tmp_path / "a.beton")
    assert (dataset.starts // beton.PAGE_BYTES == (dataset.starts + dataset.sizes - 1) // beton.PAGE_BYTES).all()
    assert dataset.starts[0] % beton.PAGE_BYTES == 0


def test_fewer_samples_than_the_capacity_are_fine(tmp_path):
    write(tmp_path / "a.beton", capacity=1000)
    assert len(Dataset(tmp_path / "a.beton")) == 10


def test_an_error_inside_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), beton.Writer(tmp_path / "a.beton", capacity=9, notes={}) as writer:
        writer.add(b"x", width=1, height=1, label=0)
        raise KeyError
    assert os.listdir(tmp_path) == []


def test_an_existing_file_is_kept(tmp_path):
    path = tmp_path / "a.beton"
    write(path)
    before = path.read_bytes()
    with pytest.raises(DatasetError, match="exists"):
        write(path, JPEGS[:2])
    with pytest.raises(KeyError), beton.Writer(path, capacity=9, notes={}, exists="replace"):
        raise KeyError
    assert path.read_bytes() == before
    write(path, JPEGS[:2], exists="replace")
    assert len(Dataset(path)) == 2


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    with beton.Writer(tmp_path / "a.beton", capacity=9, notes={}) as writer:
        writer.add(JPEGS[0], width=1, height=1, label=0)
        with pytest.raises(DatasetError, match="another process"):
            write(tmp_path / "a.beton")
    assert Dataset(tmp_path / "a.beton").jpeg(0).tobytes() == JPEGS[0]


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    """/dev/full gives the kernel's own ENOSPC."""
    with (
        pytest.raises(DatasetError, match="disk is full"),
        beton.Writer(tmp_path / "a.beton", capacity=9, notes={}) as w,
    ):
        full = open("/dev/full", "r+b", buffering=0)  # noqa: SIM115  the writer closes it
        w._file.close()
        w._file = full
        w.add(b"x" * 100, width=1, height=1, label=0)
    assert os.listdir(tmp_path) == []


def test_a_sample_above_a_page_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="--max-side"):
        write(tmp_path / "a.beton", [b"x" * (beton.PAGE_BYTES + 1)])


def test_a_missing_folder_is_said(tmp_path):
    with pytest.raises(DatasetError, match="No such file"):
        write(tmp_path / "none" / "a.beton")


def test_an_empty_file_is_not_written(tmp_path):
    with pytest.raises(DatasetError, match="no sample"):
        write(tmp_path / "a.beton", [])
    assert os.listdir(tmp_path) == []
