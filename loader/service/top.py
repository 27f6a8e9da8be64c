"""`budgetloader top`: what a service's trainers are doing."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text


def table(name: str, state: dict[str, Any]) -> Table:
    """A service's state for people."""
    asked = state["hits"] + state["misses"]
    view = Table(
        title=Text(f"{name}: {state['path']}, up {state['uptime_seconds']:,.0f} s"),
        caption=(
            f"{state['used_bytes'] / 1e6:,.0f} of {state['memory_bytes'] / 1e6:,.0f} MB; "
            f"{state['hits'] / asked if asked else 0:.0%} of blocks were there; "
            f"{state['decoded']:,} samples decoded for {state['emitted']:,} emitted"
        ),
    )
    for column in ("trainer", "schedule", "epoch", "step", "emitted", "decoded first", "images/s", "starved", "copied"):
        view.add_column(column, justify="left" if column in ("trainer", "schedule") else "right")
    for t in state["trainers"]:
        view.add_row(
            Text(t["name"]),  # a name is no markup
            Text(t["schedule"]),
            *(f"{t[k]:,}" for k in ("epoch", "step", "emitted", "decoded")),
            f"{t['images_per_second']:,.0f}",
            f"{t['starved']:.0%}" if t["silent_seconds"] < 30 else f"silent for {t['silent_seconds']:.0f} s",
            f"{t['copied']:,}" if t["copied"] else "",
        )
    return view
