"""What a bench of training time leaves behind: record, pictures and tables.

python -m bench.report runs/demo/results.json   # the table of a record, as Markdown
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import plot
from bench.dissertation import Printed, change, time_reduction
from bench.record import write_csv, write_json

_COLUMNS = (
    *("setting", "batches", "seconds", "of sums", "measured", "Theorem 4", "corollary", "difference"),
    *("top-1 %", "top-5 %", "images/s"),
)
_PARTS = ("difference", "rounding", "boundary", "starvation", "rest")


def report(
    results: dict[str, Any],
    out: Path,
    console: Console,
    *,
    network: str,
    printed: Mapping[str, Printed],
    figures: Mapping[str, str],
) -> None:
    """Write the record and the pictures, print the tables.

    Args:
        results: what the bench measured; nothing is written where it has no settings yet.
        out: the folder.
        network: for titles.
        printed: the dissertation's results, drawn beside.
        figures: "top1" and "top5" → the dissertation's figure.
    """
    rows = results["settings"]
    if not rows:
        console.print("no epoch was finished; there is nothing to show yet")
        return
    write_json(out / "results.json", results)
    write_csv(out / "results.csv", rows)
    data = results["options"]["data"]
    plot.time_ratios(rows, out / "time_ratio.png", title=f"{network}, {data}: time against sampling ratio")
    for metric, figure in figures.items():
        path, title = out / f"{metric}_against_time.png", f"As Figure {figure}"
        plot.accuracy_against_time(rows, path, metric=metric, title=title, printed=printed, data=data)
    title = f"{network}, {data}, {results['samples']:,} images, {results['options']['device']}"
    for view in (*tables(rows, title=title), beside(rows, printed)):
        console.print(view)
    console.print(f"results.json, results.csv and pictures: {out}", soft_wrap=True)


def tables(rows: Sequence[dict[str, Any]], *, title: str) -> tuple[Table, Table]:
    """The results, and what the differences are made of, in points: percent of full training's time."""
    main_table = _table(title, _COLUMNS)
    parts = _table(
        "difference = measured − corollary, in percentage points, and what it is made of", ("setting", *_PARTS)
    )
    for row in rows:
        main_table.add_row(*_cells(row))
        parts.add_row(row["setting"], *(f"{row[name + '_points']:+.2f}" for name in _PARTS))
    return main_table, parts


def beside(rows: Sequence[dict[str, Any]], printed: Mapping[str, Printed]) -> Table:
    """As Tables 4-10, 4-12 and 4-14: changes relative to full training in percent, the dissertation's and ours."""
    names = ("setting", "top-1", "printed", "top-5", "printed", "time", "printed", "corollary")
    view = _table("change relative to full training, %: measured, and printed in the dissertation", names)
    full, printed_full = rows[0], printed["full"]
    for row in rows[1:]:
        cells = []
        for name in ("top1", "top5"):
            known = row[name] is not None and full[name]
            cells.append(f"{change(row[name], full=full[name]):+.2f}" if known else "—")
            there = printed.get(row["setting"])
            cells.append(f"{change(getattr(there, name), full=getattr(printed_full, name)):+.2f}" if there else "—")
        cells.append(f"{100 * (row['ratio_measured'] - 1):+.2f}")
        cells.append(f"{time_reduction(there, full=printed_full):+.2f}" if there else "—")
        view.add_row(row["setting"], *cells, f"{100 * (row['ratio_corollary'] - 1):+.2f}")
    return view


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The results as a Markdown table."""
    lines = [_COLUMNS, ("---", *["---:"] * (len(_COLUMNS) - 1)), *map(_cells, rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    ratios = ("ratio_of_sums", "ratio_measured", "ratio_theorem", "ratio_corollary")
    return (
        row["setting"],
        f"{row['batches']:,}",
        f"{row['train_seconds']:.1f}",
        *(f"{row[name]:.4f}" for name in ratios),
        f"{row['difference_points']:+.2f}",
        *(percent(row[name], row.get(f"{name}_deviation")) for name in ("top1", "top5")),
        f"{row['images_per_second']:,.0f}",
    )


def percent(share: float | None, deviation: float | None = None) -> str:
    """A share as percent, with its standard deviation over the seeds where there are several."""
    if share is None:
        return "—"
    return f"{100 * share:.2f}" + (f" ± {100 * deviation:.2f}" if deviation is not None else "")


def _table(title: str, names: Sequence[str]) -> Table:
    view = Table(title=title)
    for name in names:
        view.add_column(name, justify="left" if name == "setting" else "right", no_wrap=True)
    return view


if __name__ == "__main__":
    print(markdown(json.loads(Path(sys.argv[1]).read_text())["settings"]))
