"""Every stored byte of a sample has a checksum: its image's, its other images', its values'."""

import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from budgetloader import BudgetLoader, CorruptSampleError, Dataset, DatasetError, Schedule, beton, checksums
from budgetloader.fields import Field, Picture
from budgetloader.service.connection import Index
from budgetloader.targets import _Source
from budgetloader.verify import problems

FIELDS = (
    Field("score", "float"),
    Field("vector", "array", "<f4", (3,)),
    Field("grid", "tensor", "<i2", (2, 2)),
    Field("meta", "json"),
    Field("raw", "bytes"),
    Field("caption", "text"),
    Field("boxes", "list", "<f4", (4,)),
    Field("depth", "image", notes={"channels": 1}),
)
STORED = [field.name for field in FIELDS if not field.scalar]
COUNT, BAD = 12, 7


def jpeg(seed, mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "JPEG")
    return buffer.getvalue()


def values(i):
    return {
        "score": i / 4,
        "vector": [i, 0.5, 100 - i],
        "grid": np.full((2, 2), 300 + i),
        "meta": {"number": 1000 + i},
        "raw": bytes([200 + i]) * 20,
        "caption": f"picture {i}",
        "boxes": 100 * i + np.arange(4.0 * (i % 3 + 1)).reshape(-1, 4),
        "depth": Picture(jpeg(1000 + i, "L"), 32, 24, False),
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("checksums") / "whole.beton"
    with beton.Writer(path, capacity=COUNT + 5, notes={"classes": ["a"]}, fields=FIELDS) as writer:
        for i in range(COUNT):
            writer.add(jpeg(i), width=32, height=24, label=0, values=values(i))
    return path


def stored(path, name, sample):
    """Where a byte of a value stands in the file of which another bit is another value of the same kind."""
    encoded = {field.name: field for field in FIELDS}[name].encode(values(sample)[name])
    data = encoded.data if isinstance(encoded, Picture) else bytes(encoded)
    content = path.read_bytes()
    assert content.count(data) == 1
    return content.index(data) + (data.index(str(BAD).encode()) if name == "meta" else len(data) // 2)


def damaged(whole, path, name):
    """A copy of the file with another bit in one value, which still decodes."""
    shutil.copy(whole, path)
    content = bytearray(path.read_bytes())
    content[stored(whole, name, BAD)] ^= 1
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("mapped", [True, False])
def test_a_file_as_written_passes(whole, mapped):
    dataset = Dataset(whole, verify=True, mapped=mapped)
    assert set(dataset.value_checksums) == set(STORED)
    assert not any(problems(Dataset(whole)))
    for name in STORED:
        assert len(dataset.column(name)[:]) == COUNT
    assert dataset.image("depth").verifies and len(dataset.image("depth").jpeg(BAD))


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("name", STORED)
def test_a_value_with_another_bit_is_found(whole, tmp_path, name, mapped):
    path = damaged(whole, tmp_path / "x.beton", name)
    told = {sample: why for sample, why in enumerate(problems(Dataset(path))) if why}
    assert list(told) == [BAD] and repr(name) in told[BAD] and "the checksum differs" in told[BAD]
    dataset = Dataset(path, verify=True, mapped=mapped)
    column = dataset.column(name)
    assert len(column[np.arange(BAD)]) == BAD
    with pytest.raises(CorruptSampleError, match="the checksum differs") as caught:
        column[np.arange(COUNT)]
    assert caught.value.sample == BAD
    without = Dataset(path, mapped=mapped).column(name)
    assert len(without[np.arange(COUNT)]) == COUNT, "the damage is such that no decoder notices it"


def test_a_training_that_verifies_gets_no_damaged_target(whole, tmp_path):
    path = damaged(whole, tmp_path / "x.beton", "vector")
    options = {"schedule": Schedule.full(epochs=1), "batch_size": 4, "image_size": 16, "crop": "resized", "seed": 1}
    seen = 0
    with (
        BudgetLoader(path, targets=["vector"], verify=True, **options) as batches,
        pytest.raises(CorruptSampleError, match=f"sample {BAD}"),
    ):
        for _ in batches:
            seen += 1
    assert seen < 3
    with BudgetLoader(path, targets=["vector"], **options) as batches:
        assert len(list(batches)) == 3


def test_a_file_with_checksums_of_the_first_images_alone_opens(whole, tmp_path):
    path = tmp_path / "old.beton"
    shutil.copy(whole, path)
    content = path.read_bytes()
    notes = Dataset(path).notes
    older = {**notes, "checksums": {k: v for k, v in notes["checksums"].items() if k != "fields"}}
    before, after = json.dumps(notes).encode(), json.dumps(older).encode()
    assert content.count(before) == 1
    path.write_bytes(content.replace(before, after.ljust(len(before))))
    dataset = Dataset(path, verify=True)
    assert not dataset.value_checksums and dataset.verifies and not dataset.image("depth").verifies
    assert len(dataset.column("vector")[:]) == COUNT and not any(problems(dataset))


@pytest.mark.parametrize(
    "where",
    [
        {"names": "vector", "start": 0, "crc32": 0},
        {"names": [1], "start": 0, "crc32": 0},
        {"names": ["x"] * 65, "start": 0, "crc32": 0},
        {"names": ["x"], "start": -1, "crc32": 0},
        {"names": ["x"], "start": 0, "crc32": 1},
        {"names": ["x"], "start": 0},
        ["x"],
        7,
    ],
)
def test_checksums_that_we_do_not_write_are_refused(where):
    notes = {"checksums": {"algorithm": "crc32", "start": 0, "crc32": 0, "fields": where}}
    with pytest.raises(DatasetError, match="convert it again"):
        checksums.of_values(notes, 2, lambda start, stop: bytes(stop - start))


def test_a_trainer_of_a_service_that_verifies_compares_the_fields_that_it_reads_here(whole, tmp_path):
    path = damaged(whole, tmp_path / "x.beton", "vector")
    dataset = Dataset(path)
    known = {name: getattr(dataset, name) for name in ("fingerprint", "classes", "heights", "widths", "labels")}
    for verifies in (True, False):
        served = Index(path=str(path), **known, capacity_bytes=1, verifies=verifies)
        column = _Source(served).column("vector")
        if verifies:
            with pytest.raises(CorruptSampleError, match="the checksum differs"):
                column[np.arange(COUNT)]
        else:
            assert len(column[np.arange(COUNT)]) == COUNT
