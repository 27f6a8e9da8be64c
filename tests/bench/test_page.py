"""The pages that benches write, opened as a person would."""

import re
import shutil
import subprocess

import pytest

from budgetloader.bench import page, plot
from budgetloader.bench.grid import Grid
from budgetloader.bench.record import environment

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
GRID = Grid("a title & more", ("setting", "measured (95 %)"), [("R1_0.618", "0.6177 ± 0.0049")], "a note <b>")


@pytest.fixture
def written(tmp_path):
    figure = plot.bars(["native", "torch"], [2.0, 1.0], [0.1, 0.2], title="two bars", unit="images/s")
    path = tmp_path / "report.html"
    page.write(
        path,
        title="A bench",
        claim="What it is to show.",
        command="python -m budgetloader.bench.threads",
        environment=environment(),
        parts=[GRID, figure],
    )
    return path


def test_a_page_needs_no_address_outside_itself(written):
    text = written.read_text()
    addresses = set(re.findall(r"https?://[^\s\"'<>)]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names, never fetched
    assert not re.search(r"<(script|link|img|iframe)\b", text)


def test_text_is_text_and_not_markup(written):
    text = written.read_text()
    assert "a title &amp; more" in text and "a note &lt;b&gt;" in text


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_shows_the_tables_and_the_figures(written, tmp_path):
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    command += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path / 'u'}"]
    shown = subprocess.run(
        [*command, "--dump-dom", written.as_uri()], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    assert "<td>0.6177 ± 0.0049</td>" in shown and "<h1>A bench</h1>" in shown
    assert shown.count("<svg") == 1 and 'aria-label="two bars"' in shown
    assert "python -m budgetloader.bench.threads" in shown


def test_a_grid_as_markdown_and_for_a_terminal():
    assert GRID.markdown().splitlines()[2] == "| R1_0.618 | 0.6177 ± 0.0049 |"
    assert [column.header for column in GRID.rich().columns] == list(GRID.columns)
