"""Folders of Mosaic's MDS shards and of LitData's chunks are converted; what a stranger's index may say is refused."""

import io
import json
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

from budgetloader import Dataset, DatasetError
from budgetloader.cli import main
from budgetloader.convert.other_sources import any_source
from budgetloader.convert.streamed import streamed_source
from budgetloader.engines.rendering import Decoder

COUNT = 9


def picture(i):
    return Image.fromarray(np.full((30, 40, 3), (20 * i, 90, 250 - 20 * i), np.uint8))


def encoded(i, kind="JPEG"):
    buffer = io.BytesIO()
    picture(i).save(buffer, kind)
    return buffer.getvalue()


def check(path, capsys, tmp_path):
    """Convert it: its images, labels and columns."""
    assert main(["convert", str(path), str(tmp_path / "x.beton")]) == 0, capsys.readouterr()
    dataset = Dataset(tmp_path / "x.beton")
    assert dataset.labels.tolist() == [i % 3 for i in range(COUNT)]
    assert dataset.column("score")[:].tolist() == [i / 2 for i in range(COUNT)]
    for i in range(COUNT):
        found = Decoder(dataset).decode_whole(i)
        assert found.shape == (30, 40, 3) and np.abs(found - np.asarray(picture(i)).astype(int)).max() <= 4
    return dataset


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jpeg", "png", "pil", "bytes"])
def test_mosaics_shards_are_converted(tmp_path, capsys, kind):
    streaming = pytest.importorskip("streaming")
    columns = {"image": kind, "label": "int", "score": "float64", "caption": "str", "vector": "ndarray:float32:3"}
    with streaming.MDSWriter(out=str(tmp_path / "mds" / "train"), columns=columns, size_limit=20_000) as writer:
        for i in range(COUNT):
            data = encoded(i, "JPEG" if kind in ("jpeg", "bytes") else "PNG")
            image = {"bytes": data, "pil": picture(i)}.get(kind) or Image.open(io.BytesIO(data))
            others = {"caption": f"number {i}", "vector": np.full(3, i, np.float32)}
            writer.write({"image": image, "label": i % 3, "score": i / 2, **others})
    dataset = check(tmp_path / "mds", capsys, tmp_path)  # split "train"
    assert dataset.column("caption")[4] == "number 4" and dataset.column("vector")[4].tolist() == [4, 4, 4]


_OPTIMIZE = """
import io, sys
import litdata, numpy as np
from PIL import Image

def sample(i):
    buffer = io.BytesIO()
    Image.fromarray(np.full((30, 40, 3), (20 * i, 90, 250 - 20 * i), np.uint8)).save(buffer, "JPEG")
    buffer.seek(0)
    found = {"image": Image.open(buffer), "label": i % 3, "score": i / 2, "vector": np.full(3, i, np.float32)}
    return found if sys.argv[2] == "dict" else (Image.open(buffer), i % 3)

if __name__ == "__main__":
    litdata.optimize(fn=sample, inputs=list(range(9)), output_dir=sys.argv[1], num_workers=1, chunk_bytes="20KB")
"""


@pytest.mark.slow
def test_litdatas_chunks_are_converted(tmp_path, capsys):
    pytest.importorskip("litdata")
    (tmp_path / "optimize.py").write_text(_OPTIMIZE)
    for kind in ("dict", "pair"):
        command = [sys.executable, str(tmp_path / "optimize.py"), str(tmp_path / kind), kind]
        subprocess.run(command, check=True, capture_output=True, timeout=280)
    dataset = check(tmp_path / "dict", capsys, tmp_path)
    assert dataset.column("vector")[4].tolist() == [4, 4, 4]
    source = any_source(tmp_path / "pair")
    assert source.labels == [i % 3 for i in range(COUNT)] and source.columns == ()


class Items:
    """What a library's dataset gives."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        if isinstance(self.items[i], Exception):
            raise self.items[i]
        return self.items[i]


def index(folder, *, name="a.mds", kinds=("jpeg", "int"), compression=None, **more):
    folder.mkdir(parents=True, exist_ok=True)
    names = ["image", "label"][: len(kinds)]
    raw = {"basename": name, "bytes": 1, "hashes": {}}
    shard = {"format": "mds", "column_names": names, "column_encodings": list(kinds), "raw_data": raw, **more}
    (folder / "index.json").write_text(json.dumps({"shards": [{**shard, "compression": compression}], "version": 2}))
    return folder


def chunks(folder, *, name="chunk-0-0.bin", kinds=("jpeg", "int")):
    folder.mkdir(parents=True, exist_ok=True)
    said = {"chunks": [{"filename": name}], "config": {"data_format": list(kinds)}}
    (folder / "index.json").write_text(json.dumps(said))
    return folder


def given(monkeypatch, *items):
    """Have the libraries give these items."""
    for name, attribute in (("streaming", "LocalDataset"), ("litdata", "StreamingDataset")):
        module = types.ModuleType(name)
        setattr(module, attribute, lambda *_, **__: Items(items))
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.parametrize(
    "image",
    [
        lambda i: Image.open(io.BytesIO(encoded(i))),
        lambda i: memoryview(encoded(i)),
        lambda i: np.asarray(picture(i)),
        lambda i: torch.from_numpy(np.asarray(picture(i)).transpose(2, 0, 1).copy()),
    ],
)
def test_images_of_every_kind_that_a_library_gives(tmp_path, monkeypatch, capsys, image):
    given(monkeypatch, *({"image": image(i), "label": np.int64(i % 3), "score": i / 2} for i in range(COUNT)))
    check(chunks(tmp_path / "litdata"), capsys, tmp_path)


def test_pairs_have_a_label_and_other_items_columns(tmp_path, monkeypatch):
    given(monkeypatch, *((picture(i), i % 3) for i in range(COUNT)))
    assert streamed_source(chunks(tmp_path)).labels == [i % 3 for i in range(COUNT)]
    given(monkeypatch, *((i, picture(i), "word") for i in range(COUNT)))
    source = streamed_source(chunks(tmp_path))
    assert [one.field.name for one in source.columns] == ["column0", "column2"] and source.labels == []


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda to: index(to, kinds=("jpeg", "pkl")), "column 'label' is 'pkl', a pickle, which would run"),
        (lambda to: index(to, kinds=("list[jpeg]",)), "column 'image' is 'list.jpeg.', not read here"),
        (lambda to: index(to, name="../other/a.mds"), "names '../other/a.mds', which is no file beside it"),
        (lambda to: index(to, name=None), "names 'None'"),
        (lambda to: index(to, compression="zstd"), "compressed shards .zstd."),
        (lambda to: index(to, format="csv"), "shards that are no MDS"),
        (lambda to: index(to, column_names=3), "does not say which columns"),
        (lambda to: chunks(to, kinds=("jpeg", "pickle")), "column '1' is 'pickle', a pickle"),
        (lambda to: chunks(to, name="/etc/passwd"), "names '/etc/passwd'"),
        (lambda to: chunks(to, kinds="jpeg"), None),
    ],
)
def test_an_index_that_a_stranger_wrote_is_checked_before_the_library_sees_it(tmp_path, monkeypatch, make, why):
    given(monkeypatch, (picture(0), 1))
    folder = make(tmp_path / "x")
    if why is None:  # letters of a word are no kinds
        why = "is 'j', not read here"
    with pytest.raises(DatasetError, match=why):
        streamed_source(folder)


@pytest.mark.parametrize("content", ["", "[", "[" * 99999, "\x00", "{}", "[]", '{"shards": 3}'])
def test_an_index_that_is_none_is_no_crash(tmp_path, content):
    (tmp_path / "index.json").write_text(content)
    try:
        assert streamed_source(tmp_path) is None
    except DatasetError as error:
        assert "no index of shards that can be read" in str(error)


def test_what_an_item_may_not_be_names_its_sample(tmp_path, monkeypatch):
    for items, why in (
        ([], "has no samples"),
        ([ValueError("torn")], "sample 0 cannot be read .torn."),
        ([{"image": picture(0), "label": 1}, {"image": picture(1)}], "sample 1 has other columns"),
        ([{"label": 1}], "has no column of images; it has label"),
        ([{"image": picture(0)}], "says nothing of its images"),
    ):
        given(monkeypatch, *items)
        with pytest.raises(DatasetError, match=why):
            streamed_source(index(tmp_path))
    given(monkeypatch, {"image": np.zeros((3, 4), np.uint8), "label": 1}, {"image": picture(0), "label": 1})
    with pytest.raises(DatasetError, match="is uint8 .3, 4., and no image"):
        streamed_source(index(tmp_path)).load(0)


@pytest.mark.parametrize(("make", "module", "extra"), [(index, "streaming", "mosaic"), (chunks, "litdata", "litdata")])
def test_without_the_library_it_says_what_to_install(tmp_path, monkeypatch, make, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DatasetError, match=rf"package '{module}'.*pip install 'budgetloader\[{extra}\]'"):
        streamed_source(make(tmp_path))
