"""Feeds malformed input to all code that reads files or messages: no crash, no hang, no large allocation.

    python -m budgetloader.bench.fuzz --seconds 600 --out runs/fuzz              # each kind, one after the other
    python -m budgetloader.bench.fuzz jpeg wire --seconds 60

Each kind runs in a process of its own, whose memory is limited and whose compiled code checks its array bounds. A
case is a pure function of (kind, seed, number): `--only NUMBER` runs it again.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from budgetloader.bench.child import once
from budgetloader.bench.fuzz_cases import KINDS, Kind
from budgetloader.bench.record import environment, write_json

_ROOM_BYTES = 2 << 30  # that a kind may allocate beyond its process's memory at the start
_SLOW_SECONDS = 5.0  # of processor time that a case may take
_HANG_SECONDS = 60.0  # of processor time without a case finished
_COMPILE_SECONDS = 240.0  # more of it before the first


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m budgetloader.bench.fuzz", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("kinds", nargs="*", default=list(KINDS), help=f"some of {', '.join(KINDS)}")
    parser.add_argument("--seconds", type=float, default=600.0, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="run this case of each kind, and no other")
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"))
    options = parser.parse_args()
    unknown = set(options.kinds) - set(KINDS)
    if unknown:
        parser.error(f"{', '.join(unknown)}: give some of {', '.join(KINDS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    results = [_run(kind, options) for kind in options.kinds]
    write_json(options.out / "fuzz.json", {"environment": environment(), "kinds": results})
    for result in results:
        print(
            f"{result['kind']}: {result['cases']:,} cases in {result['seconds']:.0f} s, "
            f"{result['accepted']:,} accepted, "
            f"{result['refused']:,} refused, {result['failure'] or 'no failure'}"
        )
    return 1 if any(result["failure"] for result in results) else 0


def _run(kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """One kind in a process of its own, watched."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, open(Path(folder) / "errors", "w+") as errors:
        progress = Path(folder) / "progress"
        job = {"kind": kind, "seconds": options.seconds, "seed": options.seed, "folder": folder, "only": options.only}
        command = once("budgetloader.bench.fuzz:feed", **job)
        variables = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(Path(folder) / "numba")}
        process = subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL, stderr=errors)
        seen, since, failure = "", _COMPILE_SECONDS, ""
        while process.poll() is None:
            now = progress.read_text() if progress.exists() else ""
            if now != seen:
                seen, since = now, _processor_seconds(process.pid)
            if _processor_seconds(process.pid) - since > _HANG_SECONDS:
                process.kill()
                failure = "hang"
            time.sleep(0.2)
        result: dict[str, Any] = {
            "kind": kind,
            "cases": 0,
            "seconds": 0.0,
            "accepted": 0,
            "refused": 0,
            "failure": failure,
        }
        if progress.exists():
            result.update(json.loads(progress.read_text()))
        if process.returncode and not failure:
            errors.seek(0)
            last = (errors.read().strip().splitlines() or [""])[-1]
            result["failure"] = f"case {result['cases']}: status {process.returncode}: {last[:300]}"
        return result


def _processor_seconds(pid: int) -> float:
    """A process's seconds of processor time; 0 once it has ended. On a busy machine one may take minutes."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def feed(kind: str, seconds: float, seed: int, folder: str, only: int | None) -> int:
    """Run one kind's cases, in a process of its own."""
    corpus: Kind = KINDS[kind](Path(folder))
    for number in range(50):  # imports, compilation and caches do not count
        corpus.run(seed, number)
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + _ROOM_BYTES,) * 2)
    counts = {"accepted": 0, "refused": 0, "corpus": corpus.size, "longest_seconds": 0.0}
    began = told = time.monotonic()
    number = only or 0
    while time.monotonic() < began + seconds:
        started = time.process_time()
        try:
            accepted = corpus.run(seed, number)
        except BaseException as error:
            _tell(folder, number, began, counts)
            raise SystemExit(f"{type(error).__name__}: {error}") from error
        took = time.process_time() - started
        counts["longest_seconds"] = max(counts["longest_seconds"], took)
        counts["accepted" if accepted else "refused"] += 1
        if took > _SLOW_SECONDS:
            _tell(folder, number, began, counts)
            raise SystemExit(f"it took {took:.1f} s")
        number += 1
        if only is not None:
            break
        if time.monotonic() - told > 1:
            told = time.monotonic()
            _tell(folder, number, began, counts)
    _tell(folder, number, began, counts)
    return 0


def _tell(folder: str, number: int, began: float, counts: dict[str, Any]) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    text = json.dumps({"cases": number, "seconds": time.monotonic() - began, "peak_rss_bytes": peak, **counts})
    partial = Path(folder) / "progress.partial"
    partial.write_text(text)
    partial.replace(Path(folder) / "progress")


if __name__ == "__main__":
    sys.exit(main())
