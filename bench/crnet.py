"""CRnet-CB and CRnet-CIB under every compression strategy: size, cost and accuracy (Tables 4-1 to 4-8).

Claim: `models.crnet_cb` and `models.crnet_cib` have the tables' parameters and FLOPs to every printed digit;
and for the same size the CR module's strategy keeps more accuracy than the others.

    python -m budgetloader.bench.crnet --counts              # beside the tables'; 1 on a mismatch
    python -m budgetloader.bench.crnet --data path/to/cifar-10-batches-py --device cuda  # 160 epochs, all 24 networks
    python -m budgetloader.bench.crnet --data … --networks cb --shapes 4,2,0.5 --settings R1_0.618 short:R1_0.618
    python -m budgetloader.bench.crnet --quick               # scikit-learn's digits, four strategies, 2 cores, minutes

The networks train interleaved, epoch by epoch. With more settings than "full", each network also trains
with those schedules and baselines, and their time is compared with its own full training.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from budgetloader.bench import job
from budgetloader.bench.console import guarded
from budgetloader.bench.dissertation import COMPRESSED, Compressed
from budgetloader.bench.grid import Grid
from budgetloader.bench.options import Options, options_of, parser
from budgetloader.bench.settings import Cell
from budgetloader.bench.settings import cells as cells_of
from budgetloader.errors import ScheduleError

NETWORKS = {"cb": "CRnet-CB", "cib": "CRnet-CIB"}
IMAGE = (3, 32, 32)
PRESETS: dict[str, dict[str, Any]] = {
    "cifar": {
        "epochs": 160,
        "batch_size": 256,
        "image_size": 32,
        "images": 50_000,
        "learning_rate": 0.1,
        "seeds": 1,
        "torch_threads": 0,
        "extra_rounds": 0,
        "boundary": "off",
        "networks": ["cb", "cib"],
        "shapes": ["4,2,0.5", "6,2,0.5", "4,4,0.25"],
    },
    "quick": {
        "epochs": 8,
        "batch_size": 48,
        "image_size": 16,
        "images": 1440,
        "learning_rate": 0.05,
        "seeds": 1,
        "torch_threads": 1,
        "extra_rounds": 0,
        "boundary": "off",
        "networks": ["cb"],
        "shapes": ["4,4,0.25"],
    },
}


def parse(arguments: Sequence[str] | None = None) -> tuple[Options, str, str]:
    """The options of a command line, "fresh" or "resume", and "train" or "count"."""
    command_line = parser(
        "budgetloader.bench.crnet", __doc__ or "", presets=PRESETS, preset="cifar", settings=("full",)
    )
    add = command_line.add_argument
    add("--networks", nargs="+", choices=sorted(NETWORKS), help="(preset)")
    add("--shapes", nargs="+", metavar="E,G,A", help="expansion, groups, alpha of the tables' blocks (preset)")
    add("--strategies", nargs="+", metavar="X-Y", help="of the tables; none: all four")
    add("--quick", action="store_const", const="quick", dest="preset", help="--preset quick")
    add("--counts", action="store_true", help="only print parameters and FLOPs, and check them")
    given = vars(command_line.parse_args(arguments))
    mode = "count" if given.pop("counts") else "train"
    options, how = options_of(given, presets=PRESETS)
    if mode == "train" and options.preset == "cifar" and not options.data:
        raise ScheduleError("give --data, the folder with CIFAR's unpacked pickles in it, or --quick without it")
    return options, how, mode


def chosen(options: Options, *, classes: int) -> list[Compressed]:
    """The tables' rows that were asked for, one per network."""
    shapes = []
    for text in options.extra["shapes"]:
        try:
            expansion, groups, alpha = text.split(",")
            shapes.append((int(expansion), int(groups), float(alpha)))
        except ValueError:
            raise ScheduleError(f"--shapes {text!r} is not EXPANSION,GROUPS,ALPHA, such as 4,2,0.5") from None
    names = [NETWORKS[n] for n in options.extra["networks"]]
    strategies = options.extra["strategies"]
    printed_classes = 100 if classes == 100 else 10
    printed_batch = 64 if options.batch_size == 64 else 256
    rows = [
        row
        for row in COMPRESSED
        if row.network in names
        and (row.classes, row.batch_size) == (printed_classes, printed_batch)
        and (row.expansion, row.groups, row.alpha) in shapes
        and (not strategies or row.strategy in strategies)
    ]
    if not rows:
        raise ScheduleError("the tables have no such network; see --shapes and --strategies in --help")
    return rows


def build(row: Compressed, classes: int) -> Any:
    """A table's network."""
    from budgetloader.models import crnet_cb, crnet_cib

    make = crnet_cb if row.network == "CRnet-CB" else crnet_cib
    return make(classes=classes, expansion=row.expansion, groups=row.groups, alpha=row.alpha, strategy=row.strategy)


def counts(console: Console) -> int:
    """Print parameters and FLOPs beside the tables'; the exit status is 1 if one differs."""
    from budgetloader.models import count

    view = Table(title="parameters and FLOPs, millions: ours and the tables'")
    for name in (
        "tables",
        "network",
        "classes",
        "exp",
        "g",
        "α",
        "strategy",
        "parameters",
        "printed",
        "FLOPs",
        "printed",
    ):
        view.add_column(name, no_wrap=True, justify="left" if name in ("network", "strategy") else "right")
    wrong = 0
    for row in COMPRESSED:
        if row.batch_size != 256:  # the same networks as in the table for 256
            continue
        counted = count(build(row, row.classes), IMAGE)
        parameters, flops = f"{counted.parameters / 1e6:.2f}", f"{counted.flops / 1e6:.2f}"
        same = (parameters, flops) == (row.parameters, row.flops)
        wrong += not same
        view.add_row(
            f"4-{row.table}, 4-{row.table + 1}",
            row.network,
            *(str(v) for v in (row.classes, row.expansion, row.groups, row.alpha)),
            row.strategy,
            *(parameters, row.parameters, flops, row.flops),
            style=None if same else "bold red",
        )
    console.print(view)
    console.print(f"{wrong} of 48 differ" if wrong else "all 48 agree")
    return int(wrong > 0)


def cells(options: Options, rows: Sequence[Compressed], samples: int) -> list[Cell]:
    """Each network with each setting; compared with the same network's full training."""
    shape = {"epochs": options.epochs, "samples": samples, "batch_size": options.batch_size}
    found = []
    for row in rows:
        network: Callable[[int], Any] = functools.partial(build, row)
        group = label(row)
        found += [
            dataclasses.replace(cell, name=f"{group} {cell.name}", group=group)
            for cell in cells_of(options.settings, network=network, **shape)
        ]
    return found


def label(row: Compressed) -> str:
    return f"{row.network} {row.expansion}/{row.groups}/{row.alpha:g} {row.strategy}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench; the exit status is 0, 1 for bad input or a mismatch, 130 where it was interrupted."""
    return guarded(functools.partial(_main, list(sys.argv[1:] if arguments is None else arguments)))


def _main(arguments: Sequence[str], console: Console) -> int:
    options, how, mode = parse(arguments)
    if mode == "count":
        return counts(console)
    from budgetloader.bench import page
    from budgetloader.bench.record import command, write_csv, write_json
    from budgetloader.models import CRNET

    chosen(options, classes=10)  # a wrong choice is said before data are made ready
    record, interrupted = job.run(
        options,
        console,
        how=how,
        recipe=CRNET,
        cells_of=lambda data: cells(options, chosen(options, classes=data.classes), len(data.train)),
        builtin="digits",
    )
    out = Path(options.out)
    if record["settings"]:
        record["command"] = command("budgetloader.bench.crnet", arguments)
        write_json(out / "results.json", record)
        write_csv(out / "results.csv", record["settings"])
        grid = _accuracies(record, chosen(options, classes=record["classes"]), options)
        console.print(grid.rich())
        page.write(
            out / "report.html",
            title=f"CRnet on {record['options']['data']}",
            claim="For the same size, the CR module's strategy keeps more accuracy than the others.",
            command=record["command"],
            environment=record["environment"],
            parts=[grid],
        )
        console.print(f"report.html, results.json and results.csv: {out}", soft_wrap=True)
    return job.finish(options, console, interrupted=interrupted)


def _accuracies(record: dict[str, Any], rows: Sequence[Compressed], options: Options) -> Grid:
    from budgetloader.bench.report import SUBSTITUTE, percent, ratio
    from budgetloader.models import count

    data, printed = record["options"]["data"], record["data_set"] == f"CIFAR-{rows[0].classes}"
    cells = []
    by_label = {label(row): row for row in rows}
    for result in record["settings"]:
        row = by_label[result["group"]]
        counted = count(build(row, record["classes"]), (3, options.image_size, options.image_size))
        setting = result["setting"].removeprefix(row_label := result["group"]).strip()
        cells.append(
            (
                row_label,
                row.rule,
                setting,
                f"{counted.parameters / 1e6:.2f}",
                f"{counted.flops / 1e6:.2f}",
                f"{row.top1:.2f}" if printed and setting == "full" else "—",
                percent(result["top1"], result["top1_half_width"]),
                "1" if setting == "full" else ratio(result),
                f"{result['images_per_second']:,.0f}",
            )
        )
    names = ("network", "rule", "setting", "parameters M", "FLOPs M", "printed top-1 %", "top-1 %", "time", "images/s")
    title = f"{data}, {options.epochs} epochs, batches of {options.batch_size}"
    note = "Printed: Tables 4-1 to 4-8." if printed else SUBSTITUTE
    return Grid(title, names, cells, note + " Time: a share of the same network's full training.")


if __name__ == "__main__":
    sys.exit(main())
