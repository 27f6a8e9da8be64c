"""A run that was killed in mid-epoch goes on as if nothing had happened: views, boxes, other images, mixtures."""

import numpy as np
import pytest
from conftest import damage
from killed import train
from PIL import Image

from budgetloader import jpeg_tables
from budgetloader.convert.converting import Settings, convert
from budgetloader.convert.sources import Filled, Source, image_folder
from budgetloader.fields import Field, Picture

_TRAINING = """
import contextlib, hashlib, json, os, signal, sys
import numpy as np, torch
from torchvision.transforms import v2
from budgetloader import BudgetLoader, Mixture, Schedule
from budgetloader.pictures import Image
from budgetloader.spatial import Detection

path, other, broken, save, kill_at = *sys.argv[1:5], int(sys.argv[5])
jitter, both, mixed = v2.ColorJitter(0.4, 0.4), ("boxes", "depth"), Mixture({path: "0.7", other: "0.3"})
kinds = {
    "views": (path, {"views": 3, "transform": jitter}),
    "views with boxes": (path, {"views": 2, "targets": {"found": Detection("boxes"), "depth": "depth"}}),
    "boxes": (path, {"targets": both}), "mixture": (mixed, {"targets": both, "views": 2}),
    "grey": (path, {"channels": 1, "targets": Image("depth", filter="nearest")}),
    "alpha": (path, {"channels": 4}), "replaced": (broken, {"targets": both, "on_corrupt": "replace", "views": 2}),
}
options = {"schedule": Schedule.of([1, "0.5"]), "batch_size": 8, "image_size": 16, "workers": 1, "with_ids": True}
options |= {"engine": "native", "dtype": "uint8"}

def flat(value):
    if isinstance(value, torch.Tensor):
        return value.contiguous().numpy().tobytes()
    if isinstance(value, dict):
        value = list(value.values())
    return b"".join(map(flat, value))

def show(batch):
    return hashlib.sha256(flat(batch)).hexdigest()
"""


class Depths:
    """Grey images of another size."""

    def __len__(self):
        return 70

    def __getitem__(self, i):
        ramp = np.add.outer(np.arange(30), np.arange(40) + i).astype(np.uint8)
        return Picture(jpeg_tables.encode(Image.fromarray(ramp), quality=95, subsampling="4:4:4"), 40, 30)


@pytest.fixture(scope="module")
def paths(folder, tmp_path_factory):
    """Two files of images with alpha, boxes and another image, and a damaged copy of the first."""
    root, source = tmp_path_factory.mktemp("killed"), image_folder(folder)
    boxes = [[[i, i, 60 + i, 90], [10, 20, 30, 40]][: i % 3] for i in range(70)]
    columns = (
        Filled(Field("boxes", "list", "<f4", (4,), "boxes"), boxes),
        Filled(Field("depth", "image", notes={"channels": 1}), Depths()),
    )
    for name, turned in (("a", False), ("b", True)):
        load = lambda i, turned=turned: source.load(i).rotate(180 * turned)  # noqa: E731
        made = Source(source.names, source.labels, source.classes, load, columns=columns)
        convert(made, root / f"{name}.beton", settings=Settings(alpha="keep"))
    damage(root / "a.beton", root / "broken.beton", samples=tuple(range(0, 70, 9)))
    return [root / name for name in ("a.beton", "b.beton", "broken.beton")]


@pytest.mark.long
def test_what_is_killed_goes_on_with_the_batches_of_the_run_that_was_not(paths, tmp_path):
    whole = train(_TRAINING, *paths, save=tmp_path / "whole", kill_at=-1)
    parts = [
        step for kill_at in (3, 2, -1) for step in train(_TRAINING, *paths, save=tmp_path / "killed", kill_at=kill_at)
    ]
    assert len(whole[0]) == 7 and len(whole) > 8
    for kind in whole[0]:
        hashes = [step[kind] for step in whole if kind in step]
        assert len(set(hashes)) == len(hashes)
        assert [step[kind] for step in parts if kind in step] == hashes
