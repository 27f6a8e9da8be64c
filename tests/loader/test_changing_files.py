"""Files that are cut short, replaced or written to while they are in use."""

import os

import pytest
from test_hostile_files import ENGINES, load

from budgetloader import BudgetLoader, Dataset, DatasetError, EngineError, Schedule


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("engine", ["native", "resident"])
def test_a_file_that_is_cut_short_while_it_is_in_use_is_an_error(beton, small_beton, tmp_path, engine, mapped):
    path = tmp_path / "cut.beton"
    path.write_bytes((small_beton if engine == "resident" else beton).read_bytes())
    dataset = Dataset(path, mapped=mapped)
    if engine == "resident":  # which reads all at the start
        os.truncate(path, 1 << 20)
    with pytest.raises(DatasetError, match="was cut short or written to while it was in use"):
        _cut_while_open(dataset, path, engine=engine)


def _cut_while_open(dataset, path, **options):
    """Between two batches: what is cut while a batch is made of the map can still end the process."""
    schedule = Schedule.full(epochs=1)
    with BudgetLoader(dataset, schedule=schedule, batch_size=2, image_size=16, prefetch=1, **options) as batches:
        os.truncate(path, 1 << 20)
        for _ in batches:
            pass


@pytest.mark.parametrize("engine", [p for p in ENGINES if p.values[0] in ("dali", "ffcv")])
def test_so_it_is_in_engines_that_read_the_map(beton, tmp_path, engine):
    path = tmp_path / "cut.beton"
    path.write_bytes(beton.read_bytes())
    os.truncate(path, path.stat().st_size)
    with pytest.raises(DatasetError, match="was cut short or written to"):
        _cut_while_open(Dataset(path), path, engine=engine)


def test_a_file_that_is_replaced_stays_what_it_was(beton, tmp_path):
    path, other = tmp_path / "a.beton", tmp_path / "b.beton"
    path.write_bytes(beton.read_bytes())
    other.write_bytes(b"nothing")
    dataset = Dataset(path)
    expected = load(beton)[0]
    os.replace(other, path)
    assert all((a == b).all() for a, b in zip(expected, load(dataset)[0], strict=True))


@pytest.mark.slow
def test_ffcv_says_that_it_maps(beton):
    pytest.importorskip("ffcv")
    with pytest.raises(EngineError, match="reads the file's map"):
        load(Dataset(beton, mapped=False), engine="ffcv")


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.beton")
    with pytest.raises(DatasetError, match="is no file"):
        Dataset(tmp_path / "pipe.beton")
