import json
import subprocess
import sys

import pytest
from conftest import ROOT

from budgetloader import runs


def test_two_runs_with_one_folder_do_not_meet(tmp_path):
    with runs.held(tmp_path / "out"):
        with pytest.raises(runs.RunError, match="another run is writing to"), runs.held(tmp_path / "out"):
            pass
        code = "import pathlib, sys; from budgetloader import runs; runs.held(pathlib.Path(sys.argv[1])).__enter__()"
        command = [sys.executable, "-c", code, str(tmp_path / "out")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert "another run is writing to" in done.stderr
    with runs.held(tmp_path / "out"):
        pass


def test_what_no_run_wrote_stays(tmp_path):
    mine, theirs, outside = tmp_path / "out" / "state" / "a.pt", tmp_path / "out" / "b.pt", tmp_path / "c.pt"
    mine.parent.mkdir(parents=True)
    for path in (mine, theirs, outside):
        path.write_text("weights")
    (tmp_path / "out" / "link").symlink_to(tmp_path)
    runs.note(tmp_path / "out", mine)
    with pytest.raises(ValueError, match="c.pt"):
        runs.note(tmp_path / "out", outside)
    noted = json.loads((tmp_path / "out" / ".run.json").read_text())
    bad = ["../c.pt", "link/c.pt", str(outside), "state", 5, "\0", "missing"]
    (tmp_path / "out" / ".run.json").write_text(json.dumps([*noted, *bad]))
    assert runs.clear(tmp_path / "out") == [mine]
    assert theirs.exists() and outside.exists() and mine.parent.is_dir()
    assert runs.clear(tmp_path / "out") == []


@pytest.mark.parametrize("text", ["", "{}", "[" * 9999, "null"])
def test_notes_that_are_none_remove_nothing(tmp_path, text):
    (tmp_path / ".run.json").write_text(text)
    assert runs.clear(tmp_path) == []
