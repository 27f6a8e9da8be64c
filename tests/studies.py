"""Small studies, and records of them that were never trained."""

import dataclasses
import math

from budgetloader.bench.study import recipes, tasks
from budgetloader.bench.study.recipes import FASHION

TINY = dataclasses.replace(
    FASHION,
    name="tiny",
    title="tiny",
    epochs=3,
    batch_size=20,
    image_size=16,
    held_out=40,
    factors=(1.0, 0.5),
    least_seeds=2,
    most_seeds=2,
    arms=recipes.arms(ratios=("0.618",), settings=()),
)


KINDS = ("full", "flat", "short", "short-linear", "infobatch")
FEW = dataclasses.replace(TINY, arms=tuple(arm for arm in TINY.arms if arm.kind in KINDS))


def made_up(name="tiny", *, seeds=4, **accuracies):
    """Rows of main runs whose accuracies are given: arm → one per seed, of 10,000 images."""
    rows = {}
    for arm, values in accuracies.items():
        for seed, value in zip(range(seeds), values, strict=False):
            row = {"phase": "main", "arm": arm.replace("_", "-") + "@0.618", "seed": seed, "factor": 1.0}
            row |= {"name": f"main/{row['arm']}/seed{seed}", "correct": round(100 * value), "tested": 10_000}
            row |= {"samples": 185, "cpu_seconds": 1.0, "train_seconds": 2.0, "training_set": 100, "accuracy": value}
            rows[row["name"]] = row | {"curve": [[100, 5000], [185, row["correct"]]], "cpu": "x", "weights": "1"}
    return rows


def pilot_rows(study, *, spread):
    """A pilot in which two seeds' differences between arms have that standard deviation, points."""
    rows = {}
    for one in tasks.pilot(study, tuple(arm for arm in study.arms if arm.primary)):
        sign = 1 if one.seed == study.pilot_seeds[0] else -1
        value = 80 + (sign * spread / math.sqrt(2) if one.arm.kind == "flat" else 0) + (one.factor == 0.5)
        rows[one.name] = {"name": one.name, "phase": "pilot", "arm": one.arm.name, "seed": one.seed}
        rows[one.name] |= {"correct": 1000 * value, "tested": 100_000, "factor": one.factor, "cpu_seconds": 1.0}
    return rows
