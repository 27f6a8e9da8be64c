"""A bench's service; that it serves is in test_sweep.py."""

import os
import subprocess
import sys

import pytest

from budgetloader.bench import serving


def test_a_service_that_does_not_start_is_an_error_and_leaves_no_process(tmp_path):
    before = set(serving.below(os.getpid()))  # a service that other tests share
    with open(tmp_path / "log", "w+") as log, pytest.raises(RuntimeError, match="did not start"):
        serving.start(tmp_path / "none.beton", name="none", memory="100MB", log=log)
    assert "none.beton does not exist" in (tmp_path / "log").read_text()
    assert set(serving.below(os.getpid())) <= before


def test_every_process_below_one_is_found():
    code = "import subprocess, sys; p = subprocess.Popen(['cat']); print(p.pid, flush=True); p.wait()"
    before = set(serving.below(os.getpid()))
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            grandchild = int(process.stdout.readline())
            assert set(serving.below(os.getpid())) - before == {process.pid, grandchild}
        finally:
            process.stdin.close()
            process.wait(timeout=60)
