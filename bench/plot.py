"""Pictures of a bench's results, drawn from its rows alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.dissertation import Printed, change, time_reduction
from loader.schedule import Schedule
from loader.theory import corollary

_OURS, _PRINTED = "#1f77b4", "#d62728"


def time_ratios(rows: Sequence[Mapping[str, Any]], path: Path, *, title: str) -> None:
    """Measured against predicted training time, as a share of full training's."""
    figure, axes = _axes(title, "predicted by Corollaries 1–2", "measured training time / full training's")
    axes.plot([0, 1.05], [0, 1.05], color="#bbbbbb", linewidth=1, zorder=0)
    for row in rows:  # a legend and not labels beside the points: those of similar budgets would overlap
        x, y = row["ratio_corollary"], row["ratio_measured"]
        label = f"{row['setting']}: {y:.3f} measured, {x:.3f} predicted ({row['difference_points']:+.2f} points)"
        axes.scatter([x], [y], marker="s" if row["baseline"] else "o", label=label, alpha=0.8, zorder=2)
    axes.legend(loc="upper left", fontsize=8)
    axes.set_xlim(0, 1.05)
    axes.set_ylim(0, 1.05)
    _save(figure, path)


def accuracy_against_time(
    rows: Sequence[Mapping[str, Any]],
    path: Path,
    *,
    metric: str,
    title: str,
    printed: Mapping[str, Printed],
    data: str,
) -> bool:
    """Relative time reduction against relative accuracy change, the dissertation's points beside ours.

    Args:
        rows: with `top1` and `top5` as shares, or None where nothing was evaluated.
        metric: "top1" or "top5".
        printed: the dissertation's rows, one of them "full".
        data: what ours were trained on, for the legend.

    Returns:
        Whether there was anything to draw.
    """
    full = next((row for row in rows if row["setting"] == "full"), None)
    known = [row for row in rows if row.get(metric) is not None]
    if full is None or not full.get(metric):
        return False
    figure, axes = _axes(title, "training time, relative change (%)", f"{metric}, relative change (%)")
    axes.axhline(0, color="#bbbbbb", linewidth=1, zorder=0)
    ours = [
        (row["setting"], 100 * (row["ratio_measured"] - 1), change(row[metric], full=full[metric])) for row in known
    ]
    theirs = [
        (
            name,
            time_reduction(row, full=printed["full"]),
            change(getattr(row, metric), full=getattr(printed["full"], metric)),
        )
        for name, row in printed.items()
    ]
    for points, color, marker, label in (
        (theirs, _PRINTED, "^", "dissertation"),
        (ours, _OURS, "o", f"measured ({data})"),
    ):
        axes.scatter([x for _, x, _ in points], [y for _, _, y in points], color=color, marker=marker, label=label)
        for name, x, y in points:
            axes.annotate(name, (x, y), textcoords="offset points", xytext=(5, 4), fontsize=7, color=color)
    axes.legend(fontsize=8)
    _save(figure, path)
    return True


def schedules(settings: Sequence[Schedule], path: Path) -> None:
    """The ratio of every epoch, a panel for each schedule."""
    pyplot = _pyplot()
    columns = 3
    rows = -(-len(settings) // columns)
    figure, grid = pyplot.subplots(
        rows, columns, figsize=(9, 1.7 * rows), sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for axes, schedule in zip(grid.flat, settings, strict=False):
        ratios = [float(ratio) for ratio in schedule.ratios]
        axes.bar(range(schedule.epochs), ratios, width=1.0, color=_OURS)
        axes.set_title(f"{schedule.form}: {corollary(schedule):.3f} of full training's time", fontsize=8)
        axes.set_ylim(0, 1)
        axes.tick_params(labelsize=7)
    for axes in grid.flat[len(settings) :]:
        axes.set_axis_off()
    figure.supxlabel("epoch", fontsize=8)
    figure.supylabel("ratio α", fontsize=8)
    _save(figure, path)


def cut_curves(curves: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """T(α)/T(1) of each contender: ours by schedule, the others' epochs cut by `break`.

    Args:
        curves: contender → (α as text → ratio).
    """
    figure, axes = _axes("an epoch's time at ratio α, as a share of a full one's", "α", "T(α) / T(1)")
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1, zorder=0)
    for name, ratios in curves.items():
        theirs = name.startswith(("plain", "torch"))
        label = f"{name}, cut by break" if theirs else f"{name} (ours)"
        axes.plot([float(a) for a in ratios], list(ratios.values()), "^--" if theirs else "o-", label=label, alpha=0.8)
    axes.legend(fontsize=8)
    _save(figure, path)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _axes(title: str, x: str, y: str) -> tuple[Any, Any]:
    figure, axes = _pyplot().subplots(figsize=(6.4, 4.8), layout="constrained")
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.2)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.stem + ".partial" + path.suffix)
    figure.savefig(partial, dpi=130)
    partial.replace(path)
    _pyplot().close(figure)
