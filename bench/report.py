"""The output of a bench of training time: record, pictures, tables and a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from budgetloader.bench import page, plot
from budgetloader.bench.analysis import CONCLUSIVE_POINTS
from budgetloader.bench.dissertation import Printed, change, time_reduction
from budgetloader.bench.grid import Grid
from budgetloader.bench.record import write_csv, write_json

_COLUMNS = (
    *("setting", "samples", "seconds", "measured (95 %)", "of sums", "corollary", "difference", "Theorem 4"),
    *("top-1 %", "top-5 %", "images/s"),
)
_PARTS = ("difference", "±", "rounding", "boundary", "starvation", "rest", "rounds", "slices", "slowest epoch")
HOW_MEASURED = (
    "Measured, of sums, Theorem 4 and corollary are shares of full training's time. Measured: from the times per "
    "batch of what ran in the same round (trimmed mean, 95 % interval); of sums: the plain ratio of all seconds. "
    "Difference: measured − corollary, in percentage points. Theorem 4 uses the batch times of these same epochs: it "
    "is a check of the accounting, not a prediction; the corollary predicts, from the ratios alone."
)
SUBSTITUTE = (
    "These are not the dissertation's data: accuracies show that training is real, and say nothing about CIFAR or "
    "ImageNet."
)


def report(
    results: dict[str, Any],
    out: Path,
    console: Console,
    *,
    network: str,
    command: str,
    printed: Mapping[str, Mapping[str, Printed]],
    figures: Mapping[str, str],
) -> None:
    """Write the record, the pictures and the page, print the tables.

    Args:
        results: of the bench; nothing is written where it has no settings yet.
        out: the folder.
        network: for titles.
        command: that measures it again.
        printed: data set → the dissertation's results, shown where the training data are that set.
        figures: "top1" and "top5" → the dissertation's figure.
    """
    rows = results["settings"]
    if not rows:
        console.print("no epoch was finished; there is nothing to show yet")
        return
    results["command"] = command
    write_json(out / "results.json", results)
    write_csv(out / "results.csv", rows)
    data, theirs = results["options"]["data"], printed.get(results["data_set"] or "", {})
    made = {
        "time_ratio": plot.time_ratios(rows, title=f"{network}, {data}: time against sampling ratio"),
        "batch_times": plot.batch_times(rows, title="every batch of the run"),
    }
    for metric, figure in figures.items():
        title = f"As Figure {figure}" if theirs else f"{network}, {data}: accuracy against time"
        drawn = plot.accuracy_against_time(rows, metric=metric, title=title, printed=theirs, data=data)
        if drawn is not None:
            made[f"{metric}_against_time"] = drawn
    for name, drawn in made.items():
        plot.save(drawn, out / f"{name}.png")
    shown = grids(results, network=network, printed=theirs)
    for grid in shown:
        console.print(grid.rich())
    page.write(
        out / "report.html",
        title=f"{network}, {data}: training time against sampling ratio",
        claim="Training on ⌊α·M⌋ of the M batches of each epoch takes the share of full training's time that "
        "Corollaries 1 and 2 give.",
        command=command,
        environment=results["environment"],
        parts=[*shown, *made.values()],
    )
    console.print(f"report.html, results.json, results.csv and pictures: {out}", soft_wrap=True)


def grids(results: Mapping[str, Any], *, network: str, printed: Mapping[str, Printed]) -> list[Grid]:
    """Tables of the results, of the parts of the differences, of boundaries, and of the dissertation's results."""
    rows = results["settings"]
    busy = results["options"]["busy"]
    title = (
        f"{network}, {results['options']['data']}, {results['samples']:,} images, {results['options']['device']}"
        + (f", beside {busy} busy process{'es' * (busy > 1)}" if busy else "")
    )
    found = [of_settings(results, title=title), _parts(rows)]
    if results["boundary"]:
        found.append(boundaries(results["boundary"]))
    if printed:
        found.append(_beside(rows, printed))
    return found


def of_settings(results: Mapping[str, Any], *, title: str) -> Grid:
    """The main table: one row per setting."""
    rows = results["settings"]
    note = HOW_MEASURED + " " + _intervals(rows) + ("" if results["data_set"] else " " + SUBSTITUTE)
    return Grid(title, _COLUMNS, [_cells(row) for row in rows], note)


def ratio(row: Mapping[str, Any]) -> str:
    """A measured ratio with its interval, or that it is not conclusive."""
    value, half = row["ratio_measured"], row["ratio_half_width"]
    if row["conclusive"]:
        return f"{value:.4f} ± {half:.4f}"
    if half is None or half == float("inf"):  # of a record, or of a run: too few rounds for an interval
        return "not conclusive here"
    return f"not conclusive here ({value - half:.3f} … {value + half:.3f})"


def _intervals(rows: Sequence[Mapping[str, Any]]) -> str:
    over = rows[0]["interval_over"]
    if over == "seeds":
        return f"Accuracies: means of {len(rows[0]['seeds'])} seeds with Student's 95 % interval over them."
    return (
        "Accuracies: one seed; the interval is for the number of test images alone, and knows nothing of what "
        "another seed would give."
    )


def _parts(rows: Sequence[Mapping[str, Any]]) -> Grid:
    cells = [
        (
            row["setting"],
            f"{row['difference_points']:+.2f}",
            _plain(row["half_width_points"]),
            *(f"{row[name + '_points']:+.2f}" for name in _PARTS[2:6]),
            str(row["rounds_measured"]),
            str(row["slices_measured"]),
            f"{row['slowest_epoch']:.2f} ×",
        )
        for row in rows
    ]
    return Grid(
        "measured − corollary in percentage points, and what it is made of",
        ("setting", *_PARTS),
        cells,
        "Rounding: ⌊αM⌋ is not αM, and full epochs have a short last batch. Boundary and starvation: waiting for "
        "epochs' first batches and for others. Rest: batches that took longer or shorter than full training's. Rounds "
        "and slices: what the interval is made of, epochs of the training and slices of timing alone. Slowest epoch: "
        f"its time per batch by the median one's. Intervals above ±{CONCLUSIVE_POINTS:g} point are not "
        "conclusive.",
    )


def boundaries(rows: Sequence[Mapping[str, Any]]) -> Grid:
    """The cost of boundaries, if it was measured."""
    cells = [
        (
            row["epochs_of"],
            row["trainer"],
            ", ".join(str(count) for count in row["batches"]),
            f"{row['lost_batches']:+.3f} ± {_plain(row['half_width'], places=3)}",
            f"{1000 * row['batch_seconds']:.2f}",
        )
        for row in rows
    ]
    return Grid(
        "what an epoch's boundary costs, epochs following each other without a pause",
        ("epochs", "trainer", "batches", "batches lost per epoch (95 %)", "ms a batch"),
        cells,
        "The time from an epoch's last batch to the next one's first, less that of a batch within an epoch. Taking "
        "only: a trainer that does nothing, so that the loader is the limit.",
    )


def _beside(rows: Sequence[Mapping[str, Any]], printed: Mapping[str, Printed]) -> Grid:
    """As Tables 4-10, 4-12 and 4-14: changes relative to full training in percent, the dissertation's and ours."""
    full, printed_full = rows[0], printed["full"]
    cells = []
    for row in rows[1:]:
        theirs = printed.get(row["setting"])
        texts = [row["setting"]]
        for name in ("top1", "top5"):
            known = row[name] is not None and full[name]
            texts.append(f"{change(row[name], full=full[name]):+.2f}" if known else "—")
            texts.append(f"{change(getattr(theirs, name), full=getattr(printed_full, name)):+.2f}" if theirs else "—")
        texts.append(f"{100 * (row['ratio_measured'] - 1):+.2f}" if row["conclusive"] else "not conclusive here")
        texts.append(f"{time_reduction(theirs, full=printed_full):+.2f}" if theirs else "—")
        cells.append((*texts, f"{100 * (row['ratio_corollary'] - 1):+.2f}"))
    return Grid(
        "change relative to full training, %: measured, and printed in the dissertation",
        ("setting", "top-1", "printed", "top-5", "printed", "time", "printed", "corollary"),
        cells,
        "Augmentation and normalisation, which the dissertation does not give, are assumptions.",
    )


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    full = row["setting"].endswith("full")
    return (
        row["setting"],
        f"{row['samples']:,}",
        f"{row['train_seconds']:.1f}",
        "1" if full else ratio(row),
        f"{row['ratio_of_sums']:.4f}",
        f"{row['ratio_corollary']:.4f}",
        f"{row['difference_points']:+.2f}" if row["conclusive"] else "—",
        f"{row['ratio_theorem']:.4f}",
        *(percent(row[name], row[f"{name}_half_width"]) for name in ("top1", "top5")),
        f"{row['images_per_second']:,.0f}",
    )


def percent(share: float | None, half_width: float | None = None) -> str:
    """A share as percent, with the half-width of its interval."""
    if share is None:
        return "—"
    return f"{100 * share:.2f}" + (f" ± {100 * half_width:.2f}" if half_width is not None else "")


def _plain(value: float | None, *, places: int = 2) -> str:
    return "—" if value is None or value == float("inf") else f"{value:.{places}f}"
