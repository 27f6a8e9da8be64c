"""Progress bars and endings that commands and benches share."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.progress import Progress, TimeRemainingColumn

from budgetloader.console import INTERRUPTED, PIPE_CLOSED, TimeLeft, bars, guarded
from budgetloader.errors import DatasetError


@pytest.fixture
def shown():
    """A progress bar's task of ten steps, whose clock a test moves, and how a column shows it."""
    clock = SimpleNamespace(seconds=0.0)

    def make(column, completed=0):
        silent = Console(file=io.StringIO(), width=80)
        progress = Progress(column, console=silent, auto_refresh=False, get_time=lambda: clock.seconds)
        task = progress.add_task("x", total=10, completed=completed)

        def step(seconds, completed):
            clock.seconds += seconds
            progress.update(task, completed=completed)
            return column.render(progress.tasks[0]).plain

        return step

    return make


def test_the_time_left_is_estimated_where_steps_are_minutes_apart(shown):
    rich_s_own = shown(TimeRemainingColumn())
    assert rich_s_own(0, 0) == "-:--:--"
    assert [rich_s_own(90, step) for step in (1, 2, 3)] == ["-:--:--"] * 3
    step = shown(TimeLeft())
    assert step(0, 0) == ""
    assert [step(90, done) for done in (1, 2, 3)] == ["0:13:30", "0:12:00", "0:10:30"]


def test_warm_up_before_the_first_step_is_forgotten_with_the_second(shown):
    step = shown(TimeLeft())
    step(0, 0)
    assert step(1000, 1) == "2:30:00"
    assert step(10, 2) == "0:01:20" and step(10, 3) == "0:01:10"


def test_what_a_checkpoint_holds_is_not_the_speed_of_now(shown):
    step = shown(TimeLeft(), completed=8)
    assert step(0, 8) == ""
    assert step(60, 9) == "0:01:00"
    assert step(60, 10) == "0:00:00"


def test_a_bar_without_an_estimate_still_shows_the_count():
    text = io.StringIO()
    with bars(Console(file=text, width=100, force_terminal=True), auto_refresh=False) as progress:
        progress.add_task("convert", total=70)
        progress.refresh()
    assert "0/70" in text.getvalue() and "-:--:--" not in text.getvalue()


def raising(error):
    def work(console):
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (DatasetError("no such file"), 1, "error: no such file\n"),
        (RuntimeError("it failed"), 1, "error: it failed\n"),
        (KeyboardInterrupt(), INTERRUPTED, "interrupted; the rest is kept\n"),
        (BrokenPipeError(), PIPE_CLOSED, ""),
    ],
)
def test_every_ending_has_its_status_and_one_line(capsys, error, status, says):
    assert guarded(raising(error), interrupted="the rest is kept") == status
    assert capsys.readouterr().err == says


def test_a_mistake_of_ours_is_no_clear_line():
    with pytest.raises(ZeroDivisionError):
        guarded(raising(ZeroDivisionError()))
