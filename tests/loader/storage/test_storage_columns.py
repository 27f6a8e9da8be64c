"""Fields of a file in object storage: read where they stand among the images, whatever the mirror holds there."""

import numpy as np
import pytest

from budgetloader import BudgetLoader, Dataset, Schedule, beton
from budgetloader.fields import Field
from budgetloader.storage.dataset import RemoteDataset

FIELDS = (Field("score", "float"), Field("vector", "array", "<f4", (3,)), Field("boxes", "list", "<f4", (4,)))


@pytest.fixture
def with_fields(request, tmp_path):
    """The first 24 images of `beton` with other fields behind each."""
    local = Dataset(request.getfixturevalue("beton"))
    path = tmp_path / "fields.beton"
    with beton_writer(path) as writer:
        for i in range(24):
            values = {"score": i / 4, "vector": [i, 0.5, -i], "boxes": np.arange(4.0 * (i % 3)).reshape(-1, 4)}
            side = {"height": int(local.heights[i]), "width": int(local.widths[i])}
            writer.add(local.jpeg(i).tobytes(), **side, label=int(local.labels[i]), values=values)
    return path


def beton_writer(path):
    return beton.Writer(path, capacity=24, notes={}, fields=FIELDS)


@pytest.mark.slow
@pytest.mark.parametrize("cached", [False, True])
def test_fields_are_those_of_the_local_file_also_where_neighbours_are_dropped(web, with_fields, tmp_path, cached):
    web.files["fields.beton"] = with_fields.read_bytes()
    cache = {"cache": tmp_path / "cache", "cache_bytes": 1 << 20} if cached else {}
    far, local = RemoteDataset(f"{web.url}/fields.beton", **cache), Dataset(with_fields)
    for i in range(24):  # samples come and go around them
        assert np.array_equal(far.jpeg(i), local.jpeg(i))
        for name in ("score", "vector", "boxes"):
            assert np.array_equal(far.column(name)[i], local.column(name)[i])
    assert np.array_equal(far.column("vector")[:], local.column("vector")[:])


@pytest.mark.slow
def test_targets_of_a_loader_are_those_of_the_local_file(web, with_fields):
    web.files["fields.beton"] = with_fields.read_bytes()
    shape = {"schedule": Schedule.full(epochs=2), "batch_size": 8, "image_size": 16, "targets": ("label", "vector")}
    found = []
    for data in (with_fields, f"{web.url}/fields.beton"):
        with BudgetLoader(data, **shape) as batches:
            found.append([(labels, vectors) for _ in batches.epochs() for _, (labels, vectors) in batches])
    for (labels, vectors), (far_labels, far_vectors) in zip(*found, strict=True):
        assert (labels == far_labels).all() and (vectors == far_vectors).all()
