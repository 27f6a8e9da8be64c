"""A record's pictures, drawn from its rows alone; each carries a digest of the numbers that it shows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from budgetloader.bench.study import statistics
from budgetloader.bench.study.recipes import Study
from budgetloader.bench.study.record import Row

Rows = Mapping[str, Row]
Points = dict[str, list[list[float]]]
_KEY = "Record"
_MARKERS = "osD^v<>Ph*"


def digest(points: Any) -> str:
    """Tells pictures' numbers apart: 16 hex digits."""
    return hashlib.sha256(json.dumps(points, sort_keys=True).encode()).hexdigest()[:16]


def digest_of(path: Path) -> str | None:
    """The digest that a picture carries; None where it has none, or is not there."""
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG",)) as image:
            return image.info.get(_KEY)
    except OSError:
        return None


def against_samples(study: Study, rows: Rows) -> Points:
    """Kind of arm → [share of full training's samples, accuracy %] of every main run."""
    return _points(study, rows, "samples")


def against_seconds(study: Study, rows: Rows) -> Points:
    """Kind of arm → [the processor's seconds of training, accuracy %] of every main run."""
    return _points(study, rows, "cpu_seconds")


def _points(study: Study, rows: Rows, key: str) -> Points:
    kinds = {arm.name: arm.kind for arm in study.arms}
    found: Points = {}
    for name in sorted(rows):
        row = rows[name]
        if row["phase"] == "main" and row["arm"] in kinds:
            unit = study.epochs * row["training_set"] if key == "samples" else 1
            accuracy = 100 * row["correct"] / row["tested"]
            found.setdefault(kinds[row["arm"]], []).append([round(row[key] / unit, 4), round(accuracy, 4)])
    return found


def curves(study: Study, rows: Rows) -> dict[str, list[list[list[float]]]]:
    """Primary arm → for each main run the points [samples, accuracy %] at ¼, ½, ¾ and all of its budget."""
    primary = {arm.name for arm in study.arms if arm.primary}
    found: dict[str, list[list[list[float]]]] = {}
    for name in sorted(rows):
        row = rows[name]
        if row["phase"] == "main" and row["arm"] in primary:
            curve = [[samples, round(100 * correct / row["tested"], 4)] for samples, correct in row["curve"]]
            found.setdefault(row["arm"], []).append(curve)
    return found


def differences(study: Study, rows: Rows) -> Points:
    """Primary contrast → [its mean, its half-width], then [difference] of every seed, points."""
    return {
        f"{c.first} − {c.second}": [[round(c.mean, 4), round(c.half_width, 4)], *([round(d, 4)] for d in c.differences)]
        for c in statistics.contrasts(rows, statistics.primary_pairs(study))
    }


def draw_points(points: Points, *, title: str, x: str) -> Any:
    """Every seed's accuracy as a point."""
    figure, axes = _axes(title, x, "test accuracy, %")
    for number, (kind, pairs) in enumerate(points.items()):
        marker = _MARKERS[number % len(_MARKERS)]
        axes.plot(*zip(*pairs, strict=True), marker, label=kind, markersize=4, alpha=0.6, color=f"C{number}")
    axes.set_xscale("log")
    axes.legend(fontsize=7, ncols=2, loc="lower right")
    return figure


def draw_curves(found: dict[str, list[list[list[float]]]], *, title: str) -> Any:
    """Every seed's accuracy while it trains, a panel for each budget."""
    budgets = list(dict.fromkeys(name.partition("@")[2] for name in found))
    pyplot = _pyplot()
    figure, grid = pyplot.subplots(
        1, max(len(budgets), 1), figsize=(10, 3.6), sharey=True, squeeze=False, layout="constrained"
    )
    figure.suptitle(title, fontsize=10)
    for axes, budget in zip(grid.flat, budgets, strict=False):
        axes.set_title(budget, fontsize=9)
        mine = [name for name in found if name.endswith("@" + budget)]
        for number, name in enumerate(mine):
            for place, curve in enumerate(found[name]):
                label = name.partition("@")[0] if not place else None
                axes.plot(*zip(*curve, strict=True), "o-", color=f"C{number}", alpha=0.5, markersize=3, label=label)
        axes.set_xlabel("samples", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.2)
        axes.legend(fontsize=7, loc="lower right")
    grid[0, 0].set_ylabel("test accuracy, %", fontsize=8)
    return figure


def draw_differences(found: Points, *, title: str) -> Any:
    """The primary contrasts: every seed, the mean with its 95 % interval, and the margin of equivalence."""
    figure, axes = _axes(title, "difference of test accuracy, points", "")
    axes.axvspan(-statistics.MARGIN, statistics.MARGIN, color="#dddddd", zorder=0, label="margin of equivalence")
    axes.axvline(0, color="#999999", linewidth=1, zorder=1)
    for place, ((mean, half), *seeds) in enumerate(found.values()):
        axes.plot([value for (value,) in seeds], [place] * len(seeds), "o", color="C0", alpha=0.35, markersize=4)
        axes.errorbar([mean], [place], xerr=[half], fmt="D", color="C3", capsize=4, markersize=4)
    axes.set_yticks(range(len(found)), list(found), fontsize=8)
    axes.invert_yaxis()
    axes.legend(fontsize=7)
    return figure


def save(figure: Any, path: Path, *, points: Any) -> None:
    """Write a picture with the digest of what it shows, whole or not at all."""
    partial = path.with_name(path.stem + ".partial.png")
    figure.savefig(partial, dpi=130, metadata={_KEY: digest(points), "Software": None})
    _pyplot().close(figure)
    partial.replace(path)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _axes(title: str, x: str, y: str) -> tuple[Any, Any]:
    figure, axes = _pyplot().subplots(figsize=(7, 4.8), layout="constrained")
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.2)
    return figure, axes
