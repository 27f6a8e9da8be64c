"""Converting images to a `.beton` file of indexed baseline JPEGs: their sources, how they are stored, their labels.

Names are imported when they are first used: a part that needs one other part does not load them all.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from budgetloader.convert.converting import Report, Settings, convert
    from budgetloader.convert.sources import Source

_HOMES = {"Report": "converting", "Settings": "converting", "Source": "sources", "convert": "converting"}
__all__ = ["Report", "Settings", "Source", "convert"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"budgetloader.convert.{_HOMES[name]}"), name)
