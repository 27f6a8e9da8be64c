"""Reduced random sampling inside a high-performance data loader. See README.md.

Names are imported when they are first used: `import budgetloader` needs neither torch nor an engine.
"""

from __future__ import annotations

import os
import sys


def _working_directory_last() -> None:
    """Move the working directory from the front of the search path to its end, where `-m` has put it in front.

    A `json.py` or `numpy.py` that lies there must not be run in place of the real one by `python -m budgetloader…`;
    networks and engines of one's own are still found there.
    """
    command = sys.orig_argv
    module = command[command.index("-m") + 1] if "-m" in command[:-1] else ""
    if module.partition(".")[0] == "budgetloader" and sys.path[:1] == [os.getcwd()]:
        sys.path.append(sys.path.pop(0))


_working_directory_last()  # before anything is imported that could lie there

import importlib  # noqa: E402
from typing import TYPE_CHECKING, Any  # noqa: E402

if TYPE_CHECKING:
    from budgetloader import theory, transforms
    from budgetloader.budget import Budget
    from budgetloader.convert.appending import shards
    from budgetloader.custom_source import JpegSource
    from budgetloader.dataset import Dataset
    from budgetloader.errors import (
        ArgumentError,
        ArgumentTypeError,
        CorruptSampleError,
        DatasetError,
        EngineError,
        LoaderError,
        ResumeError,
        ScheduleError,
        ServiceGoneError,
        StorageError,
    )
    from budgetloader.joined import Mixture
    from budgetloader.loader import BudgetLoader
    from budgetloader.sampler import BudgetSampler
    from budgetloader.schedule import Schedule
    from budgetloader.selections import ScoreSelection, Selection
    from budgetloader.selections.infobatch import InfoBatch
    from budgetloader.selections.scores import Choice
    from budgetloader.service.client import connect
    from budgetloader.sizes import SizeSchedule
    from budgetloader.stats import EpochStats, Verdict

__version__ = "0.2.0.dev0"

_HOMES = {
    "ArgumentError": "errors",
    "ArgumentTypeError": "errors",
    "Budget": "budget",
    "BudgetLoader": "loader",
    "BudgetSampler": "sampler",
    "Choice": "selections.scores",
    "CorruptSampleError": "errors",
    "Dataset": "dataset",
    "DatasetError": "errors",
    "EngineError": "errors",
    "EpochStats": "stats",
    "InfoBatch": "selections.infobatch",
    "JpegSource": "custom_source",
    "LoaderError": "errors",
    "Mixture": "joined",
    "ResumeError": "errors",
    "Schedule": "schedule",
    "ScoreSelection": "selections.scores",
    "Selection": "selections",
    "ScheduleError": "errors",
    "ServiceGoneError": "errors",
    "SizeSchedule": "sizes",
    "StorageError": "errors",
    "Verdict": "stats",
    "connect": "service.client",
    "shards": "convert.appending",
}
__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "Budget",
    "BudgetLoader",
    "BudgetSampler",
    "Choice",
    "CorruptSampleError",
    "Dataset",
    "DatasetError",
    "EngineError",
    "EpochStats",
    "InfoBatch",
    "JpegSource",
    "LoaderError",
    "Mixture",
    "ResumeError",
    "Schedule",
    "ScheduleError",
    "ScoreSelection",
    "Selection",
    "ServiceGoneError",
    "SizeSchedule",
    "StorageError",
    "Verdict",
    "connect",
    "shards",
    "theory",
    "transforms",
]


def __getattr__(name: str) -> Any:
    if name in ("theory", "transforms"):
        return importlib.import_module(f"budgetloader.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(f"budgetloader.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'budgetloader' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
