import os

import numpy as np
import pytest

from budgetloader import DatasetError
from budgetloader.convert.sources import image_folder
from budgetloader.generate import generate, photographs, render


def test_the_images_are_like_imagenets(folder):
    source = image_folder(folder)
    sizes = np.array([source.load(i).size for i in range(len(source))])
    kilobytes = np.array([os.path.getsize(folder / name) for name in source.names]) / 1000
    assert (kilobytes > 60).all() and (kilobytes < 110).all()
    assert sizes.max(axis=1).min() >= 470 and sizes.max() <= 510
    assert sizes.min() >= 353 and len(source.classes) == 14
    assert np.bincount(source.labels).tolist() == [5] * 14


def test_an_image_depends_on_seed_and_number_alone(folder):
    source = image_folder(folder)
    name = next(n for n in source.names if n.endswith("0000016.jpg"))
    photos = photographs()
    assert render(photos, label=16 % len(photos), seed=7, number=16) == (folder / name).read_bytes()
    assert render(photos, label=16 % len(photos), seed=8, number=16) != (folder / name).read_bytes()


def test_what_exists_is_kept(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(DatasetError, match="not empty"):
        generate(tmp_path, images=2)
    assert os.listdir(tmp_path) == ["mine.txt"]
    with pytest.raises(DatasetError, match="at least 1"):
        generate(tmp_path / "new", images=0)


def test_an_interruption_leaves_no_folder(tmp_path):
    def stop(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "new", images=5, progress=stop)
    assert os.listdir(tmp_path) == []
