"""Does a fresh random fraction earn its place? Arms of equal budget, many seeds, statistics that were fixed before.

    python -m budgetloader.bench.evidence                     # train what is left of the record, from where it stands
    python -m budgetloader.bench.evidence --shard 2/4         # the same, the second of four machines' part
    python -m budgetloader.bench.evidence --repeat main/flat@0.1/seed3    # train a run again and compare its weights
    python -m budgetloader.bench.evidence --status
    python -m budgetloader.bench.evidence --publish           # put the rows into bench/results, and write the page anew
    python -m budgetloader.bench.evidence --check             # exit status 1 if the page is not what the record says

Several processes may work on one folder: each takes the next run that nobody has. Killed, they lose the run under way,
and the same command goes on. What is compared, and how, is in docs/evidence.md.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import itertools
import json
import os
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from budgetloader import Dataset
from budgetloader.bench import console as terminals
from budgetloader.bench.record import cpu_name, revision
from budgetloader.bench.study import arms, page, record, sets, statistics, tasks
from budgetloader.bench.study.recipes import RS2, STUDIES, Arm, Study
from budgetloader.bench.study.run import Files, Run, train
from budgetloader.doctor import version
from budgetloader.errors import LoaderError

ROOT = Path(__file__).resolve().parent.parent
_SOURCES = ("bench/study/run.py", "bench/study/networks.py", "models/resnet.py")
_INFOBATCH = "bench/study/infobatch.py"
_NO_NUMBERS = ("name", "title", "arms", "printed", "pilot_seeds", "first_seed", "least_seeds", "most_seeds", "factors")
_WAIT_SECONDS = 2.0


def fingerprint(study: Study, arm: Arm, *, samples: int) -> str:
    """Tells apart what trains an arm: the recipe's numbers, its batches and learning rates, and the sources of runs.

    Args:
        samples: of a seed's training set.

    Returns:
        12 hex digits.
    """
    numbers = {field.name: getattr(study, field.name) for field in fields(study) if field.name not in _NO_NUMBERS}
    usual = {field.name: field.default for field in fields(study)}
    said = {name: value for name, value in numbers.items() if value != usual[name]}  # the same when fields are added
    total = arms.steps(arm, study, samples=samples)
    batches: Sequence[int] = [total]
    if arm.plan != "infobatch":
        batches = arms.schedule(arm, study, samples=samples).budget(samples, batch_size=study.batch_size).batches
    places = [arms.progress(arm, batches, epoch=e, step=s) for e, steps in enumerate(batches) for s in range(steps)]
    rates = [arms.learning_rate(arm, study, factor=1.0, at=place) for place in places]
    text = json.dumps([said, arm.plan, arm.sampling, total, batches, rates], sort_keys=True)
    found = hashlib.sha256(text.encode())
    for name in (*_SOURCES, *([_INFOBATCH] if arm.plan == "infobatch" else [])):
        found.update((ROOT / name).read_bytes())
    return found.hexdigest()[:12]


class Worker:
    """Trains what is left of a study.

    Args:
        study: what is compared.
        files: its set.
        tuning: what the pilot is measured on; None: on the images that its seeds hold out.
        out: the folder of the record and the claims.
        committed: the record in the repository, whose rows need not be trained again.
        shard: (i, n): the i-th of n machines' part, from 1.
        device: where to train.
    """

    def __init__(
        self,
        study: Study,
        files: Files,
        *,
        out: Path,
        committed: Path,
        tuning: Dataset | None = None,
        shard: tuple[int, int] = (1, 1),
        device: str = "cpu",
    ) -> None:
        self._tuning = tuning
        self.study, self._files, self._out, self._committed = study, files, out, committed
        self._shard, self._device = shard, device
        samples = len(files.train) - study.held_out
        self._fingerprints = {arm.name: fingerprint(study, arm, samples=samples) for arm in study.arms}
        self._facts = {
            "revision": revision(),
            "data": files.train.fingerprint,
            "cpu": cpu_name(),
            "torch": version("torch"),
            "numpy": version("numpy"),
        }

    def rows(self) -> dict[str, record.Row]:
        """What is known by now."""
        return {**record.read(self._committed), **record.read(self._out / "record.jsonl")}

    def row(self, run: Run) -> record.Row:
        """Train a run."""
        arm, study = run.arm, run.study
        if run.phase == "pilot" and self._tuning is not None:
            found = train(replace(run, phase="tuning"), Files(self._files.train, self._tuning), device=self._device)
        else:
            found = train(run, self._files, device=self._device)
        return {
            "name": run.name,
            "recipe": study.name,
            "phase": run.phase,
            "arm": arm.name,
            "seed": run.seed,
            "factor": run.factor,
            **found,
            "fingerprint": self._fingerprints[arm.name],
            **self._facts,
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "command": f"python -m budgetloader.bench.evidence --recipe {study.name} --repeat {run.name}",
        }

    def work(self, console: Console, *, most: int | None = None) -> int:
        """Train until nothing is left, or `most` runs; how many were trained."""
        done = 0
        while most is None or done < most:
            rows = self.rows()
            mine = [run for run in tasks.ready(self.study, rows) if self._is_mine(run)]
            if not mine:
                break
            trained = self._next(mine)
            if trained is None:  # other processes have them all: what follows may need theirs
                time.sleep(_WAIT_SECONDS)
                continue
            done += 1
            count = len(rows) + 1
            console.print(
                f"{count}/{tasks.total(self.study, rows)} {trained['name']}: {trained['accuracy']:.2f} %, "
                f"{trained['train_seconds']:.0f} s ({trained['cpu_seconds']:.0f} s of the processor)",
                soft_wrap=True,
            )
        return done

    def _is_mine(self, run: Run) -> bool:
        part, parts = self._shard
        return zlib.crc32(run.name.encode()) % parts == part - 1

    def _next(self, runs: Sequence[Run]) -> record.Row | None:
        """Train the first run that no other process has; None if there is none."""
        for run in runs:
            with record.claimed(self._out / "claims", run.name) as free:
                if free and run.name not in self.rows():
                    row = self.row(run)
                    record.append(self._out / "record.jsonl", row)
                    return row
        return None


def repeat(worker: Worker, name: str, console: Console) -> int:
    """Train a run again; the exit status is 1 if it differs from the record's."""
    rows = worker.rows()
    run = tasks.named(worker.study, name, rows)
    row, before = worker.row(run), rows.get(name)
    console.print_json(json.dumps(row))
    if before is None:
        console.print("the record does not have it")
        return 0
    if row["weights"] == before["weights"]:
        console.print(f"the same weights as in the record: {row['weights']}")
        return 0
    other = "" if row["cpu"] == before["cpu"] else f" (the record's are of another processor, {before['cpu']})"
    console.print(f"other weights than in the record: {row['weights']}, and there {before['weights']}{other}")
    return 1


def status(study: Study, rows: Mapping[str, record.Row]) -> list[str]:
    """Lines that say how far a record is."""
    pilot = [run.name in rows for run in tasks.pilot(study)]
    lines = [f"{study.title}: {len(rows)} of {tasks.total(study, rows)} runs; pilot {sum(pilot)} of {len(pilot)}"]
    for group in tasks.groups(study):
        seeds = tasks.seeds(study, group[0].budget, rows) or ()
        done = sum(f"main/{arm.name}/seed{seed}" in rows for arm in group for seed in seeds)
        kinds = ", ".join(arm.kind for arm in group)
        of = str(len(seeds) * len(group)) if seeds else "as many as the pilot will say"
        lines.append(f"{group[0].budget}: {done} of {of} main runs ({kinds})")
    seconds = sum(row["cpu_seconds"] for row in rows.values())
    lines.append(f"{seconds / 3600:.2f} hours of one core so far")
    for found in statistics.contrasts(rows, statistics.primary_pairs(study)):
        lines.append(
            f"{found.first} − {found.second}: {found.mean:+.2f} ± {found.half_width:.2f} points "
            f"({len(found.differences)} seeds)"
        )
    return lines


def _shard(text: str) -> tuple[int, int]:
    part, slash, parts = text.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r} is no part such as 1/2, the first of two")
    return int(part), int(parts)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m budgetloader.bench.evidence", description=(__doc__ or "").split("\n\n")[0]
    )
    add = parser.add_argument
    add("--recipe", choices=[*STUDIES, "rs2"], default="fashion", help="what is trained and compared")
    add("--data", type=Path, help="where the images are, or for glyphs the fonts; none: what Debian has")
    add("--out", type=Path, help="folder of the record; none: runs/evidence/RECIPE")
    add("--shard", type=_shard, default=(1, 1), metavar="I/N", help="train the I-th of N parts, for several machines")
    add("--runs", type=int, help="train so many runs, and stop")
    add("--device", default="cpu", help="where to train")
    add("--repeat", metavar="RUN", help="train one run of the record again, and compare its weights")
    add("--merge", type=Path, nargs="+", metavar="RECORD", help="add other machines' record.jsonl to this one's")
    add("--status", action="store_true", help="say how far the record is")
    add("--publish", action="store_true", help="put the rows into bench/results, and write the page anew")
    add("--check", action="store_true", help="exit status 1 if a figure of the page is not the record's")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, show or check a study; the exit status."""
    options = _parser().parse_args(arguments)

    def bench(console: Console) -> int:
        return _run(options, console)

    return terminals.guarded(bench, interrupted="the run under way is lost, and the same command goes on")


def _study(options: Any) -> Study:
    """The study that is meant; of "rs2" the one whose classes the data have."""
    if options.recipe != "rs2":
        return STUDIES[options.recipe]
    if options.data is None:
        raise LoaderError(f"--recipe rs2 needs --data, or one of {', '.join(study.name for study in RS2.values())}")
    found = sets.classes(options.data)
    if found not in RS2:
        raise LoaderError(f"{options.data} has {found} classes; RS2's protocol is for {', '.join(map(str, RS2))}")
    return RS2[found]


def _run(options: Any, console: Console) -> int:
    study = _study(options)
    out = options.out or ROOT / "runs" / "evidence" / study.name
    committed = page.record_path(ROOT, study.name)
    if options.check:
        wrong = page.check(ROOT)
        console.print("\n".join(wrong) or "pages, pictures and records agree", soft_wrap=True, markup=False)
        return int(bool(wrong))
    if options.merge:
        console.print(f"{record.merge(out / 'record.jsonl', options.merge)} rows", soft_wrap=True)
        return 0
    if options.publish:
        count = record.merge(committed, [out / "record.jsonl"])
        console.print("\n".join([f"{committed.name}: {count} rows", *page.write(ROOT)]), soft_wrap=True)
        return 0
    if options.status:
        rows = {**record.read(committed), **record.read(out / "record.jsonl")}
        console.print("\n".join(status(study, rows)), soft_wrap=True)
        return 0
    files = sets.files(study.name, options.data, folder=out / "data", console=console)
    worker = Worker(
        study,
        files,
        tuning=sets.tuning(study.name, options.data, folder=out / "data", console=console),
        out=out,
        committed=committed,
        shard=options.shard,
        device=options.device,
    )
    if options.device != "cpu":  # the same weights again, as far as the device's libraries allow
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
    if options.repeat:
        return repeat(worker, options.repeat, console)
    worker.work(console, most=options.runs)
    rows = worker.rows()
    left = [run.name for run in itertools.islice(tasks.ready(study, rows), 1)]
    if left and options.runs is None:
        console.print(f"this part is done; others are left, such as {left[0]}: --merge their records", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
