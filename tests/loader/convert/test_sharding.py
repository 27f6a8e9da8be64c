"""Sets that several machines write at once, and their lists."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from budgetloader import ArgumentError, BudgetLoader, Dataset, DatasetError, Schedule
from budgetloader.cli import main
from budgetloader.convert.converting import Settings, convert
from budgetloader.convert.sharding import gather, list_path, part_of, shard_path
from budgetloader.convert.sources import image_folder
from budgetloader.shard_list import open_list

SETTINGS = Settings()


@pytest.fixture(scope="module")
def source(folder):
    return image_folder(folder)


@pytest.fixture(scope="module")
def shards(source, tmp_path_factory):
    """A folder with three shards, as three machines have written them."""
    root = tmp_path_factory.mktemp("shards")
    for number in (2, 3, 1):
        convert(part_of(source, number, 3, settings=SETTINGS), shard_path(root / "train.beton", number, 3))
    return root


@pytest.fixture
def listed(shards, tmp_path):
    """The same in a folder of a test's own, with a list."""
    for path in shards.glob("*.beton"):
        os.link(path, tmp_path / path.name)
    return gather(tmp_path / "train.beton", 3)[0]


def batches_of(path):
    schedule = Schedule.flat("0.618", epochs=2)
    with BudgetLoader(path, schedule=schedule, batch_size=8, image_size=16, dtype="uint8", with_ids=True) as batches:
        return [
            (ids.tolist(), labels.tolist(), images.numpy().tobytes())
            for _ in batches.epochs()
            for images, labels, ids in batches
        ]


def test_a_set_of_shards_is_the_set_that_one_machine_writes(beton, listed):
    whole, joined = Dataset(beton), open_list(listed)
    assert joined.classes == whole.classes and (joined.labels == whole.labels).all()
    assert all((joined.jpeg(i) == whole.jpeg(i)).all() for i in range(70))
    assert batches_of(listed) == batches_of(beton)


def test_the_shards_of_a_source_are_all_of_it_and_nearly_equal(source):
    for of in (1, 2, 7, 70):
        parts = [part_of(source, number, of, settings=SETTINGS) for number in range(1, of + 1)]
        assert [name for part in parts for name in part.names] == source.names
        assert [label for part in parts for label in part.labels] == source.labels
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_columns_go_with_their_images(source, tmp_path):
    from dataclasses import replace

    from budgetloader.convert.sources import Filled
    from budgetloader.fields import Field

    values = [float(i) for i in range(70)]
    with_column = replace(source, columns=(Filled(Field("height_m", "float"), values),))
    for number in (1, 2):
        part = part_of(with_column, number, 2, settings=SETTINGS)
        convert(part, shard_path(tmp_path / "x.beton", number, 2))
    assert gather(tmp_path / "x.beton", 2)[1].column("height_m")[:].tolist() == values


@pytest.mark.parametrize("number, of", [(0, 3), (4, 3), (1, 0), (-1, -1), (1, 10_000)])
def test_there_is_no_such_shard(source, number, of):
    with pytest.raises(ArgumentError, match=f"shard {number}/{of}"):
        part_of(source, number, of, settings=SETTINGS)
    with pytest.raises(ArgumentError, match=f"shard {number}/{of}"):
        shard_path("train.beton", number, of)


def test_a_shard_that_would_be_empty_is_refused(source):
    with pytest.raises(ArgumentError, match="would be empty; make fewer"):
        part_of(source, 1, 71, settings=SETTINGS)


def test_a_shard_that_is_missing_is_named(shards, tmp_path):
    for number in (1, 3):
        os.link(shard_path(shards / "train.beton", number, 3), shard_path(tmp_path / "train.beton", number, 3))
    with pytest.raises(DatasetError, match=r"train\.0002-of-0003\.beton does not exist"):
        gather(tmp_path / "train.beton", 3)
    assert not os.path.exists(list_path(tmp_path / "train.beton"))


def others(source, how):
    """A source, or settings, that another machine could have had by mistake."""
    from dataclasses import replace

    if how == "labels":
        return replace(source, labels=[source.labels[-1], *source.labels[1:]]), SETTINGS
    if how == "classes":
        return replace(source, classes=(*source.classes[:-1], "another")), SETTINGS
    if how == "order":
        return replace(source, names=source.names[::-1]), SETTINGS
    return source, Settings(quality=70)


@pytest.mark.parametrize("how", ["labels", "classes", "order", "settings"])
def test_shards_of_other_images_labels_or_settings_do_not_go_together(source, shards, tmp_path, how):
    for number in (1, 2):
        os.link(shard_path(shards / "train.beton", number, 3), shard_path(tmp_path / "train.beton", number, 3))
    changed, settings = others(source, how)
    convert(part_of(changed, 3, 3, settings=settings), shard_path(tmp_path / "train.beton", 3, 3), settings=settings)
    with pytest.raises(DatasetError, match="0003-of-0003.* were made of other images, labels or settings"):
        gather(tmp_path / "train.beton", 3)
    assert not os.path.exists(list_path(tmp_path / "train.beton"))


def test_a_file_that_is_no_shard_or_another_one_is_refused(beton, shards, tmp_path):
    os.link(beton, shard_path(tmp_path / "x.beton", 1, 1))
    with pytest.raises(DatasetError, match="is not shard 1 of 1; make it: budgetloader convert --shard 1/1"):
        gather(tmp_path / "x.beton", 1)
    os.link(shard_path(shards / "train.beton", 2, 3), shard_path(tmp_path / "y.beton", 1, 3))
    for number in (2, 3):
        os.link(shard_path(shards / "train.beton", number, 3), shard_path(tmp_path / "y.beton", number, 3))
    with pytest.raises(DatasetError, match="is not shard 1 of 3"):
        gather(tmp_path / "y.beton", 3)


def test_a_list_is_not_replaced_unasked(listed):
    before = Path(listed).read_text()
    with pytest.raises(DatasetError, match="exists; choose another name, or pass --overwrite"):
        gather(listed.replace(".shards.json", ".beton"), 3)
    assert gather(listed.replace(".shards.json", ".beton"), 3, replace=True)[0] == listed
    assert Path(listed).read_text() == before


def test_a_shard_that_was_made_anew_since_is_refused(source, listed, tmp_path):
    place = shard_path(tmp_path / "train.beton", 2, 3)
    os.unlink(place)
    with pytest.raises(DatasetError, match="0002-of-0003.beton does not exist"):
        open_list(listed)
    settings = Settings(quality=50)
    convert(part_of(source, 2, 3, settings=settings), place, settings=settings)
    with pytest.raises(DatasetError, match="another file than .* lists .* make the list again: budgetloader gather"):
        BudgetLoader(listed, schedule=Schedule.full(epochs=1), batch_size=8, image_size=16)


def test_verify_takes_a_list_and_numbers_its_samples_as_one_set(listed, tmp_path, capsys):
    assert main(["verify", listed]) == 0
    assert "all 70 images decode, and have their checksums" in capsys.readouterr().out
    third = Dataset(shard_path(tmp_path / "train.beton", 3, 3))
    place, before = int(third.starts[1]) + 200, 70 - len(third)
    copy = Path(third.path).read_bytes()
    os.unlink(third.path)  # a link to what other tests use
    Path(third.path).write_bytes(copy[:place] + bytes([copy[place] ^ 255]) + copy[place + 1 :])
    assert main(["verify", listed]) == 1
    assert f"sample {before + 1}: " in capsys.readouterr().err


BLOCKING = """
import time
from pathlib import Path
from PIL import Image
from budgetloader.convert.sources import Source

def source(root):
    def load(i):
        if i == 5 and (Path(root) / "block").exists():
            (Path(root) / "reached").touch()
            time.sleep(600)
        return Image.new("RGB", (32, 32), (i, 2 * i, 3 * i))
    return Source([f"image {i}" for i in range(12)], [i % 3 for i in range(12)], ("a", "b", "c"), load)
"""


@pytest.mark.slow
def test_a_machine_that_is_killed_leaves_nothing_half_done(tmp_path):
    (tmp_path / "own_images.py").write_text(BLOCKING)
    (tmp_path / "block").touch()
    target = tmp_path / "train.beton"
    command = [sys.executable, "-m", "budgetloader", "convert", "--dataset", "own_images:source", str(tmp_path)]
    command += [str(target), "--threads", "1", "--shard"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    killed = subprocess.Popen([*command, "1/2"], env=environment, stderr=subprocess.DEVNULL)
    while not (tmp_path / "reached").exists():
        assert killed.poll() is None
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    (tmp_path / "block").unlink()
    subprocess.run([*command, "2/2"], env=environment, check=True, capture_output=True)
    assert [path.name for path in tmp_path.glob("*.beton")] == ["train.0002-of-0002.beton"]
    with pytest.raises(DatasetError, match="0001-of-0002.beton does not exist"):
        gather(target, 2)
    subprocess.run([*command, "1/2"], env=environment, check=True, capture_output=True)
    joined = gather(target, 2)[1]
    assert len(joined) == 12 and joined.labels.tolist() == [i % 3 for i in range(12)]


@pytest.mark.usefixtures("configured")
def test_shards_are_written_to_object_storage_gathered_and_trained_from_there(s3, folder, beton, tmp_path, capsys):
    url = f"s3://{s3.bucket}/sharded/train.beton"
    for number in (1, 2, 3):
        assert main(["convert", str(folder), url, "--shard", f"{number}/3"]) == 0
        if number < 3:
            assert main(["gather", url, "3"]) == 1
            assert f"{number + 1:04}-of-0003.beton" in capsys.readouterr().err
    assert main(["gather", url, "3"]) == 0
    assert "70 samples in 3 shards" in capsys.readouterr().out
    assert main(["gather", url, "3"]) == 1 and "exists" in capsys.readouterr().err
    place = list_path(url)
    assert batches_of(place) == batches_of(beton)
    options = {"schedule": Schedule.full(epochs=2), "batch_size": 8, "image_size": 16}
    with BudgetLoader(place, cache=tmp_path / "cache", cache_bytes=100e6, **options) as batches:
        list(batches)
        before = batches.dataset.traffic
        list(batches)
        assert batches.dataset.traffic.fetched_bytes == before.fetched_bytes


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--shard", "2"], "--shard 2: give NUMBER/OF"),
        (["--shard", "a/b"], "--shard a/b: give NUMBER/OF"),
        (["--shard", "1/2/3"], "give NUMBER/OF"),
        (["--shard", "0/2"], "shard 0/2"),
        (["--shard", "1/2", "--append"], "give one of them"),
    ],
)
def test_bad_calls_are_one_line(folder, tmp_path, capsys, more, why):
    assert main(["convert", str(folder), str(tmp_path / "x.beton"), *more]) == 1
    shown = capsys.readouterr().err
    assert why in shown and len(shown.strip().splitlines()) == 1 and not list(tmp_path.glob("*"))


ROW = {"file": "train.0001-of-0003.beton", "samples": 23, "fingerprint": "0" * 16}
TOLD = {"format": "budgetloader shards 1", "source": "x", "samples": 23, "shards": [ROW]}
HOSTILE = [
    b"",
    b"\xff\xfe",
    b"[" * 100_000,
    b"[]",
    b"7",
    *(
        json.dumps(told).encode()
        for told in (
            {**TOLD, "format": "another"},
            {**TOLD, "shards": []},
            {**TOLD, "shards": {}},
            {**TOLD, "shards": [ROW] * 10_000},
            {**TOLD, "shards": [7]},
            *({**TOLD, "shards": [{**ROW, "file": name}]} for name in (
                "../secret.beton", "/etc/x.beton", "a/b.beton", "..", ".hidden.beton", "x.txt", 7, "a\\b.beton",
                "x\x00.beton", "..%2Fx.beton", "x?y.beton", "s3://other/x.beton",
            )),
            *({**TOLD, "shards": [{**ROW, "samples": count}]} for count in (0, -1, 1.5, True, "9")),
            *({**TOLD, "shards": [{**ROW, "fingerprint": text}]} for text in ("", "x" * 16, 7, None)),
            {**TOLD, "shards": [{"file": ROW["file"]}]},
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize("data", HOSTILE)
def test_a_list_of_a_stranger_is_one_error_and_leads_nowhere_else(listed, data):
    with open(listed, "wb") as file:
        file.write(data)
    with pytest.raises(DatasetError, match="is no list of shards that `budgetloader gather` wrote"):
        open_list(listed)
