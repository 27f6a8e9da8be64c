"""The pages that say what a record shows: their tables and sentences are written from it, and checked against it.

A page has a part between <!-- evidence:STUDY:PART --> and <!-- /evidence -->.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from budgetloader.bench.study import arms, pictures, tables
from budgetloader.bench.study.recipes import STUDIES, Study
from budgetloader.bench.study.record import Row, read

Rows = Mapping[str, Row]
PAGES = ("docs/evidence.md", "docs/science.md", "README.md")
PARTS: dict[str, Callable[[Study, Rows], Any]] = {
    "progress": tables.progress,
    "answer": tables.answer,
    "rates": tables.rates,
    "accuracies": tables.accuracies,
    "primary": tables.primary,
    "secondary": tables.secondary,
}
_BLOCK = re.compile(r"(<!-- evidence:([\w-]+):([\w-]+) -->\n).*?(<!-- /evidence -->)", re.S)
_UNITS = {"samples": "samples, as a share of full training's", "seconds": "processor's seconds of training"}


def record_path(root: Path, study: str) -> Path:
    """Where a study's record lies in the repository."""
    return root / "bench" / "results" / f"evidence_{study}.jsonl"


def filled(text: str, *, root: Path) -> str:
    """A page with its parts written again.

    Raises:
        KeyError: a study or a part that is not known.
    """

    def part(found: re.Match[str]) -> str:
        study = STUDIES[found[2]]
        made = PARTS[found[3]](study, read(record_path(root, study.name)))
        body = made if isinstance(made, str) else f"{made.markdown()}\n\n{made.note}"
        return f"{found[1]}{body}\n{found[4]}"

    return _BLOCK.sub(part, text)


def drawn(study: Study, rows: Rows) -> dict[str, tuple[Any, Callable[[], Any]]]:
    """Name of a picture → the numbers that it shows, and a function that draws it."""
    title = f"{study.title}: every seed"
    samples, seconds = pictures.against_samples(study, rows), pictures.against_seconds(study, rows)
    curves, differences = pictures.curves(study, rows), pictures.differences(study, rows)
    return {
        "samples": (samples, lambda: pictures.draw_points(samples, title=title, x=_UNITS["samples"])),
        "seconds": (seconds, lambda: pictures.draw_points(seconds, title=title, x=_UNITS["seconds"])),
        "curves": (curves, lambda: pictures.draw_curves(curves, title=f"{title}, while it trains")),
        "contrasts": (differences, lambda: pictures.draw_differences(differences, title=title)),
    }


def write(root: Path) -> list[str]:
    """Write the pages' parts and the pictures that are not as their records; which."""
    changed = []
    for name in _stale_pages(root):
        (root / name).write_text(filled((root / name).read_text(), root=root))
        changed.append(name)
    for name, points, draw in _stale_pictures(root):
        pictures.save(draw(), root / name, points=points)
        changed.append(name)
    return changed


def check(root: Path) -> list[str]:
    """What is not as the records say: of the records themselves, the pages and the pictures."""
    wrong = [f"{name} does not say what its record says" for name in _stale_pages(root)]
    wrong += [f"{name} does not show what its record says" for name, _, _ in _stale_pictures(root)]
    for study in STUDIES.values():
        wrong += faults(study, read(record_path(root, study.name)))
    return wrong


def faults(study: Study, rows: Rows) -> list[str]:
    """What cannot be in a study's record: budgets and accuracies that are not the design's, or a mixture of codes."""
    wrong = []
    for name, row in rows.items():
        arm = study.arm(row["arm"])
        steps = arms.steps(arm, study, samples=row["training_set"])
        short = steps * study.batch_size - row["samples"]  # last batches of InfoBatch's epochs are short
        if row["steps"] != steps or not 0 <= short < study.batch_size * row["epochs"]:
            wrong.append(
                f"{name}: {row['steps']} steps and {row['samples']} samples are not its budget of {steps} steps"
            )
        if abs(row["accuracy"] - 100 * row["correct"] / row["tested"]) > 1e-3 or row["curve"][-1][1] != row["correct"]:
            wrong.append(f"{name}: accuracy {row['accuracy']} is not {row['correct']} of {row['tested']}")
    for key in ("data", "training_set"):
        if len(found := sorted({str(row[key]) for row in rows.values()})) > 1:
            wrong.append(f"{study.name}: rows of several {key}: {', '.join(found)}")
    for arm in study.arms:
        codes = sorted({row["fingerprint"] for row in rows.values() if row["arm"] == arm.name})
        if len(codes) > 1:
            wrong.append(f"{study.name}: {arm.name} was trained by different code: {', '.join(codes)}")
    return wrong


def _stale_pages(root: Path) -> list[str]:
    pages = [name for name in PAGES if (root / name).is_file()]
    return [name for name in pages if filled((text := (root / name).read_text()), root=root) != text]


def _stale_pictures(root: Path) -> list[tuple[str, Any, Callable[[], Any]]]:
    found = []
    for study in STUDIES.values():
        rows = read(record_path(root, study.name))
        if any(row["phase"] == "main" for row in rows.values()):
            for name, (points, draw) in drawn(study, rows).items():
                path = f"docs/evidence_{study.name}_{name}.png"
                if pictures.digest_of(root / path) != pictures.digest(points):
                    found.append((path, points, draw))
    return found
