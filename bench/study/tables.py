"""A record's tables and sentences. Every number in them is computed from its rows."""

from __future__ import annotations

import math
import statistics as plain
from collections.abc import Mapping, Sequence

from budgetloader.bench.grid import Grid
from budgetloader.bench.study import statistics, tasks
from budgetloader.bench.study.recipes import Arm, Study
from budgetloader.bench.study.record import Row
from budgetloader.bench.study.statistics import Contrast

Rows = Mapping[str, Row]


def progress(study: Study, rows: Rows) -> str:
    """How far the record is, in a sentence or two."""
    pilot = [run.name in rows for run in tasks.pilot(study)]
    main = [row for row in rows.values() if row["phase"] == "main"]
    hours = sum(row["cpu_seconds"] for row in rows.values()) / 3600
    text = f"{len(rows)} of {tasks.total(study, rows)} runs so far, {hours:.1f} hours of one core: "
    text = text.replace(" so far", "") if tasks.complete(study, rows) else "The record is not finished: " + text
    text += f"{sum(pilot)} of {len(pilot)} of the pilot, {len(main)} main ones."
    for budget in dict.fromkeys(arm.budget for arm in study.arms if arm.kind == "flat"):
        spread, seeds = statistics.pilot_spread(study, rows, budget=budget), tasks.seeds(study, budget, rows)
        if seeds is not None and spread is not None:
            first = statistics.seeds_by_pilot(study, rows, budget=budget)
            text += (
                f" At {budget} the pilot's differences had a standard deviation of {spread:.2f} points between seeds, "
                f"which asks for {first} seeds{f'; the spread of these for {len(seeds)}' * (len(seeds) != first)}."
            )
    return text


def rates(study: Study, rows: Rows) -> Grid:
    """The learning rates that the pilot chose."""
    kinds = list(dict.fromkeys(arm.kind for arm in study.arms))
    budgets = list(dict.fromkeys(arm.budget for arm in study.arms))
    arms = {(arm.kind, arm.budget): arm for arm in study.arms}
    table = []
    for kind in kinds:
        cells = []
        for budget in budgets:
            arm = arms.get((kind, budget))
            chosen = tasks.factor(study, arm, rows) if arm else None
            cells.append("" if arm is None else "…" if chosen is None else f"{study.learning_rate * chosen:g}")
        table.append([f"`{kind}`", *cells])
    return Grid("learning rates", ["", *budgets], table, "Chosen in the pilot; …: not yet.")


def accuracies(study: Study, rows: Rows) -> Grid:
    """Each arm's test accuracy and cost."""
    table = []
    for arm in study.arms:
        mine = _main(rows, arm)
        if not mine:
            continue
        mean, half = statistics.interval([_accuracy(row) for row in mine])
        cells = [
            f"`{arm.name}`",
            _plus_minus(mean, half),
            str(len(mine)),
            f"{plain.fmean(row['samples'] for row in mine):,.0f}",
            f"{plain.fmean(row['cpu_seconds'] for row in mine):.1f}",
            f"{plain.median(row['train_seconds'] for row in mine):.0f}",
        ]
        table.append([*cells, f"{study.printed[arm.name]:.1f}"] if arm.name in study.printed else cells)
    columns = ["arm", "top-1 % (95 %)", "seeds", "samples", "processor s", "wall s"]
    if study.printed:
        columns.append("printed")
        table = [row + [""] * (len(columns) - len(row)) for row in table]
    note = (
        "Samples and the processor's seconds are means over the seeds, of training alone; wall seconds are the median, "
        "on a machine that had other work to do, and say little."
    )
    return Grid(f"{study.title}: test accuracy", columns, table, note)


def primary(study: Study, rows: Rows) -> Grid:
    """The primary contrasts."""
    return _contrasts("primary contrasts", study, rows, statistics.primary_pairs(study))


def secondary(study: Study, rows: Rows) -> Grid:
    """All other contrasts."""
    return _contrasts("secondary contrasts", study, rows, secondary_pairs(study))


def secondary_pairs(study: Study) -> list[tuple[str, str]]:
    """`flat` against the others of its ratio, the dissertation's schedules against theirs, every arm against full."""
    first = {arm.budget: arm.name for arm in study.arms if arm.kind in ("flat", "three-stage")}
    known = set(statistics.primary_pairs(study))
    pairs = [(first[arm.budget], arm.name) for arm in study.arms if arm.budget in first]
    pairs = [pair for pair in pairs if pair not in known and pair[0] != pair[1]]
    return pairs + [(arm.name, "full") for arm in study.arms if arm.name != "full"]


def answer(study: Study, rows: Rows) -> str:
    """What the primary contrasts, the comparison with full training, and the two arms with linear decay say."""
    found = {(c.first, c.second): c for c in statistics.contrasts(rows, statistics.primary_pairs(study))}
    if not found:
        return "There are no two seeds of a primary contrast yet, and so there is nothing to say."
    counts = sorted({len(contrast.differences) for contrast in found.values()})
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    pairs = statistics.primary_pairs(study)
    whole = len(found) == len(pairs) and all(_whole(study, rows, contrast) for contrast in found.values())
    state = "" if whole else " so far (the primary contrasts are not finished, and so are not tested yet)"
    lines = [f"{study.title}, {seeds} seeds{state}:", ""]
    budgets = list(dict.fromkeys(arm.budget for arm in study.arms if arm.kind == "flat"))
    for budget in budgets:
        parts = [
            _compared(found[pair], words, whole=whole)
            for words, pair in (
                ("fewer full epochs of the same cost", (f"flat@{budget}", f"short@{budget}")),
                ("fewer full epochs with linear decay", (f"flat@{budget}", f"short-linear@{budget}")),
            )
            if pair in found
        ]
        if parts:
            lines.append(f"- At **{budget}** a fresh fraction was {', and '.join(parts)}{_cost(rows, budget)}.")
    return "\n".join([*lines, *_both_linear(study, rows, budgets)])


def _compared(contrast: Contrast, other: str, *, whole: bool) -> str:
    """ "0.31 ± 0.20 points more accurate than …" and the like; the verdict only where all contrasts are whole."""
    mean, half_width = contrast.mean, contrast.half_width
    if whole and contrast.verdict == "equivalent":
        return f"within {statistics.MARGIN:g} points of {other} ({mean:+.2f} ± {half_width:.2f}, equivalent)"
    than = f"{'more' if mean > 0 else 'less'} accurate than" if f"{abs(mean):.2f}" != "0.00" else "from"
    size = f"{abs(mean):.2f} ± {half_width:.2f} points {than} {other}"
    if not whole:
        return size
    return f"{size} ({'undecided' if contrast.verdict == 'open' else 'significant'})"


def _both_linear(study: Study, rows: Rows, budgets: Sequence[str]) -> list[str]:
    """A sentence on the two arms with linear decay, of which the protocol has no contrast."""
    pairs = [(f"flat-linear@{budget}", f"short-linear@{budget}") for budget in budgets]
    found = {c.first.partition("@")[2]: c for c in statistics.contrasts(rows, pairs)}
    if not found:
        return []
    said = [f"{c.mean:+.2f} ± {c.half_width:.2f} at {budget}" for budget, c in found.items()]
    so_far = "" if all(_whole(study, rows, contrast) for contrast in found.values()) else " so far"
    listed = " and ".join([", ".join(said[:-1]), said[-1]] if len(said) > 1 else said)
    return [
        "",
        f"With linear decay in both, a fresh fraction minus fewer full epochs was{so_far}, in points: {listed}. The "
        "protocol has no such contrast, so it is not tested.",
    ]


def _cost(rows: Rows, budget: str) -> str:
    found = statistics.contrasts(rows, [(f"flat@{budget}", "full")])
    if not found:
        return ""
    mean, half = found[0].mean, found[0].half_width
    return f"; against full training it {'gained' if mean > 0 else 'lost'} {abs(mean):.2f} ± {half:.2f} points"


def _contrasts(title: str, study: Study, rows: Rows, pairs: Sequence[tuple[str, str]]) -> Grid:
    """A family of contrasts. Tests are shown once the family is whole: looks in between are none of the design's."""
    found = statistics.contrasts(rows, pairs)
    whole = len(found) == len(pairs) and all(_whole(study, rows, contrast) for contrast in found)
    table = [
        [
            f"`{c.first}` − `{c.second}`",
            f"{c.mean:+.2f} ± {c.half_width:.2f}",
            f"{len(c.differences)} of {_planned(study, rows, c) or '…'}",
            *([_p(c.p_holm), _p(c.p_equivalent_holm), c.verdict] if whole else ["", "", "not finished"]),
        ]
        for c in found
    ]
    columns = ["contrast", "points (95 %)", "seeds", "p, difference", "p, equivalence", "verdict"]
    note = "p values are Holm's, corrected within the table." if whole else "Tests are shown once the table is whole."
    return Grid(title, columns, table, note)


def _planned(study: Study, rows: Rows, contrast: Contrast) -> int:
    """Seeds that a contrast is to have; 0 before the pilot says it."""
    counts = [tasks.seeds(study, study.arm(name).budget, rows) for name in (contrast.first, contrast.second)]
    return 0 if None in counts else min(len(count) for count in counts if count is not None)


def _whole(study: Study, rows: Rows, contrast: Contrast) -> bool:
    return len(contrast.differences) >= (_planned(study, rows, contrast) or math.inf)


def _p(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"


def _plus_minus(mean: float, half: float) -> str:
    return f"{mean:.2f} ± {half:.2f}" if math.isfinite(half) else f"{mean:.2f}"


def _main(rows: Rows, arm: Arm) -> list[Row]:
    return sorted(
        (row for row in rows.values() if row["phase"] == "main" and row["arm"] == arm.name), key=lambda row: row["seed"]
    )


def _accuracy(row: Row) -> float:
    return 100 * row["correct"] / row["tested"]
