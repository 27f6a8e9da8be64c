"""Tables in README and docs, generated from the records that they quote.

    python -m budgetloader.bench.quoted            # write them again
    python -m budgetloader.bench.quoted --check    # exit status 1 if a page differs from its records

A page quotes a table between <!-- quote:NAME --> and <!-- /quote -->.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from budgetloader.bench import compared, report
from budgetloader.bench.grid import Grid

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    "README.md",
    "docs/results.md",
    "docs/selecting.md",
    "docs/augmenting.md",
    "docs/converting.md",
    "docs/views.md",
    "docs/storage.md",
    "docs/speed.md",
    "docs/service.md",
)
_BLOCK = re.compile(r"(<!-- quote:([\w-]+) -->\n).*?(<!-- /quote -->)", re.S)


def _training(record: dict[str, Any]) -> Grid:
    return report.of_settings(record, title="")


def _of(part: str) -> Callable[[dict[str, Any]], Grid]:
    return lambda record: compared.MAKERS[part](record)


def _selecting(record: dict[str, Any]) -> Grid:
    from budgetloader.bench.selecting import costs_grid

    return costs_grid(record)


def _ordinary(record: dict[str, Any]) -> Grid:
    from budgetloader.bench.selecting import ordinary_grid

    return ordinary_grid(record)


def _storage(part: str) -> Callable[[dict[str, Any]], Grid]:
    from budgetloader.bench import storage

    return {"rates": storage.rates_grid, "bytes": storage.bytes_grid}[part]


def _grid_of(name: str) -> Callable[[dict[str, Any]], Grid]:
    """The table that a bench of that name makes of its record."""
    return lambda record: importlib.import_module(f"budgetloader.bench.{name}").grid(record)


def _boundaries(record: dict[str, Any]) -> Grid:
    return report.boundaries(record["boundary"])


def _scale(part: str) -> Callable[[dict[str, Any]], Grid]:
    from budgetloader.bench import scale

    return scale.index_grid if part == "index" else scale.ranks_grid


# name → record, function that makes the table
QUOTES: dict[str, tuple[str, Callable[[dict[str, Any]], Grid]]] = {
    "demo": ("imagenet_mnv2_quick_2_cores", _training),
    "demo-busy": ("imagenet_mnv2_quick_busy_2_cores", _training),
    "demo-boundaries": ("imagenet_mnv2_quick_2_cores", _boundaries),
    "digits": ("cifar_resnet56_quick_2_cores", _training),
    "rates": ("throughput_2_cores", _of("rates")),
    "ratios": ("throughput_2_cores", _of("ratios")),
    "boundary": ("throughput_cut_2_cores", _of("boundary")),
    "cut": ("throughput_cut_2_cores", _of("cut")),
    "threads": ("threads_2_cores", _grid_of("threads")),
    "selecting": ("selecting_costs_2_cores", _selecting),
    "ordinary": ("selecting_2_cores", _ordinary),
    "overlapping": ("overlapping_2_cores", _grid_of("overlapping")),
    "verdict": ("verdict_2_cores", _grid_of("verdict")),
    "scaling": ("scaling_2_cores", _grid_of("scaling")),
    "starting": ("starting_2_cores", _grid_of("starting")),
    "stored": ("stored_2_cores", _grid_of("stored")),
    "sweep": ("sweep_2_cores", _grid_of("sweep")),
    "sizes": ("sizes_2_cores", _grid_of("sizes")),
    "augmenting": ("augmenting_2_cores", _grid_of("augmenting")),
    "conversion": ("converting_2_cores", _grid_of("converting")),
    "storage": ("storage_2_cores", _storage("rates")),
    "storage-bytes": ("storage_2_cores", _storage("bytes")),
    "streaming": ("streaming_2_cores", _grid_of("streaming")),
    "scale-index": ("scale_2_cores", _scale("index")),
    "scale-ranks": ("scale_2_cores", _scale("ranks")),
    "storage-resume": ("storage_resume_2_cores", _grid_of("storage_resume")),
    "storage-servers": ("storage_servers_2_cores", _grid_of("storage_servers")),
}


def filled(text: str, *, records: Path, page: str = "README.md") -> str:
    """A page with its tables made again.

    Args:
        text: the page's.
        records: the folder of the records.
        page: its path in the repository, for the links to the records.

    Raises:
        KeyError: a quote that is not known.
    """

    up = "../" * page.count("/")

    def table(found: re.Match[str]) -> str:
        name, make = QUOTES[found[2]]
        path = records / f"{name}.json"
        record = json.loads(path.read_text())
        grid, machine = make(record), record["environment"]
        source = (
            f"`{record['command']}`, {machine['date'][:10]}, {machine['cores']} cores ({machine['cpu']}), "
            f"[record]({up}bench/results/{name}.json). {grid.note}"
        )
        return f"{found[1]}{grid.markdown()}\n\n{source}\n{found[3]}"

    return _BLOCK.sub(table, text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages' tables; the exit status is 1 where --check finds one that is not its record's."""
    parser = argparse.ArgumentParser(
        prog="python -m budgetloader.bench.quoted", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit status 1 if a page is not as its records"
    )
    check = parser.parse_args(arguments).check
    stale = 0
    for name in PAGES:
        page = ROOT / name
        before = page.read_text()
        after = filled(before, records=ROOT / "bench" / "results", page=name)
        if after != before:
            stale += 1
            print(f"{name} does not say what its records say" if check else f"{name}: written")
            if not check:
                page.write_text(after)
    return int(bool(stale) and check)


if __name__ == "__main__":
    sys.exit(main())
