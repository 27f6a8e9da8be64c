"""The tables and figures of `budgetloader.bench.throughput`'s record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from budgetloader.bench import plot
from budgetloader.bench.contenders import OURS
from budgetloader.bench.grid import Grid


def grids(results: Mapping[str, Any]) -> list[Grid]:
    """One table for each part that was measured."""
    return [make(results) for part, make in MAKERS.items() if part in results]


def figures(results: Mapping[str, Any]) -> list[Any]:
    """matplotlib's figures of the parts that were measured."""
    found = []
    for dtype in dict.fromkeys(row["dtype"] for row in results.get("rates", ())):
        rows = [row for row in results["rates"] if row["dtype"] == dtype]
        names = [f"{row['contender']}, {row['interpolation']}" for row in rows]
        values, spreads = ([row[key] for row in rows] for key in ("images_per_second", "spread"))
        found.append(plot.bars(names, values, spreads, title=f"images per second, {dtype}", unit="images/s"))
    if "cut" in results:
        found.append(plot.cut_curves(results["cut"]))
    return found


def _rates(results: Mapping[str, Any]) -> Grid:
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in results["rates"]:
        text = f"{row['images_per_second']:,.0f} ({row['spread']:,.0f})"
        cells.setdefault((row["contender"], row["interpolation"]), {})[row["dtype"]] = text
    rows = [(*key, *(by_dtype.get(d, "—") for d in ("uint8", "float32"))) for key, by_dtype in cells.items()]
    turns = results["options"]["turns"]
    return Grid(
        "images per second",
        ("loader", "filter", "uint8", "float32"),
        rows,
        f"Medians of {turns} turns, interquartile range in brackets; all in turn, each in a process of its own.",
    )


def _ratios(results: Mapping[str, Any]) -> Grid:
    cells: dict[tuple[str, str, str], dict[str, str]] = {}
    for row in results["ratios"]:
        key = (row["by"], row["by_interpolation"], row["interpolation"])
        half = row["half_width"]
        cells.setdefault(key, {})[row["dtype"]] = f"{row['ratio']:.2f}" + (f" ± {half:.2f}" if half else "")
    rows = [(*key, *(by_dtype.get(d, "—") for d in ("uint8", "float32"))) for key, by_dtype in cells.items()]
    return Grid(
        "native's images per second, by each other's",
        ("by", "its filter", "native's filter", "uint8", "float32"),
        rows,
        "Means of the turns' ratios, with Student's 95 % interval.",
    )


def _boundary(results: Mapping[str, Any]) -> Grid:
    cells: dict[str, list[str]] = {}
    kinds = list(dict.fromkeys(row["trainer"] for row in results["boundary"]))
    for row in results["boundary"]:
        cells.setdefault(row["contender"], []).append(f"{row['lost_batches']:+.2f} ({row['spread']:.2f})")
    return Grid(
        "batches lost at the boundary between epochs of 8 batches",
        ("loader", *kinds),
        [(name, *texts) for name, texts in cells.items()],
        "The time from an epoch's last batch to the next one's first, less that of the other batches, in units of "
        "those. Ours by schedule; the others' epochs are left by break.",
    )


def _cut(results: Mapping[str, Any]) -> Grid:
    ratios = list(results["cut"][0]["time_ratio"])
    rows = [
        (
            row["contender"] + ("" if row["contender"] in OURS else " (break)"),
            *(f"{row['time_ratio'][ratio]:.3f} ({row['spread'][ratio]:.3f})" for ratio in ratios),
        )
        for row in results["cut"]
    ]
    return Grid(
        "time of an epoch at ratio α, as a share of a full one's",
        ("loader", *ratios),
        rows,
        "Medians of the turns, interquartile range in brackets. Ours by schedule, the others' epochs left by break. "
        "Plain DALI goes on with the rest of the same shuffle after a break: where α does not divide 1, some of its "
        "epochs are shorter than asked for, and none is a fresh draw.",
    )


MAKERS = {"rates": _rates, "ratios": _ratios, "boundary": _boundary, "cut": _cut}
