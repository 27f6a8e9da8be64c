"""The README's pictures that no single bench draws: python -m budgetloader.bench.pictures (or: make pictures)."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from budgetloader.bench.plot import close, cut_curves, save, schedules
from budgetloader.schedule import PAPER_SETTINGS, Schedule

_ROOT = Path(__file__).resolve().parent.parent
_EPOCHS = 120  # the dissertation's, of Table 4-9


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw into docs/, or the folder that is given."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    folder = Path(given[0]) if given else _ROOT / "docs"
    settings = [Schedule.paper(name, epochs=_EPOCHS) for name in PAPER_SETTINGS if name != "full"]
    record = json.loads((_ROOT / "bench" / "results" / "throughput_cut_2_cores.json").read_text())
    for name, figure in {"schedules": schedules(settings), "cut": cut_curves(record["cut"])}.items():
        save(figure, folder / f"{name}.png")
        close(figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
