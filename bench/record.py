"""Result files: a record of machine and versions, and atomic writing."""

from __future__ import annotations

import csv
import datetime
import io
import json
import math
import os
import platform
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from budgetloader.doctor import version

_PACKAGES = (
    *("torch", "torchvision", "numpy", "numba", "simplejpeg", "opencv-python-headless", "pillow"),
    *("ffcv", "nvidia-dali-cuda130", "spdl", "ray", "tensorsocket"),
    *("obstore", "litdata", "mosaicml-streaming"),
)


def environment() -> dict[str, Any]:
    """Date, machine, versions and git revision."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": gpu,
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: found for name in _PACKAGES if (found := version(name))},
        "torch_threads": torch.get_num_threads(),
        "git": revision(),
    }


def revision() -> str | None:
    """The commit that is checked out, with "+" if the tree differs from it; None outside git."""
    root = Path(__file__).resolve().parent.parent

    def git(*command: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *command], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def cpu_name() -> str:
    """The processor as the system calls it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def write_text(path: Path, text: str) -> None:
    """Write a file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON, lists of numbers on one line; numbers that JSON has no word for (nan, inf) become null."""
    text = json.dumps(_plain(value), indent=1)
    write_text(path, _NUMBERS.sub(lambda found: re.sub(r"\s+", " ", found[0]), text) + "\n")


_NUMBERS = re.compile(r"\[[-+.\deE,\s]+\]")


def command(module: str, arguments: Sequence[str]) -> str:
    """The command as typed, without the machine's folders: of an absolute path the last name is kept."""
    shown = [Path(part).name if part.startswith("/") else part for part in arguments]
    return shlex.join(["python", "-m", module, *shown])


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows of the same keys; values that are lists or dicts are left out."""
    names = [name for name, value in rows[0].items() if not isinstance(value, (list, dict))] if rows else []
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, buffer.getvalue())


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
