"""The benches' packages are looked for before anything is trained or measured."""

import importlib
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

from budgetloader.bench import extra

BENCHES = {
    "cifar_resnet56": ["--quick"],
    "crnet": ["--quick"],
    "gpu": ["--device", "cpu"],
    "handover": [],
    "imagenet_mnv2": [],
    "kill_matrix": [],
    "soak": [],
    "sweep": [],
    "threads": [],
    "throughput": [],
    "upload": [],
    "verdict": [],
}


@pytest.mark.parametrize("bench", BENCHES)
def test_a_bench_without_its_packages_is_one_line_at_once(bench, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(extra.PACKAGES, "no_such_module", "matplotlib")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [bench, *BENCHES[bench]])
    assert importlib.import_module(f"budgetloader.bench.{bench}").main() == 1
    said = capsys.readouterr()
    assert said.err == "error: matplotlib: not installed, and benches need it; pip install 'budgetloader[bench]'\n"
    assert not said.out and os.listdir(tmp_path) == []


def test_what_is_looked_for_is_what_the_extra_installs():
    project = ROOT / "pyproject.toml"
    declared = re.search(r"^bench = \[(.*?)\]", project.read_text(), re.MULTILINE | re.DOTALL)
    assert declared and set(re.findall(r'"([\w-]+)', declared[1])) == set(extra.PACKAGES.values())
    extra.check()  # here they are installed


def test_training_and_the_benches_import_without_the_extra():
    code = f"import sys; sys.modules.update(dict.fromkeys({list(extra.PACKAGES)}))\n"  # importing them fails
    code += "import budgetloader.training, budgetloader.generate\n"
    code += "from budgetloader.bench.cifar_resnet56 import main\nsys.exit(main(['--quick']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: opencv-python-headless, matplotlib") and "budgetloader[bench]" in line
