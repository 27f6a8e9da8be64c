"""Conversions that are interrupted and resumed: the same file, and nothing encoded twice."""

import dataclasses
import fcntl

import pytest

from budgetloader import DatasetError
from budgetloader.cli import main
from budgetloader.convert.converting import Settings, convert
from budgetloader.convert.sources import image_folder

THREADS = 1


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "x.beton"
    convert(image_folder(folder), path)
    return path.read_bytes()


@pytest.fixture
def counted(folder):
    """The folder's source, and the numbers of the images that were loaded."""
    source, loaded = image_folder(folder), []

    def load(i):
        loaded.append(i)
        return source.load(i)

    return dataclasses.replace(source, load=load, plain=False), loaded


def interrupted(source, path, *, at, **options):
    def progress(done):
        if done == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, path, resume=True, progress=progress, settings=Settings(threads=THREADS), **options)


def resumed(source, path, **settings):
    return convert(source, path, resume=True, settings=Settings(threads=THREADS, **settings))


def test_what_was_done_is_copied_and_the_file_is_the_same(counted, whole, tmp_path):
    source, loaded = counted
    path = tmp_path / "x.beton"
    interrupted(source, path, at=40)
    assert not path.exists() and (tmp_path / "x.beton.partial").exists()
    del loaded[:]
    report = resumed(source, path)
    assert report.copied == 40 and loaded == list(range(40, 70)) and report.samples == 70
    assert path.read_bytes() == whole
    assert [file.name for file in tmp_path.iterdir()] == ["x.beton"]


def test_it_may_be_interrupted_again_and_again(counted, whole, tmp_path):
    source, loaded = counted
    path = tmp_path / "x.beton"
    for at in (50, 20, 60):  # the second is shorter than what the first has kept
        interrupted(source, path, at=at)
    del loaded[:]
    assert resumed(source, path).copied == 60 and loaded == list(range(60, 70))
    assert path.read_bytes() == whole


@pytest.mark.parametrize("damage", ["bytes", "journal", "torn", "short"])
def test_what_is_not_whole_is_encoded_again(counted, whole, tmp_path, damage):
    source, _ = counted
    path = tmp_path / "x.beton"
    interrupted(source, path, at=40)
    partial, journal = tmp_path / "x.beton.partial", tmp_path / "x.beton.partial.journal"
    content, lines = bytearray(partial.read_bytes()), journal.read_text().splitlines(keepends=True)
    if damage == "bytes":  # of the last image that was written
        content[-100] ^= 0xFF
        partial.write_bytes(content)
    elif damage == "short":
        partial.write_bytes(content[:-100])
    elif damage == "torn":
        journal.write_text("".join(lines)[:-30])
    else:
        journal.write_text("".join([*lines[:11], "[5, 7]\n", "{}", *lines[11:]]))
    assert resumed(source, path).copied == {"bytes": 39, "short": 39, "torn": 39, "journal": 10}[damage]
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "entry", ['[3, {"data": [1e999, 5, 1]}]', '[3, {"data": "x", "evil": 1}]', '[3, {"data": [-9, 9, 9]}]']
)
def test_a_strangers_journal_changes_nothing(counted, whole, tmp_path, entry):
    source, _ = counted
    path = tmp_path / "x.beton"
    interrupted(source, path, at=3)
    with open(tmp_path / "x.beton.partial.journal", "a") as journal:
        journal.write(entry + "\n")
    assert resumed(source, path).copied == 3
    assert path.read_bytes() == whole


def test_other_settings_and_other_images_begin_anew(counted, tmp_path):
    source, _ = counted
    path = tmp_path / "x.beton"
    interrupted(source, path, at=40)
    assert resumed(source, path, quality=70).copied == 0
    interrupted(source, path, at=40, exists="replace")
    other = dataclasses.replace(source, names=["another", *source.names[1:]])
    assert convert(other, path, resume=True, exists="replace", settings=Settings(threads=THREADS)).copied == 0


def test_a_file_that_another_process_writes_is_not_taken(counted, tmp_path):
    source, _ = counted
    path = tmp_path / "x.beton"
    interrupted(source, path, at=5)
    with open(tmp_path / "x.beton.partial", "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DatasetError, match="another process is writing"):
            resumed(source, path)
    assert resumed(source, path).copied == 5


def test_without_resume_nothing_stays(counted, tmp_path):
    source, _ = counted

    def stop(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "x.beton", progress=stop)
    assert not list(tmp_path.iterdir())


def test_the_command_says_what_it_took_over(folder, counted, tmp_path, capsys):
    path = tmp_path / "x.beton"
    interrupted(counted[0], path, at=30)
    assert main(["convert", str(folder), str(path), "--resume", "--threads", "1"]) == 0
    assert "30 taken over from the conversion that was interrupted" in capsys.readouterr().out
