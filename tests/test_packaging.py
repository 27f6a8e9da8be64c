"""What an installed wheel brings: one import name, and commands that run from any folder."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT
from traps import trap

TRAPS = ("loader", "models", "bench", "json", "numpy", "typing", "argparse")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The folder of a wheel and a source distribution, built from the tracked files."""
    if not (ROOT / "src").is_dir():
        pytest.skip("this is no checkout")
    pytest.importorskip("build")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    subprocess.run(
        f"git -C {ROOT} ls-files -z | tar -C {ROOT} --null -T - -c | tar -x -C {source}", shell=True, check=True
    )
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    subprocess.run(command, check=True, capture_output=True, timeout=200)
    return out


def test_a_wheel_has_one_import_name_and_all_of_the_package(built):
    (wheel,) = built.glob("*.whl")
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert {name.split("/")[0] for name in names} == {"budgetloader"}
    ours = ("py.typed", "commands/train.py", "engines/native.py", "service/server.py", "models/crnet.py")
    for part in (*ours, "bench/imagenet_mnv2.py"):
        assert f"budgetloader/{part}" in names


def test_a_source_distribution_holds_files_and_no_links(built):
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        members = archive.getmembers()
    assert all(member.isfile() or member.isdir() for member in members)
    names = {member.name.partition("/")[2] for member in members}
    assert {"LICENSE", "README.md", "src/budgetloader/models/resnet.py", "src/budgetloader/py.typed"} <= names


def test_twine_finds_nothing_wrong(built):
    pytest.importorskip("twine")
    files = [str(path) for path in built.iterdir()]
    done = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "command",
    [
        ("-m", "budgetloader", "plan", "R3", "--epochs", "12", "--samples", "5000", "--batch-size", "10"),
        (str(Path(sys.executable).with_name("budgetloader")), "plan", "R3", "--epochs", "12", "--samples", "5000"),
        ("-m", "budgetloader.bench.train", "--help"),
        ("-m", "budgetloader", "train", "--help"),
        ("-m", "budgetloader.bench.imagenet_mnv2", "--help"),
    ],
    ids=["module", "script", "alias", "train", "bench"],
)
def test_commands_run_where_modules_of_the_same_names_lie(tmp_path, command):
    trap(tmp_path, *TRAPS)
    done = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize(
    "command",
    [
        (str(Path(sys.executable).with_name("budgetloader")), "train"),
        (sys.executable, "-m", "budgetloader", "train"),
        (sys.executable, "-m", "budgetloader.bench.train"),
    ],
    ids=["script", "module", "alias"],
)
def test_a_network_that_lies_there_is_found_and_a_module_of_pythons_name_is_not_run(beton, tmp_path, command):
    trap(tmp_path, "json", "csv", "loader", "bench")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine.py").write_text("import csv\ndef build(classes): raise SystemExit('mine was asked')")
    more = ["--data", str(beton), "--network", "models.mine:build", "--batch-size", "35", "--image-size", "16"]
    done = subprocess.run([*command, *more], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert "mine was asked" in done.stderr and not (tmp_path / "was_run").exists()
