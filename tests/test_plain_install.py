"""What `pip install budgetloader` alone can do: its commands find no package that only an extra asks for."""

import subprocess
import sys
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_RUN = """
import importlib.machinery, sys
refused = set(sys.argv[1].split(","))
class Installed:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] not in refused:
            return importlib.machinery.PathFinder.find_spec(name, path, target)
sys.meta_path = [Installed if one is importlib.machinery.PathFinder else one for one in sys.meta_path]
from budgetloader.cli import main
sys.exit(main(sys.argv[2:]))
"""


def required(name: str) -> set[str]:
    """The distributions that come with one, itself among them."""
    found, left = set(), [canonicalize_name(name)]
    while left:
        one = left.pop()
        if one in found:
            continue
        found.add(one)
        try:
            needs = [Requirement(text) for text in metadata.requires(one) or ()]
        except metadata.PackageNotFoundError:  # for another platform
            continue
        left += [canonicalize_name(n.name) for n in needs if n.marker is None or n.marker.evaluate({"extra": ""})]
    return found


@pytest.fixture(scope="module")
def refused() -> str:
    """The modules of every distribution that a plain install does not bring."""
    plain = required("budgetloader")
    assert "torch" in plain and "ray" not in plain
    owners = metadata.packages_distributions().items()
    found = {module for module, names in owners if not {canonicalize_name(name) for name in names} & plain}
    assert {"ray", "msgspec", "cv2", "pytest"} <= found
    return ",".join(found)


def run(refused, *command, cwd):
    return subprocess.run(
        [sys.executable, "-c", _RUN, refused, *map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=250
    )


TRAIN = "train --data x.beton --network resnet20 --recipe cifar --schedule of:1,0.5 --epochs 2 --image-size 32"


@pytest.mark.slow
@pytest.mark.parametrize(
    "commands",
    [
        [
            "convert {folder} x.beton",
            "verify x.beton",
            "inspect x.beton",
            "plan x.beton 0.618@3 --batch-size 8",
            f"{TRAIN} --batch-size 8",
        ],
        pytest.param(["doctor --image-size 64 --epochs 1"], marks=pytest.mark.long),
    ],
    ids=["a set and a training", "doctor"],
)
def test_the_commands_of_a_plain_install_need_no_extra(refused, folder, tmp_path, commands):
    for command in commands:
        done = run(refused, *command.format(folder=folder).split(), cwd=tmp_path)
        assert done.returncode == 0, (command, done.stdout[-1000:], done.stderr[-3000:])


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("serve {beton} --name x", "service"),
        ("inspect s3://bucket/train.beton", "storage"),
        ("convert {folder} s3://bucket/train.beton", "storage"),
    ],
)
def test_what_an_extra_brings_is_named_at_once_where_it_is_not_installed(
    refused, beton, folder, tmp_path, command, extra
):
    done = run(refused, *command.format(beton=beton, folder=folder).split(), cwd=tmp_path)
    assert done.returncode == 1 and f"pip install 'budgetloader[{extra}]'" in done.stderr
    assert "tried" not in done.stderr
