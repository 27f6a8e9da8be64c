"""Engines by name. Each engine's own imports happen when it is asked for."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from budgetloader.errors import EngineError

if TYPE_CHECKING:
    import torch

    from budgetloader.engines.base import Engine, Job, Output


@dataclass(frozen=True)
class _Entry:
    module: str
    cls: str
    packages: tuple[str, ...]
    install: str


_NATIVE = ("simplejpeg", "numba", "torch")
_ENGINES = {
    "native": _Entry("native", "NativeEngine", _NATIVE, "budgetloader"),
    "dali": _Entry("dali", "DALIEngine", ("nvidia.dali",), "nvidia-dali-cuda130"),
    "ffcv": _Entry("ffcv", "FFCVEngine", ("ffcv",), "ffcv"),
    "resident": _Entry("resident", "ResidentEngine", _NATIVE, "budgetloader"),
    "synthetic": _Entry("synthetic", "SyntheticEngine", ("torch",), "budgetloader"),
}
NAMES = ("auto", *_ENGINES)


def installed(name: str) -> bool:
    """Whether the packages that engine `name` needs are there (nothing is imported)."""
    return all(_is_there(package) for package in _ENGINES[name].packages)


def package(name: str) -> str:
    """What to install for engine `name`."""
    return _ENGINES[name].install


def choose(*, output: Output) -> tuple[str, str]:
    """The engine that "auto" stands for, and why."""
    if output.crop == "pad":
        return "resident", "small images of one size are fastest from the device's memory"
    if not output.device.startswith("cuda"):
        return "native", "it is the fastest on a CPU (see bench/results), and no other decodes for this device"
    gpu, has_decoder = _jpeg_hardware(output.device)
    if not has_decoder:
        # Below a megapixel nvJPEG leaves the Huffman stage to the CPU, where most of the time goes.
        return "native", f"{gpu} is not known to decode JPEGs in hardware; threads decode, and the GPU normalises"
    if not installed("dali"):
        return "native", f"{gpu} decodes JPEGs in hardware, but DALI is not installed; pip install {package('dali')}"
    return "dali", f"{gpu} decodes JPEGs in hardware"


def _jpeg_hardware(device: str) -> tuple[str, bool]:
    """A GPU's name, and whether its kind has a JPEG decoder: A100, A30, Hopper, and the data centre's Blackwell."""
    import torch

    found = torch.cuda.get_device_properties(device)
    return found.name, (found.major, found.minor) == (8, 0) or found.major in (9, 10)


def resolve(name: str, *, output: Output) -> tuple[str, str]:
    """The engine that `name` stands for ("auto": see `choose`), and why."""
    if name == "auto":
        return choose(output=output)
    if name not in _ENGINES:
        raise EngineError(f"engine {name!r} is not known; give one of {', '.join(NAMES)}")
    return name, "it was asked for"


def check_device(device: str | torch.device) -> str:
    """The name of a device that batches can be made on; of a GPU with its number.

    "cuda" is the current GPU of the thread that calls this, as everywhere in torch: with several ranks, call
    torch.cuda.set_device(local_rank) first, or say "cuda:1". From here on it has a number, because other
    threads have a current GPU of their own.

    Raises:
        EngineError: torch does not know it, or it is not there.
    """
    import torch

    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        raise EngineError(f"device {device!r} is not known; give 'cpu', 'cuda', or 'cuda:1' and so on") from None
    if found.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (found.index or 0) >= count:
            seen = f"{count} GPUs" if count else "no GPU"
            raise EngineError(f"device {str(found)!r}: torch sees {seen} here; give another, or 'cpu'")
        if found.index is None:
            found = torch.device("cuda", torch.cuda.current_device())
    elif found.type == "mps" and not torch.backends.mps.is_available():
        raise EngineError(f"device {str(found)!r}: torch sees no Apple GPU here; give another, or 'cpu'")
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
