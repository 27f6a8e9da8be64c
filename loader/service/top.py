"""`budgetloader top`: what a service's trainers are doing."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from budgetloader.service.status import SILENT_SECONDS, ServiceStatus, TrainerStatus


def table(name: str, status: ServiceStatus) -> Table:
    """A service's status for people."""
    requested = status.hits + status.misses
    view = Table(
        title=Text(f"{name}: {status.path}, up {status.uptime_seconds:,.0f} s"),
        caption=(
            f"{status.used_bytes / 1e6:,.0f} of {status.memory_bytes / 1e6:,.0f} MB; "
            f"{status.hits / requested if requested else 0:.0%} of blocks were cached; "
            f"{status.decoded:,} samples decoded for {status.emitted:,} emitted"
            + (f"\n{status.store.text}" if status.store is not None else "")
        ),
    )
    for column in ("trainer", "schedule", "epoch", "step", "emitted", "decoded first", "images/s", "starved", "copied"):
        view.add_column(column, justify="left" if column in ("trainer", "schedule") else "right")
    for trainer in status.trainers:
        view.add_row(*_row(trainer))
    return view


def _row(trainer: TrainerStatus) -> tuple[Text | str, ...]:
    silent = trainer.silent_seconds
    return (
        Text(trainer.name),  # a name is no markup
        Text(trainer.schedule),
        f"{trainer.epoch:,}",
        f"{trainer.step:,}",
        f"{trainer.emitted:,}",
        f"{trainer.decoded:,}",
        f"{trainer.images_per_second:,.0f}",
        f"{trainer.starved:.0%}" if silent < SILENT_SECONDS else f"silent for {silent:.0f} s",
        f"{trainer.copied:,}" if trainer.copied else "",
    )
