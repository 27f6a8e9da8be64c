"""Modules of the package in processes of their own, whatever lies in the working directory."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT
from traps import trap

from budgetloader import apart


def run(code, cwd, **environment):
    return subprocess.run(code, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_a_module_in_the_working_directory_is_not_run(tmp_path):
    trap(tmp_path, "loader", "budgetloader", "json", "numpy", "runpy", "socket")
    command = apart.command("budgetloader.throughput", json.dumps({"file": "none", "engine": "native", "work": {}}))
    done = run(command, tmp_path)
    assert not (tmp_path / "was_run").exists()
    assert "none does not exist" in done.stderr


def test_nor_is_one_beside_the_script(tmp_path):
    """The script itself may import it, and its helpers must not."""
    (tmp_path / "budgetloader").symlink_to(ROOT / "loader")
    script = tmp_path / "script.py"
    script.write_text(
        "import subprocess\nfrom budgetloader import apart\n"
        "print(subprocess.run(apart.command('this'), capture_output=True, text=True).stdout)\n"
    )
    trap(tmp_path, "this")
    assert "beautiful is better" in run([sys.executable, str(script)], tmp_path, PYTHONPATH="").stdout.lower()


def test_the_packages_are_those_of_the_process_that_asks(tmp_path):
    (tmp_path / "theirs.py").write_text("print('theirs')")
    code = "import subprocess; from budgetloader import apart; subprocess.run(apart.command('theirs'))"
    done = run([sys.executable, "-c", code], "/", PYTHONPATH=f"{ROOT / 'src'}{os.pathsep}{tmp_path}")
    assert done.stdout == "theirs\n", done.stderr


def test_a_checkout_that_is_installed_does_not_stand_before_the_one_in_use(tmp_path):
    """An editable install puts its folder on every interpreter's path, before what the process that asks was told."""
    (tmp_path / "budgetloader").symlink_to(ROOT / "loader")
    show = "import budgetloader; print(budgetloader.__file__)"
    (tmp_path / "shown.py").write_text(show)
    code = "import subprocess; from budgetloader import apart; subprocess.run(apart.command('shown'))"
    done = run([sys.executable, "-c", code], "/", PYTHONPATH=str(tmp_path))
    assert done.stdout == f"{tmp_path / 'budgetloader' / '__init__.py'}\n", done.stderr
