"""One page for people: what a service's trainers are doing, and have done over the last hour.

It is made whole for each request, loads nothing, and runs nothing in the browser. Trainers name themselves as they
like: every text is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence

from budgetloader.service.history import HOUR_SECONDS, READ_SECONDS, Snapshot
from budgetloader.service.status import SILENT_SECONDS, ServiceStatus, StoreStatus, TrainerStatus

_WAITS = 0.05  # of a trainer's time, beyond which it counts as waiting
_LEFT = ("schedule", "over the last hour", "who waits")
_WIDTH, _HEIGHT = 240, 36  # of a chart, pixels
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 80rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child, .left { text-align: left; overflow-wrap: anywhere }
svg { background: #f6f6f6; vertical-align: middle } polyline { fill: none; stroke: #06c; stroke-width: 1.5 }
.note { color: #555 }
"""
_Points = Sequence[tuple[float, float | None]]
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
HEADERS = (
    ("Content-Type", "text/html; charset=utf-8"),
    (
        "Content-Security-Policy",
        f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
)


def page(name: str, status: ServiceStatus, readings: Sequence[Snapshot]) -> str:
    """The page, as HTML.

    Args:
        name: of the service.
        status: as it is now.
        readings: of the last hour, oldest first.
    """
    asked = status.hits + status.misses
    facts = [
        f"{status.samples:,} samples of {status.path}",
        f"up {status.uptime_seconds:,.0f} s",
        f"{status.used_bytes / 1e6:,.0f} of {status.memory_bytes / 1e6:,.0f} MB used",
        f"{status.hits / asked if asked else 0:.0%} of blocks were cached",
        f"{status.decoded:,} samples decoded for {status.emitted:,} emitted",
    ]
    body = [f"<h1>{_text(name)}</h1>", f"<p>{_text('; '.join(facts))}</p>", _trainers(status, readings)]
    body += ["<h2>The last hour</h2>", _hour(status.store, readings)]
    return _document(f"{name}: budgetloader", "\n".join(body))


def failure_page(name: str, why: str) -> str:
    """The page where the service does not answer."""
    return _document(f"{name}: budgetloader", f"<h1>{_text(name)}</h1>\n<p>it does not answer: {_text(why)}</p>")


def _document(title: str, body: str) -> str:
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        f'<meta http-equiv=refresh content="{READ_SECONDS:.0f}"><title>{_text(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body>{body}</body></html>\n"
    )


def _trainers(status: ServiceStatus, readings: Sequence[Snapshot]) -> str:
    if not status.trainers:
        return "<h2>Trainers</h2>\n<p>none is connected</p>"
    columns = ("trainer", "schedule", "epoch", "step", "samples", "images/s", "over the last hour", "who waits")
    heads = "".join(f"<th{' class=left' if column in _LEFT else ''}>{_text(column)}</th>" for column in columns)
    rows = "\n".join(_row(trainer, status.store, readings) for trainer in status.trainers)
    return f"<h2>Trainers</h2>\n<table><tr>{heads}</tr>\n{rows}</table>"


def _row(trainer: TrainerStatus, store: StoreStatus | None, readings: Sequence[Snapshot]) -> str:
    rates = [(reading.seconds, reading.images_per_second.get(trainer.id)) for reading in readings]
    numbers = (trainer.epoch, trainer.step, trainer.emitted, round(trainer.images_per_second))
    cells = [f"<td>{_text(trainer.name)}</td>", f"<td class=left>{_text(trainer.schedule)}</td>"]
    cells += [f"<td>{number:,}</td>" for number in numbers]
    cells += [f"<td>{_chart(rates, label=f'images/s of {trainer.name}')}</td>"]
    cells += [f"<td class=left>{_text(who_waits(trainer, store))}</td>"]
    return f"<tr>{''.join(cells)}</tr>"


def who_waits(trainer: TrainerStatus, store: StoreStatus | None) -> str:
    """Who waits for whom, in words.

    Args:
        trainer: one of a service's.
        store: what the service waits for itself; None: its dataset is on its machine.
    """
    if trainer.silent_seconds >= SILENT_SECONDS:
        return f"it has asked for nothing for {trainer.silent_seconds:,.0f} s"
    if trainer.starved <= _WAITS:
        return "the service waits for it"
    why = ""
    if store is not None and store.slow:
        why = f", which waits for object storage {store.waiting:.0%} of its own"
    return f"it waits for the service {trainer.starved:.0%} of its time{why}"


def _hour(store: StoreStatus | None, readings: Sequence[Snapshot]) -> str:
    kept: _Points = [(r.seconds, r.hit_share) for r in readings]
    shown: list[tuple[str, _Points, float | None, str]] = [("blocks that were cached", kept, 1.0, "of those asked for")]
    if store is not None:
        fetched = [(r.seconds, r.fetched_bytes / 1e6) for r in readings]
        total = sum(megabytes for _, megabytes in fetched)
        waiting = [(r.seconds, r.waiting) for r in readings]
        shown += [
            ("fetched from object storage", fetched, None, f"{total:,.1f} MB in all, since the first reading shown"),
            ("decoders waiting for object storage", waiting, 1.0, "of their time"),
        ]
    rows = "\n".join(
        f"<tr><td>{_text(title)}</td><td>{_chart(points, label=title, most=most)}</td>"
        f"<td class=left>{_text(note)}</td></tr>"
        for title, points, most, note in shown
    )
    text = f"<p>{_text(store.text)}</p>\n" if store is not None else ""
    note = f"a reading every {READ_SECONDS:.0f} s; the page shows them anew as often"
    return f"{text}<table>{rows}</table>\n<p class=note>{_text(note)}</p>"


def _chart(points: _Points, *, label: str, most: float | None = None) -> str:
    """A line over the last hour, as SVG, with gaps where there is no value.

    Args:
        points: seconds, and a value or None.
        label: for those who cannot see it.
        most: the value at the top; None: the greatest.
    """
    values = [value for _, value in points if value is not None]
    top = most or max(values, default=0.0) or 1.0
    last = points[-1][0] if points else 0.0
    lines: list[list[str]] = [[]]
    for seconds, value in points:
        if value is None:
            lines.append([])
            continue
        x = _WIDTH * (1 - (last - seconds) / HOUR_SECONDS)
        lines[-1].append(f"{x:.1f},{_HEIGHT - 1 - (_HEIGHT - 2) * min(value / top, 1.0):.1f}")
    drawn = "".join(f'<polyline points="{" ".join(line)}"/>' for line in lines if line)
    now = f"{values[-1]:,.2f}" if values else "no value"
    told = f"{label}: {now} now, {top:,.2f} at the top"
    return f'<svg width={_WIDTH} height={_HEIGHT} role=img aria-label="{_text(told)}">{drawn}</svg>'


def _text(value: str) -> str:
    return html.escape(value, quote=True)
