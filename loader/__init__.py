"""Reduced random sampling inside a high-performance data loader. See README.md.

Names are imported when they are first used: `import loader` needs neither torch nor an engine.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loader import theory
    from loader.budget import Budget
    from loader.dataset import Dataset
    from loader.errors import (
        CorruptSampleError,
        DatasetError,
        EngineError,
        LoaderError,
        ResumeError,
        ScheduleError,
    )
    from loader.loader import BudgetLoader
    from loader.sampler import BudgetSampler
    from loader.schedule import Schedule
    from loader.service.client import connect
    from loader.stats import EpochStats, Verdict

__version__ = "0.1.0"

_HOMES = {
    "Budget": "budget",
    "BudgetLoader": "loader",
    "BudgetSampler": "sampler",
    "CorruptSampleError": "errors",
    "Dataset": "dataset",
    "DatasetError": "errors",
    "EngineError": "errors",
    "EpochStats": "stats",
    "LoaderError": "errors",
    "ResumeError": "errors",
    "Schedule": "schedule",
    "ScheduleError": "errors",
    "Verdict": "stats",
    "connect": "service.client",
}
__all__ = [
    "Budget",
    "BudgetLoader",
    "BudgetSampler",
    "CorruptSampleError",
    "Dataset",
    "DatasetError",
    "EngineError",
    "EpochStats",
    "LoaderError",
    "ResumeError",
    "Schedule",
    "ScheduleError",
    "Verdict",
    "connect",
    "theory",
]


def __getattr__(name: str) -> Any:
    if name == "theory":
        return importlib.import_module("loader.theory")
    if name in _HOMES:
        return getattr(importlib.import_module(f"loader.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'loader' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
