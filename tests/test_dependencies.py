"""What this project allows to be installed has no hole that is known to let a stranger in."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# The first versions without holes that this project's use of a package would reach.
LEAST = {
    "pillow": (12, 1, 1),  # decoders that write out of bounds, bombs
    "torch": (2, 10),  # torch.load with weights_only
    "ray": (2, 60),  # token authentication, and a folder per node
}


@pytest.mark.parametrize("package", LEAST)
def test_no_version_with_a_known_hole_is_allowed(package):
    text = (ROOT / "pyproject.toml").read_text()
    declared = re.findall(rf'"{package}>=([\d.]+)[",]', text)
    assert declared, f"{package} has no floor"
    for floor in declared:
        assert tuple(map(int, floor.split("."))) >= LEAST[package]
