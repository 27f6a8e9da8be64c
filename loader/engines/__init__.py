"""Engines by name. Each engine's own imports happen when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from loader.engines.base import Engine, Job
from loader.errors import EngineError

# name → module, class, and the packages that it needs
_ENGINES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "native": ("loader.engines.native", "NativeEngine", ("simplejpeg", "numba")),
}
NAMES = ("auto", *_ENGINES)


def resolve(name: str) -> str:
    """The engine that `name` stands for ("auto": the fastest that is installed)."""
    if name == "auto":
        return "native"
    if name not in _ENGINES:
        raise EngineError(f"engine {name!r} is not known; give one of {', '.join(NAMES)}")
    return name


def create(name: str, job: Job) -> Engine:
    """Make the engine `name`.

    Raises:
        EngineError: no such engine, or a package that it needs is not installed.
    """
    module, cls, packages = _ENGINES[resolve(name)]
    try:
        make: Callable[[Job], Engine] = getattr(importlib.import_module(module), cls)
    except ModuleNotFoundError as error:
        raise EngineError(
            f"engine {name!r} needs {' and '.join(packages)}, and {error.name} is not installed; "
            f"pip install {error.name}"
        ) from None
    return make(job)
