"""Encoding in processes: the same file as without, its errors, and a process that ends."""

import os
import signal
import subprocess
from dataclasses import replace

import pytest

from budgetloader import Dataset, DatasetError
from budgetloader.convert import encoding_processes as apart
from budgetloader.convert.converting import Settings, convert
from budgetloader.convert.sharding import part_of
from budgetloader.convert.sources import Source, image_folder


@pytest.fixture
def source(folder, monkeypatch):
    monkeypatch.setattr(apart, "LEAST_IMAGES", 1)
    return image_folder(folder)


@pytest.fixture
def started(monkeypatch):
    """The processes that were started."""
    processes, start = [], subprocess.Popen

    def note(*arguments, **options):
        processes.append(start(*arguments, **options))
        return processes[-1]

    monkeypatch.setattr(apart.subprocess, "Popen", note)
    return processes


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"raw": 0.3, "optimize": False, "max_side": 90}], ids=str)
def test_files_are_those_of_one_process(source, started, tmp_path, options):
    settings = Settings(threads=2, **options)
    report = convert(source, tmp_path / "apart.beton", settings=settings)
    assert len(started) == 2 and all(process.returncode == 0 for process in started)
    plain = Source(source.names, source.labels, source.classes, source.load, read=source.read)
    assert convert(plain, tmp_path / "plain.beton", settings=settings) == report
    assert len(started) == 2
    assert (tmp_path / "apart.beton").read_bytes() == (tmp_path / "plain.beton").read_bytes()


@pytest.mark.slow
def test_a_shards_files_are_its_own(source, started, tmp_path):
    """They are not the whole folder's first ones, whose paths the processes could be given."""
    settings = Settings(threads=2)
    part = part_of(source, 2, 3, settings=settings)
    convert(part, tmp_path / "apart.beton", settings=settings)
    assert len(started) == 2
    convert(replace(part, plain=False), tmp_path / "plain.beton", settings=settings)
    assert (tmp_path / "apart.beton").read_bytes() == (tmp_path / "plain.beton").read_bytes()


@pytest.mark.slow
def test_what_cannot_be_read_is_named_or_skipped(source, started, tmp_path):
    def read(i):
        if i == 5:
            raise OSError("the disk is gone")
        return b"no image" if i == 3 else source.read(i)

    def load(i):
        read(i)
        return source.load(i)

    broken = Source(source.names, source.labels, source.classes, load, read=read, plain=True)
    with pytest.raises(DatasetError, match=f"{source.names[3]} cannot be converted: it is no image that PIL knows"):
        convert(broken, tmp_path / "x.beton", settings=Settings(threads=2))
    assert not list(tmp_path.iterdir())
    report = convert(broken, tmp_path / "x.beton", settings=Settings(threads=2, on_bad="skip"))
    assert [line.partition(": ")[2] for line in report.skipped] == ["it is no image that PIL knows", "the disk is gone"]
    assert len(Dataset(tmp_path / "x.beton")) == 68
    assert all(process.poll() is not None for process in started)


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_conversion_with_a_word(source, started, tmp_path):
    def read(i):
        if i == 20:
            for process in started:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
        return source.read(i)

    killed = Source(source.names, source.labels, source.classes, source.load, read=read, plain=True)
    with pytest.raises(DatasetError, match="a process that converts ended with status -9 at image"):
        convert(killed, tmp_path / "x.beton", settings=Settings(threads=2))
    assert not list(tmp_path.iterdir())


def test_few_images_and_sources_of_ones_own_need_no_process(folder, started, tmp_path):
    convert(image_folder(folder), tmp_path / "x.beton", settings=Settings(threads=2))
    assert not started
