"""The fonts of the set of rendered characters: free ones, as Debian's packages ship them, no family in two parts."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from rich.console import Console

from budgetloader import DatasetError

CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Relatives (Hack comes from DejaVu, Liberation looks like Nimbus Sans of urw-base35) are in the same part.
PACKAGES = {
    "train": (
        *("fonts-urw-base35", "fonts-liberation2", "fonts-lato", "fonts-open-sans", "fonts-cantarell"),
        *("fonts-linuxlibertine", "fonts-crosextra-caladea", "fonts-inconsolata", "fonts-comfortaa", "fonts-quicksand"),
        *("fonts-ebgaramond", "fonts-dosis", "fonts-play", "fonts-vollkorn", "fonts-breip", "fonts-goudybookletter"),
        *("fonts-sil-charis", "fonts-courier-prime", "fonts-averia-sans-gwf", "fonts-lobster"),
    ),
    "tuning": (
        *("fonts-jura", "fonts-cabin", "fonts-oldstandard", "fonts-prociono", "fonts-mononoki", "fonts-tomsontalks"),
        "fonts-sil-andika",
    ),
    "test": (
        *("fonts-dejavu-core", "fonts-dejavu-extra", "fonts-hack", "fonts-roboto-unhinted", "fonts-yanone-kaffeesatz"),
        *("fonts-rufscript", "fonts-humor-sans", "fonts-isabella", "fonts-cmu"),
    ),
}
_SUFFIXES = (".ttf", ".otf")


def families(part: str, data: Path | None, *, console: Console) -> list[list[Path]]:
    """The fonts of a part, family by family; a family is a package, or a font's file in `data`.

    Args:
        part: "train", "tuning" or "test".
        data: a folder with a folder of fonts for each part; None: the packages, installed where they can be.

    Raises:
        DatasetError: there are no fonts.
    """
    if data is not None:
        found = [[path] for path in sorted((data / part).rglob("*")) if path.suffix.lower() in _SUFFIXES]
    else:
        if any(not _files(package) for package in PACKAGES[part]):
            _install(PACKAGES[part], console)
        found = [fonts for package in PACKAGES[part] if (fonts := _files(package))]
        if len(found) < len(PACKAGES[part]):
            raise DatasetError(
                f"fonts are missing: apt-get install {' '.join(PACKAGES[part])} (Debian), or give --data a folder with "
                "folders of fonts in it, train/, tuning/ and test/"
            )
    usable = [fonts for family in found if (fonts := [font for font in family if _has_characters(font)])]
    if not usable:
        raise DatasetError(f"{data}: no fonts with the letters A to Z and digits are in its folder {part}/")
    return usable


def _files(package: str) -> list[Path]:
    """The fonts that a package has installed; [] if it is not."""
    if not shutil.which("dpkg-query"):
        return []
    listed = subprocess.run(["dpkg-query", "--listfiles", package], capture_output=True, text=True, check=False)
    names = listed.stdout.splitlines() if not listed.returncode else []
    return sorted(path for name in names if (path := Path(name)).suffix.lower() in _SUFFIXES and path.is_file())


def _install(packages: tuple[str, ...], console: Console) -> None:
    if hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get"):
        console.print(f"install {len(packages)} Debian packages of fonts", soft_wrap=True)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
            subprocess.run(["apt-get", "-qq", *command], env=environment, check=False, capture_output=True)


def _has_characters(path: Path) -> bool:
    """Whether a font has a picture of its own for each of the characters."""
    from PIL import ImageFont

    try:
        font = ImageFont.truetype(str(path), 32)
        masks = [bytes(font.getmask(character)) for character in CHARACTERS]
        missing = bytes(font.getmask("\uffff"))
    except (OSError, ValueError):
        return False
    return all(masks) and missing not in masks and len(set(masks)) >= len(CHARACTERS) - 2  # O may be 0, and I be 1
