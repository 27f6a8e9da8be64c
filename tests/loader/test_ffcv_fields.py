"""Files of stock FFCV with every type of field are read, and stock FFCV reads ours: both in processes of their own."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from budgetloader import BudgetLoader, Dataset, Schedule, beton
from budgetloader.convert.sources import image_folder
from budgetloader.fields import Field

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ffcv") is None, reason="FFCV is not installed")

_WRITE = """
import sys
import numpy as np, torch
from PIL import Image
from ffcv.writer import DatasetWriter
from ffcv.fields import *
class Set:
    def __len__(self): return 9
    def __getitem__(self, i):
        i = int(i)
        return (np.full((24 + i, 40, 3), 20 * i, np.uint8), 3 * i, i / 2, np.float32([[i, 1], [2, 3]]),
                {"é": [i, None]}, np.arange(i % 3 + 1, dtype=np.uint8), torch.full((3,), i, dtype=torch.int16), -i,
                np.full((24 + i, 40, 3), i, np.uint8))
fields = {"image": RGBImageField(write_mode="jpg"), "label": IntField(), "score": FloatField(),
          "vector": NDArrayField(np.dtype("float32"), (2, 2)), "meta": JSONField(), "raw": BytesField(),
          "tensor": TorchTensorField(torch.int16, (3,)), "index": IntField(), "second": RGBImageField(write_mode="jpg")}
DatasetWriter(sys.argv[1], fields, num_workers=1).from_indexed_dataset(Set())
"""
_READ = """
import sys
import numpy as np
from ffcv.loader import Loader, OrderOption
from ffcv.fields.json import JSONField
from ffcv.fields.bytes import BytesDecoder
from ffcv.fields.ndarray import NDArrayDecoder
from ffcv.fields.basics import IntDecoder, FloatDecoder
pipelines = {"image": None, "label": [IntDecoder()], "score": [FloatDecoder()], "count": [IntDecoder()],
             "vector": [NDArrayDecoder()], "grid": [NDArrayDecoder()], "meta": [BytesDecoder()],
             "raw": [BytesDecoder()], "caption": [BytesDecoder()], "boxes": [BytesDecoder()]}
loader = Loader(sys.argv[1], batch_size=9, num_workers=1, order=OrderOption.SEQUENTIAL, os_cache=False,
                pipelines=pipelines)
names = [name for name in pipelines if name != "image"]
for batch in loader:
    found = dict(zip(names, (part.copy() for part in batch)))
np.savez(sys.argv[2], **{**found, "meta_read": np.array([str(one) for one in JSONField.unpack(found["meta"])])})
"""
FIELDS = (
    Field("score", "float"),
    Field("count", "int"),
    Field("vector", "array", "<f4", (2, 2)),
    Field("grid", "tensor", "<i2", (3,)),
    Field("meta", "json"),
    Field("raw", "bytes"),
    Field("caption", "text"),
    Field("boxes", "list", "<f4", (4,), "boxes"),
)


def run(script, *arguments):
    command = [sys.executable, "-W", "ignore", "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.long
def test_every_field_of_stock_ffcv_is_a_target(tmp_path):
    path = tmp_path / "x.beton"
    run(_WRITE, path)
    dataset = Dataset(path)
    assert dataset.image_field == "image" and dataset.label_field == "label"
    names = ("score", "vector", "meta", "raw", "tensor", "index")
    options = {"schedule": Schedule.full(epochs=1), "batch_size": 4, "image_size": 16, "with_ids": True, "workers": 1}
    seen = []
    with BudgetLoader(dataset, targets=("label", *names), **options) as batches:
        for _, (labels, score, vector, meta, raw, tensor, index), ids in batches:
            for row, i in enumerate(ids.tolist()):
                seen.append(i)
                assert (labels[row], score[row], index[row]) == (3 * i, i / 2, -i)
                assert vector[row].tolist() == [[i, 1], [2, 3]] and tensor[row].tolist() == [i] * 3
                assert meta[row] == {"é": [i, None]} and raw[row] == bytes(range(i % 3 + 1))
    assert sorted(seen) == list(range(9))
    assert Dataset(path, image_field="second").image_field == "second"


@pytest.mark.slow
def test_stock_ffcv_reads_every_field_of_ours(folder, tmp_path):
    source, path = image_folder(folder), tmp_path / "ours.beton"
    with beton.Writer(path, capacity=9, notes={"classes": []}, fields=FIELDS) as writer:
        for i in range(9):
            image = source.load(i)
            some = {"vector": np.full((2, 2), i), "grid": [i, 1, 2], "meta": {"a": i}, "boxes": np.ones((i % 3, 4)) * i}
            values = {"score": i / 2, "count": -i, "raw": bytes(range(i)), "caption": "ü" * i, **some}
            writer.add(source.read(i), width=image.width, height=image.height, label=i, values=values)
    run(_READ, path, tmp_path / "x.npz")
    read = np.load(tmp_path / "x.npz")
    assert read["label"].ravel().tolist() == list(range(9))
    assert read["score"].ravel().tolist() == [i / 2 for i in range(9)]
    assert read["count"].ravel().tolist() == [-i for i in range(9)]
    assert (read["vector"] == np.arange(9)[:, None, None]).all() and read["grid"][:, 0].tolist() == list(range(9))
    assert read["meta_read"].tolist() == [str({"a": i}) for i in range(9)]
    for i in range(9):
        assert read["raw"][i, :i].tolist() == list(range(i))
        assert read["caption"][i, : 2 * i].tobytes().decode() == "ü" * i
        boxes = read["boxes"][i, : 16 * (i % 3)].view("<f4").reshape(-1, 4)
        assert boxes.shape == (i % 3, 4) and (boxes == i).all()
