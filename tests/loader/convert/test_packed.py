"""WebDataset shards, Hugging Face's Parquet and files that have fields already, as sources of `convert`."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from budgetloader import Dataset, DatasetError
from budgetloader.cli import main
from budgetloader.convert.converting import convert
from budgetloader.convert.other_sources import any_source
from budgetloader.convert.packed import parquet_source, shard_source

COUNT = 7


def encoded(i):
    data = io.BytesIO()
    Image.new("RGB", (20 + i, 16), (30 * i, 0, 0)).save(data, "PNG")
    return data.getvalue()


def shard(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def members(*, cls=True, text=True, content=lambda i: {"score": i / 2, "tags": list(range(i % 3))}):
    for i in range(COUNT):
        yield f"a/{i:03}.png", encoded(i)
        if cls:
            yield f"a/{i:03}.cls", str(i % 3).encode()
        if text:
            yield f"a/{i:03}.txt", f"no. {i}".encode()
        if content is not None:
            yield f"a/{i:03}.json", json.dumps(content(i)).encode()


def test_a_shards_members_are_fields(tmp_path, capsys):
    shard(tmp_path / "x.tar", members())
    assert main(["convert", str(tmp_path / "x.tar"), str(tmp_path / "x.beton")]) == 0, capsys.readouterr()
    dataset = Dataset(tmp_path / "x.beton")
    assert dataset.fields == ("image", "label", "txt", "score", "tags") and dataset.widths.tolist() == list(
        range(20, 27)
    )
    assert dataset.labels.tolist() == [i % 3 for i in range(COUNT)]
    assert dataset.column("txt")[4] == "no. 4" and dataset.column("score")[:].tolist() == [i / 2 for i in range(COUNT)]
    assert [tags.tolist() for tags in dataset.column("tags")[:3]] == [[], [0], [0, 1]]


def test_a_label_may_stand_in_the_json_and_json_may_be_anything(tmp_path):
    labelled = shard_source(shard(tmp_path / "a.tar", members(cls=False, text=False, content=lambda i: {"label": i})))
    assert labelled.labels == list(range(COUNT)) and labelled.columns == ()
    (column,) = shard_source(shard(tmp_path / "b.tar", members(text=False, content=lambda i: [i, None]))).columns
    assert column.field.kind == "json" and column.values[3] == [3, None]
    assert shard_source(shard(tmp_path / "c.tar", members(text=False, content=None))) is None


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ([("b.png", encoded(1))], "'b' has no .cls beside it"),
        ([("b.png", encoded(1)), ("b.cls", b"cat"), ("b.txt", b""), ("b.json", b"{}")], "no .cls that can be read"),
        ([("b.png", encoded(1)), ("b.cls", b"1"), ("b.txt", b"\xff"), ("b.json", b"{}")], "no .txt that can be read"),
        (
            [("b.png", encoded(1)), ("b.cls", b"1"), ("b.txt", b""), ("b.json", b"[" * 9999)],
            "no .json that can be read",
        ),
        ([("b.png", encoded(1)), ("b.cls", b"1"), ("b.txt", bytes(9 << 20)), ("b.json", b"{}")], "more than 8,388,608"),
    ],
)
def test_a_shard_that_is_not_whole_is_one_error(tmp_path, more, why):
    with pytest.raises(DatasetError, match=why):
        shard_source(shard(tmp_path / "x.tar", [*members(), *more]))


def parquet(path, *, start=0, classes=("cat", "dog"), group=3, **changed):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path.parent.mkdir(exist_ok=True)
    images = [{"bytes": encoded(i), "path": f"{i}.png"} for i in range(start, start + COUNT)]
    columns = {"image": images, "label": [i % 2 for i in range(start, start + COUNT)], "caption": ["text"] * COUNT}
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(classes)}}
    notes = json.dumps({"info": {"features": features}})
    table = pa.table({**columns, **changed}).replace_schema_metadata({"huggingface": notes})
    parquet.write_table(table, path, row_group_size=group)
    return path


def test_hugging_faces_parquet_has_images_classes_and_fields(tmp_path, capsys):
    for number in range(2):
        parquet(tmp_path / "data" / f"train-0000{number}-of-00002.parquet", start=number * COUNT)
    parquet(tmp_path / "data" / "test-00000-of-00001.parquet")
    assert main(["convert", str(tmp_path), str(tmp_path / "x.beton")]) == 0, capsys.readouterr()
    dataset = Dataset(tmp_path / "x.beton")
    assert dataset.classes == ("cat", "dog") and dataset.fields == ("image", "label", "caption")
    assert dataset.labels.tolist() == [i % 2 for i in range(2 * COUNT)]
    assert dataset.widths.tolist() == list(range(20, 34)) and dataset.column("caption")[-1] == "text"
    assert len(any_source(tmp_path / "data", split="test")) == COUNT


def test_parquet_without_notes_is_told_by_its_names_and_types(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet as writer

    path = tmp_path / "x.parquet"
    writer.write_table(
        pa.table({"img": [encoded(i) for i in range(COUNT)], "y": [0.5 * i for i in range(COUNT)]}), path
    )
    source = parquet_source(path)
    assert [source.load(i).size for i in (6, 0)] == [(26, 16), (20, 16)] and source.labels == []
    assert source.columns[0].field.kind == "float"


def test_parquet_without_images_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="no column of images' bytes; it has image, label, caption"):
        parquet_source(parquet(tmp_path / "x.parquet", image=list(range(COUNT))))
    with pytest.raises(DatasetError, match="has no .parquet that begins with 'val'; it has train-0.parquet"):
        parquet(tmp_path / "data" / "train-0.parquet")
        parquet_source(tmp_path / "data", split="val")
    named = parquet(
        tmp_path / "y.parquet",
        image=[{"bytes": None, "path": "elsewhere.png"}] * (COUNT - 1) + [{"bytes": b"", "path": ""}],
    )
    with pytest.raises(DatasetError, match="row 0 of y.parquet .* names a file elsewhere"):
        convert(parquet_source(named), tmp_path / "y.beton")


def test_a_file_that_is_converted_again_keeps_its_fields(tmp_path):
    first = tmp_path / "x.beton"
    convert(shard_source(shard(tmp_path / "x.tar", members())), first)
    convert(any_source(first), tmp_path / "y.beton")
    before, after = Dataset(first), Dataset(tmp_path / "y.beton")
    assert before.fields == after.fields and before.labels.tolist() == after.labels.tolist()
    for name in before.fields[2:]:
        pairs = zip(before.column(name), after.column(name), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs)


def test_parquet_may_lie_in_folders_of_configurations_and_splits(tmp_path):
    (tmp_path / "default").mkdir()
    for split in ("train", "test"):
        parquet(tmp_path / "default" / split / "0000.parquet")
    assert len(any_source(tmp_path)) == len(any_source(tmp_path, split="test")) == COUNT
    with pytest.raises(DatasetError, match="no .parquet that begins with 'val'"):
        any_source(tmp_path, split="val")
