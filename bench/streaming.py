"""What a budget costs from object storage: bytes and seconds of an epoch, beside LitData and Mosaic streaming.

Claim: where a loader knows the budget, and reads samples and not shards, an epoch of α = 0.618 fetches a fraction of
the bytes that shards and `break` do, and takes no longer.

    python -m budgetloader.bench.streaming

How it is measured: the same JPEGs, as a `.beton` and in each peer's own format, on a real S3 server (JuiceFS's
gateway) on this machine. Each contender has a process of its own, an empty cache of half the set, and the machine
to itself; it runs some epochs, and leaves each with `break` after ⌊α·M⌋ batches (ours: by its schedule). A proxy before
the store counts what it sends. Images are decoded, cropped at random to the same size (linear) and flipped, as uint8.
The peers are measured with several sizes of shards; the best of them is what ours is compared with. Peers that are not
installed are left out, and named.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budgetloader.bench.entry import generated, parser_of
from budgetloader.bench.grid import Grid

if TYPE_CHECKING:
    from rich.console import Console

    from budgetloader.bench.counted import Counted

PEERS = {"litdata": "litdata", "mosaic": "streaming"}  # and the module that each needs
OURS = {"windows": "byte ranges of windows, no cache", "samples": "samples, cache", "blocks": "blocks, cache"}
_MB = 1_000_000
_ATTEMPTS = 2  # of a peer, of which some end with an error of its own


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = parser_of("streaming", __doc__)
    parser.add_argument("--images", type=int, default=1536, help="JPEGs to generate")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--ratio", default="0.618")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds, at the proxy")
    parser.add_argument("--blocks", default="blocks:32/512", help="the order by blocks that is measured")
    parser.add_argument("--shards", type=float, nargs="+", default=[1, 4, 12], help="sizes of the peers' shards, MB")
    parser.add_argument("--add", action="store_true", help="to the rows of an earlier run in --out, of the same set")
    parser.add_argument("--patience", type=float, default=90.0, help="seconds after which a contender is given up")
    parser.add_argument("--contenders", nargs="+", choices=(*OURS, *PEERS), default=[*OURS, *PEERS])
    parser.add_argument("--out", default="runs/streaming")
    options = parser.parse_args(arguments)
    from budgetloader.bench.console import guarded

    return guarded(functools.partial(_main, options, arguments), interrupted="nothing was recorded")


def _main(options: argparse.Namespace, arguments: list[str], console: Console) -> int:
    from budgetloader.bench import page
    from budgetloader.bench.counted import counted
    from budgetloader.bench.record import command, environment
    from budgetloader.bench.stores import free_port, serve_s3

    out = Path(options.out)
    local = generated(out / "data", images=options.images, console=console)
    missing = [name for name in options.contenders if name in PEERS and importlib.util.find_spec(PEERS[name]) is None]
    for name in missing:
        console.print(f"{name} is not installed, and left out")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        s3 = stack.enter_context(serve_s3(folder))
        proxy = stack.enter_context(counted(s3.port, own=free_port(), seconds=options.latency))
        os.environ.update(s3.environment(proxy.port))
        bench = _Bench(options, s3, local, folder, proxy, console)
        rows = [row for name in options.contenders if name not in missing for row in bench.rows(name)]
    given_up, said = bench.given_up, command("budgetloader.bench.streaming", arguments)
    if options.add and (out / "results.json").exists():
        earlier = json.loads((out / "results.json").read_text())
        rows, given_up = _added(earlier, rows, given_up)
        said = f"{earlier['command']}; {said}"
    results: dict[str, Any] = {
        "environment": environment(),
        "command": said,
        "options": {**vars(options), "out": None},
        "set_bytes": bench.set_bytes,
        "missing": missing,
        "given_up": given_up,
        "rows": rows,
        "compared": compared(rows),
    }
    page.publish(
        results,
        out,
        console,
        title="A budget from object storage",
        claim="An epoch of a budget fetches a fraction of what shards and `break` do, and takes no longer.",
        parts=[grid(results)],
    )
    return 0


def _added(
    earlier: dict[str, Any], rows: list[dict[str, Any]], given_up: list[str]
) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of an earlier run with these, which take the place of those of the same name."""
    found = {row["name"]: row for row in (*earlier["rows"], *rows)}
    ours_first = sorted(found.values(), key=lambda row: "peer" in row)
    return ours_first, sorted({*earlier["given_up"], *given_up} - set(found))


class _Bench:
    """What every contender is measured with."""

    def __init__(
        self, options: argparse.Namespace, s3: Any, local: Path, folder: Path, proxy: Counted, console: Console
    ) -> None:
        from budgetloader.dataset import Dataset

        self._options, self._s3, self._local, self._folder, self._proxy = options, s3, local, folder, proxy
        self._console = console
        self.given_up: list[str] = []
        sizes = Dataset(local).sizes
        self.samples, self.set_bytes = len(sizes), int(sizes.sum())
        self._address = s3.put("ours/train.beton", local.read_bytes())

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The measurements of a contender."""
        measured = [self._ours(name)] if name in OURS else [self._peer(name, size) for size in self._options.shards]
        found = [row for row in measured if row is not None]
        for row in found:
            self._console.print(
                f"{row['name']}: {row['bytes_per_epoch'] / self.set_bytes:.3f} of the set an epoch, "
                f"{row['epoch_seconds']:.2f} s"
            )
        return found

    def _ours(self, kind: str) -> dict[str, Any]:
        options = self._options
        arguments = {"address": self._address, "local": str(self._local), "epochs": options.epochs}
        arguments |= {"kind": options.blocks if kind == "blocks" else kind, "ratio": options.ratio, **self._shape()}
        return self._measured("ours", f"ours: {OURS[kind]}", arguments)

    def _peer(self, name: str, megabytes: float) -> dict[str, Any] | None:
        """A peer's row, or None where no attempt came to its end."""
        from budgetloader.bench.child import once
        from budgetloader.bench.streaming_peers import files_of

        out = self._folder / f"{name}-{megabytes:g}"
        written = {"beton": str(self._local.resolve()), "out": str(out), "shard_bytes": int(megabytes * _MB)}
        command = once(f"budgetloader.bench.streaming_peers:write_{name}", **written)
        done = subprocess.run(command, cwd=self._folder, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{name} could not write its shards: {done.stderr[-2000:]}")
        for path in files_of(str(out)):
            self._s3.put(f"{out.name}/{path.relative_to(out)}", path.read_bytes())
        arguments = {"address": f"s3://{self._s3.bucket}/{out.name}", "ratio": float(self._options.ratio)}
        arguments |= {"samples": self.samples, "endpoint": f"http://127.0.0.1:{self._proxy.port}"}
        title = f"{name}, shards of {megabytes:g} MB"
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                workers = {"workers": 2 if attempt < _ATTEMPTS else 0}  # without, nothing can be ended in mid-download
                row = self._measured(f"{name}_epochs", title, {**arguments, **workers, **self._shape()})
            except RuntimeError as error:  # a cache that is too small, with `break`, is not what it is tested with
                self._console.print(f"{title}: attempt {attempt} of {_ATTEMPTS}: {error}")
            else:
                return {**row, **workers, "peer": name, "shard_megabytes": megabytes, "attempts": attempt}
        self.given_up.append(title)
        return None

    def _shape(self) -> dict[str, Any]:
        cache = Path(tempfile.mkdtemp(dir=self._folder))
        return {
            "batch_size": self._options.batch_size,
            "image_size": self._options.image_size,
            "cache": {"cache": str(cache), "cache_bytes": self.set_bytes / 2},
        }

    def _measured(self, make: str, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        from budgetloader.bench.child import Child

        home = {"XDG_CACHE_HOME": tempfile.mkdtemp(dir=self._folder)}
        made = f"budgetloader.bench.streaming_peers:{make}"
        before, turns, fetched = self._proxy.bytes(), [], []
        with Child(made, name=name, arguments=arguments, environment=home) as child:
            late = threading.Timer(self._options.patience, child.kill)
            late.start()
            try:
                for _ in range(self._options.epochs):
                    turns.append(child.ask())
                    fetched.append(self._proxy.bytes() - before)
            finally:
                late.cancel()
        total = self._proxy.bytes() - before  # with what was under way when the last epoch was left
        full = -(-self.samples // self._options.batch_size)
        wanted = int(float(self._options.ratio) * full) * self._options.batch_size
        assert all(turn["samples"] == wanted for turn in turns), [turn["samples"] for turn in turns]
        return {
            "name": name,
            "bytes_per_epoch": total / self._options.epochs,
            "bytes_by_epoch": _differences(fetched),
            "samples_per_epoch": wanted,
            "epoch_seconds": statistics.mean(turn["seconds"] for turn in turns),
            "seconds": [turn["seconds"] for turn in turns],
        }


def _differences(values: list[int]) -> list[int]:
    """What came between neighbours, and before the first."""
    return [b - a for a, b in zip([0, *values], values, strict=False)]


def compared(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Ours over the best of the peers, in bytes and in seconds; {} without a peer."""
    peers = [row for row in rows if "peer" in row]
    if not peers:
        return {}
    fewest, fastest = (min(row[key] for row in peers) for key in ("bytes_per_epoch", "epoch_seconds"))
    return {
        row["name"]: {"bytes": row["bytes_per_epoch"] / fewest, "seconds": row["epoch_seconds"] / fastest}
        for row in rows
        if "peer" not in row
    }


def grid(record: dict[str, Any]) -> Grid:
    """The table of a record."""
    cells = []
    for row in record["rows"]:
        over = record["compared"].get(row["name"])
        cells.append(
            (
                row["name"],
                f"{row['bytes_per_epoch'] / _MB:,.1f}",
                f"{row['bytes_per_epoch'] / record['set_bytes']:.3f}",
                f"{row['epoch_seconds']:.2f}",
                *((f"{over['bytes']:.2f}", f"{over['seconds']:.2f}") if over else ("–", "–")),
            )
        )
    options = record["options"]
    again = [
        f"{row['name']} (attempt {row['attempts']}, {row['workers']} workers)"
        for row in record["rows"]
        if row.get("attempts", 1) > 1
    ]
    retried = f" After errors of its own, or waiting for ever: {'; '.join(again)}." if again else ""
    given_up = "; ".join(record["given_up"])
    retried += f" Given up after {_ATTEMPTS} attempts: {given_up}." if given_up else ""
    missing = f" Not installed, and left out: {', '.join(record['missing'])}." if record["missing"] else ""
    return Grid(
        f"an epoch at α = {options['ratio']} from object storage",
        ("loader", "MB", "of the set", "s", "bytes × the fewest of the peers", "seconds × the fastest of the peers"),
        cells,
        f"Means of {options['epochs']} epochs of {record['rows'][0]['samples_per_epoch']} samples, the first with an "
        f"empty cache; the set has {record['set_bytes'] / _MB:,.1f} MB, a cache half of it; "
        f"{1000 * options['latency']:.0f} ms of latency are added at the proxy.{retried}{missing}",
    )


if __name__ == "__main__":
    sys.exit(main())
