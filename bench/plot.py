"""Pictures of a bench's results, drawn from its rows alone. Functions return matplotlib's figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from budgetloader.bench.contenders import OURS
from budgetloader.bench.dissertation import Printed, change, time_reduction
from budgetloader.schedule import Schedule
from budgetloader.theory import corollary

_OURS, _PRINTED, _BASELINE = "#1f77b4", "#d62728", "#7f7f7f"


def time_ratios(rows: Sequence[Mapping[str, Any]], *, title: str) -> Any:
    """Measured against predicted training time, as a share of full training's, with 95 % intervals."""
    figure, axes = _axes(title, "predicted by Corollaries 1–2", "measured training time / full training's")
    axes.plot([0, 1.05], [0, 1.05], color="#bbbbbb", linewidth=1, zorder=0)
    for row in rows:  # a legend and not labels beside the points: those of similar budgets would overlap
        x, y, half = row["ratio_corollary"], row["ratio_measured"], row["ratio_half_width"]
        shown = f"{row['setting']}: {y:.3f} ± {half:.3f}, predicted {x:.3f}" if half is not None else row["setting"]
        shown += "" if row["conclusive"] else " (not conclusive here)"
        marker = "s" if row["baseline_of"] else "o"
        axes.errorbar([x], [y], yerr=[half or 0.0], fmt=marker, label=shown, alpha=0.8, capsize=3, zorder=2)
    axes.legend(loc="upper left", fontsize=7)
    axes.set_xlim(0, 1.05)
    axes.set_ylim(0, 1.05)
    return figure


def batch_times(rows: Sequence[Mapping[str, Any]], *, title: str) -> Any:
    """Every batch's time over the run: disturbances of the machine are seen."""
    figure, axes = _axes(title, "round (one epoch of each setting)", "milliseconds a batch")
    for row in rows:
        x, y = [], []
        for seed in row["seeds"]:
            for record in seed["epoch_records"]:
                times = record["batch_seconds"]
                x += [record["epoch"] + step / len(times) for step in range(len(times))]
                y += [1000 * seconds for seconds in times]
        axes.plot(x, y, ".", markersize=1.5, alpha=0.5, label=row["setting"], rasterized=True)
    axes.set_yscale("log")
    axes.legend(fontsize=7, markerscale=6, loc="upper right")
    return figure


def accuracy_against_time(
    rows: Sequence[Mapping[str, Any]], *, metric: str, title: str, printed: Mapping[str, Printed], data: str
) -> Any | None:
    """Relative time reduction against relative accuracy change, the dissertation's points beside ours.

    Args:
        rows: with `top1` and `top5` as shares, or None where nothing was evaluated.
        metric: "top1" or "top5".
        printed: the dissertation's rows, one of them "full"; empty where ours are of other data.
        data: the name of the training set, for the legend.

    Returns:
        The figure; None where there is nothing to draw.
    """
    full = next((row for row in rows if row["setting"] == "full"), None)
    known = [row for row in rows if row.get(metric) is not None]
    if full is None or not full.get(metric):
        return None
    figure, axes = _axes(title, "training time, relative change (%)", f"{metric}, relative change (%)")
    axes.axhline(0, color="#bbbbbb", linewidth=1, zorder=0)
    for row in known:
        color = _BASELINE if row["baseline_of"] else _OURS
        x, y = 100 * (row["ratio_measured"] - 1), change(row[metric], full=full[metric])
        half = 100 * (row[f"{metric}_half_width"] or 0.0) / full[metric]
        axes.errorbar([x], [y], yerr=[half], fmt="s" if row["baseline_of"] else "o", color=color, capsize=3, alpha=0.8)
        axes.annotate(row["setting"], (x, y), textcoords="offset points", xytext=(5, 4), fontsize=7, color=color)
    for name, theirs in printed.items():
        x = time_reduction(theirs, full=printed["full"])
        y = change(getattr(theirs, metric), full=getattr(printed["full"], metric))
        axes.scatter([x], [y], color=_PRINTED, marker="^")
        axes.annotate(name, (x, y), textcoords="offset points", xytext=(5, 4), fontsize=7, color=_PRINTED)
    for color, marker, label in (
        (_OURS, "o", f"measured ({data})"),
        (_BASELINE, "s", "baseline of the same budget"),
        *([(_PRINTED, "^", "dissertation")] if printed else []),
    ):
        axes.scatter([], [], color=color, marker=marker, label=label)
    axes.legend(fontsize=8)
    return figure


def schedules(settings: Sequence[Schedule]) -> Any:
    """The ratio of every epoch, a panel for each schedule."""
    columns = 3
    rows = -(-len(settings) // columns)
    figure, grid = _pyplot().subplots(
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
    return figure


def cut_curves(rows: Sequence[Mapping[str, Any]]) -> Any:
    """T(α)/T(1) of each contender: ours by schedule, the others' epochs cut by `break`.

    Args:
        rows: of `budgetloader.bench.throughput`'s part "cut"; records of version 0.1 have no spread.
    """
    figure, axes = _axes("an epoch's time at ratio α, as a share of a full one's", "α", "T(α) / T(1)")
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1, zorder=0)
    for row in rows:
        points = [(float(ratio), median) for ratio, median in row["time_ratio"].items()]
        ours = row["contender"] in OURS
        label = f"{row['contender']} ({'ours' if ours else 'cut by break'})"
        spread = [row["spread"][ratio] / 2 for ratio in row["time_ratio"]] if "spread" in row else None
        line = "o-" if ours else "^--"
        axes.errorbar(*zip(*points, strict=True), yerr=spread, fmt=line, label=label, alpha=0.8, capsize=2)
    axes.legend(fontsize=7)
    return figure


def bars(names: Sequence[str], values: Sequence[float], spreads: Sequence[float], *, title: str, unit: str) -> Any:
    """Horizontal bars with half their spread to either side."""
    figure, axes = _axes(title, unit, "")
    places = range(len(names))
    axes.barh(places, values, xerr=[spread / 2 for spread in spreads], color=_OURS, alpha=0.8, capsize=3)
    axes.set_yticks(list(places), names, fontsize=7)
    axes.invert_yaxis()
    return figure


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


def save(figure: Any, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.stem + ".partial" + path.suffix)
    figure.savefig(partial, dpi=130)
    partial.replace(path)


def close(figure: Any) -> None:
    """Give a figure's memory back."""
    _pyplot().close(figure)
