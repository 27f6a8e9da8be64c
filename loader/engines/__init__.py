"""Engines by name, and what an engine of your own is made of.

An engine's own packages are imported when it is made. An engine of your own is a class that takes a `Job`, or a
function that makes an engine of one; it is given to a loader as ``BudgetLoader(…, engine=MyEngine)``::

    from budgetloader.engines import Batch, BatchPlan, DirectEngine, Job

    class MyEngine(DirectEngine):
        def __init__(self, job: Job) -> None:
            super().__init__(capacity=job.capacity)
            self.job = job

        def make(self, plan: BatchPlan) -> Batch:
            images = my_images(plan.samples, plan.windows, plan.flips, self.job.output)  # [n, channels, h, w]
            return Batch(images, torch.from_numpy(plan.labels), plan)

`DirectEngine` makes a batch when the trainer takes it. An engine that works ahead has the methods of `Engine`;
`BaseEngine` does its bookkeeping, and `Work` counts what it does. `Output` says what a batch looks like. With
on_corrupt="replace", `stand_ins` gives the samples to try in place of one that does not decode.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budgetloader.arguments import check_choice
from budgetloader.errors import ArgumentError, EngineError

if TYPE_CHECKING:
    import torch

    from budgetloader.batch import Batch
    from budgetloader.engines.base import BaseEngine, Engine, Job, Output, Work, stand_ins
    from budgetloader.engines.base_direct import DirectEngine
    from budgetloader.plans import BatchPlan

__all__ = [
    "NAMES",
    "BaseEngine",
    "Batch",
    "BatchPlan",
    "DirectEngine",
    "Engine",
    "Job",
    "Output",
    "Work",
    "check_device",
    "choose",
    "create",
    "installed",
    "package",
    "resolve",
    "stand_ins",
]
_HOMES = {
    "BaseEngine": "engines.base",
    "Batch": "batch",
    "BatchPlan": "plans",
    "DirectEngine": "engines.base_direct",
    "Engine": "engines.base",
    "Job": "engines.base",
    "Output": "engines.base",
    "Work": "engines.base",
    "stand_ins": "engines.base",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"budgetloader.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'budgetloader.engines' has no attribute {name!r}")


@dataclass(frozen=True)
class _Entry:
    module: str
    cls: str
    packages: tuple[str, ...]
    install: str


_NATIVE = ("simplejpeg", "numba", "torch")
_ENGINES = {
    "native": _Entry("native", "NativeEngine", _NATIVE, "budgetloader"),
    "dali": _Entry("dali", "DALIEngine", ("nvidia.dali",), "'budgetloader[dali]'"),
    "ffcv": _Entry("ffcv", "FFCVEngine", ("ffcv",), "'budgetloader[ffcv]'"),
    "resident": _Entry("resident", "ResidentEngine", _NATIVE, "budgetloader"),
    "synthetic": _Entry("synthetic", "SyntheticEngine", ("torch",), "budgetloader"),
}
NAMES = ("auto", *_ENGINES)


def installed(name: str) -> bool:
    """Whether the packages that engine `name` needs are installed (nothing is imported)."""
    return all(_is_there(package) for package in _ENGINES[name].packages)


def package(name: str) -> str:
    """What to give `pip install` for engine `name`, as it stands in a shell."""
    return _ENGINES[name].install


def choose(*, output: Output, dataset: Any = None) -> tuple[str, str]:
    """The engine that "auto" stands for, and why.

    Args:
        output: what batches look like.
        dataset: of which images; None: a small one.
    """
    if output.crop == "pad":
        needed, room = (0, 1) if dataset is None else _residence(dataset, output)
        if needed <= room:
            return "resident", "small images of one size are fastest from the device's memory"
        return "native", f"in memory the images would take {needed:,} bytes, and {room:,} are to spare"
    if not output.device.startswith("cuda"):
        return "native", "it is the fastest on a CPU (see bench/results), and no other decodes for this device"
    if output.channels == 4:
        return "native", "it reads alpha; of the others, some cannot"
    if len(getattr(dataset, "raw", ())):
        return "native", "some samples are stored as pixels, which need no decoder"
    gpu, has_decoder = _jpeg_hardware(output.device)
    if not has_decoder:
        # Below a megapixel nvJPEG leaves the Huffman stage to the CPU, where most of the time goes.
        return "native", f"{gpu} is not known to decode JPEGs in hardware; threads decode, and the GPU normalises"
    if not installed("dali"):
        return "native", f"{gpu} decodes JPEGs in hardware, but DALI is not installed; pip install {package('dali')}"
    return "dali", f"{gpu} is of a kind that decodes JPEGs in hardware"


def _jpeg_hardware(device: str) -> tuple[str, bool]:
    """A GPU's name, and whether its kind has a JPEG decoder: A100, A30, Hopper, and the data centre's Blackwell."""
    import torch

    found = torch.cuda.get_device_properties(device)
    return found.name, (found.major, found.minor) == (8, 0) or found.major in (9, 10)


def _residence(dataset: Any, output: Output) -> tuple[int, int]:
    """The bytes that a dataset's images take in memory, and the most that they may take: half of the free memory."""
    import torch

    from budgetloader.engines.resident import MOST_BYTES, bytes_of

    free = [MOST_BYTES, _free_host_bytes() // 2]
    if output.device.startswith("cuda"):
        with contextlib.suppress(RuntimeError, AssertionError):  # a GPU that does not say
            free.append(torch.cuda.mem_get_info(output.device)[0] // 2)
    return bytes_of(dataset, crop=output.crop, channels=output.channels), min(free)


def _free_host_bytes() -> int:
    """Memory that is available here; a lot where the system does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 1 << 62


def resolve(name: str, *, output: Output, dataset: Any = None) -> tuple[str, str]:
    """The engine that `name` stands for ("auto": see `choose`), and why."""
    if name == "auto":
        return choose(output=output, dataset=dataset)
    return check_choice(name, NAMES, what="engine"), "it was asked for"


def check_device(device: str | torch.device) -> str:
    """The name of a device that batches can be made on; of a GPU with its number.

    "cuda" is the current GPU of the thread that calls this, as everywhere in torch: with several ranks, call
    torch.cuda.set_device(local_rank) first, or say "cuda:1". From here on it has a number, because other
    threads have a current GPU of their own.

    Raises:
        ArgumentError: torch does not know it, or this machine does not have it.
    """
    import torch

    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        raise ArgumentError(f"device {device!r} is not known; give 'cpu', 'cuda', or 'cuda:1' and so on") from None
    if found.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (found.index or 0) >= count:
            seen = f"{count} GPUs" if count else "no GPU"
            raise ArgumentError(f"device {str(found)!r}: torch sees {seen} here; give another, or 'cpu'")
        if found.index is None:
            found = torch.device("cuda", torch.cuda.current_device())
    elif found.type == "mps" and not torch.backends.mps.is_available():
        raise ArgumentError(f"device {str(found)!r}: torch sees no Apple GPU here; give another, or 'cpu'")
    return str(found)


def create(name: str, job: Job) -> Engine:
    """Make the engine `name`.

    Raises:
        EngineError: no such engine, a package that it needs is not installed, or it cannot make batches on
            the job's device.
    """
    entry = _ENGINES[name]
    kind = job.output.device.partition(":")[0]
    if name == "dali" and kind not in ("cpu", "cuda"):
        raise EngineError(f"device {job.output.device!r}: DALI makes batches on 'cpu' and 'cuda' alone; use 'native'")
    missing = [package for package in entry.packages if not _is_there(package)]
    if missing:
        raise EngineError(f"engine {name!r} needs {missing[0]}, which is not installed; pip install {entry.install}")
    module = importlib.import_module(f"budgetloader.engines.{entry.module}")
    make: Callable[[Job], Engine] = getattr(module, entry.cls)
    return make(job)


def _is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of the package's parent
        return False
