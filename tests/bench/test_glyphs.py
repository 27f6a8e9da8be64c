"""Rendered characters: fonts that no two parts share, and images that depend on their numbers alone."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from rich.console import Console

from budgetloader import DatasetError
from budgetloader.bench.study import fonts, glyphs

SHIPPED = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of fonts, two for each part, of those that matplotlib ships."""
    root = tmp_path_factory.mktemp("fonts")
    names = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSansMono", "STIXGeneral")
    for number, name in enumerate(names):
        part = root / tuple(glyphs.SIZES)[number // 2]
        part.mkdir(exist_ok=True)
        (part / f"{name}.ttf").symlink_to(SHIPPED / f"{name}.ttf")
    (root / "train" / "symbols.ttf").symlink_to(SHIPPED / "STIXSizOneSymReg.ttf")
    (root / "train" / "broken.ttf").write_bytes(b"no font")
    return root


def test_no_package_of_fonts_is_in_two_parts():
    packages = [package for part in fonts.PACKAGES.values() for package in part]
    assert len(packages) == len(set(packages)) == 36 and set(fonts.PACKAGES) == set(glyphs.SIZES)
    assert [len(fonts.PACKAGES[part]) for part in glyphs.SIZES] == [20, 7, 9]


def test_fonts_without_the_characters_are_left_out(folder):
    found = fonts.families("train", folder, console=QUIET)
    assert sorted(path.name for family in found for path in family) == ["DejaVuSans-Bold.ttf", "DejaVuSans.ttf"]
    with pytest.raises(DatasetError, match="no fonts with the letters"):
        fonts.families("train", folder / "none", console=QUIET)


def test_an_image_is_made_again_from_its_number(folder):
    families = {part: fonts.families(part, folder, console=QUIET) for part in glyphs.SIZES}
    once = [glyphs.image("train", number, families["train"]) for number in range(40)]
    again = [glyphs.image("train", number, families["train"]) for number in reversed(range(40))][::-1]
    assert np.array_equal(once, again) and once[0].shape == (28, 28) and once[0].dtype == np.uint8
    assert len({image.tobytes() for image in once}) == 40
    assert not np.array_equal(once[3], glyphs.image("test", 3, families["test"]))
    source = glyphs.source("tuning", families["tuning"], size=80)
    assert source.labels[:2] + source.labels[36:38] == [0, 1, 0, 1] and source.classes[35] == "Z"
    assert source.load(5).size == (28, 28) and len(source) == 80


def test_without_disturbance_a_character_can_be_told_from_others(folder):
    families = fonts.families("test", folder, console=QUIET)
    clean = np.stack([glyphs.image("test", number, families, noise=0) for number in range(36)]).astype(float)
    ink = np.abs(clean - np.median(clean, axis=(1, 2), keepdims=True)) > 20
    assert (ink.mean(axis=(1, 2)) > 0.02).all() and (ink.mean(axis=(1, 2)) < 0.6).all()
    assert len({row.tobytes() for row in ink}) == 36


def test_more_noise_disturbs_more(folder):
    families = fonts.families("train", folder, console=QUIET)

    def roughness(noise):
        images = [glyphs.image("train", n, families, noise=noise).astype(float) for n in range(60)]
        return np.mean([np.abs(np.diff(image, 2, axis=1)).mean() / image.std() for image in images])

    assert roughness(1.0) > roughness(0.3)
