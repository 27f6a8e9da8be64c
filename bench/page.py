"""A bench's tables and figures as one self-contained HTML file."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budgetloader.bench.grid import Grid
from budgetloader.bench.record import write_json, write_text

if TYPE_CHECKING:
    from rich.console import Console

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2.2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
.note { color: #555; max-width: 60rem } figure { margin: 1.5rem 0 } svg { max-width: 100%; height: auto }
code { background: #f3f3f3; padding: .1rem .3rem } dt { float: left; width: 9rem; color: #555 } dd { margin-left: 9rem }
"""


def write(
    path: Path,
    *,
    title: str,
    claim: str,
    command: str,
    environment: Mapping[str, Any],
    parts: Sequence[Grid | Any],
) -> None:
    """Write the page.

    Args:
        path: the file.
        title, claim: of the page: the measurement, and what it is to show.
        command: that measures it again.
        environment: see `budgetloader.bench.record.environment`.
        parts: grids, and figures of matplotlib, in order. The figures are closed.
    """
    body = "\n".join(part.html() if isinstance(part, Grid) else _figure(part) for part in parts)
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    facts = {
        "measured": environment["date"],
        "machine": f"{environment['cpu']}, {environment['cores']} cores; GPU: {environment['gpu'] or 'none'}",
        "software": f"Python {environment['python']}, {versions}",
        "revision": environment["git"] or "unknown",
    }
    listed = "".join(f"<dt>{name}</dt><dd>{html.escape(str(value))}</dd>" for name, value in facts.items())
    write_text(
        path,
        f"<!doctype html>\n<html lang=en><head><meta charset=utf-8><title>{html.escape(title)}</title>"
        f"<style>{_STYLE}</style></head>\n<body><h1>{html.escape(title)}</h1>\n<p>{html.escape(claim)}</p>\n"
        f"<p><code>{html.escape(command)}</code></p>\n<dl>{listed}</dl>\n{body}\n</body></html>\n",
    )


def publish(
    results: Mapping[str, Any], out: Path, console: Console, *, title: str, claim: str, parts: Sequence[Grid | Any]
) -> None:
    """Write a bench's record and its page, and show its tables.

    Args:
        results: the record, with its `environment` and `command`.
        out: the folder; it gets results.json and report.html.
        title, claim, parts: see `write`.
    """
    write_json(out / "results.json", results)
    for part in parts:
        if isinstance(part, Grid):
            console.print(part.rich())
    write(
        out / "report.html",
        title=title,
        claim=claim,
        command=results["command"],
        environment=results["environment"],
        parts=parts,
    )
    console.print(f"report.html and results.json: {out}", soft_wrap=True)


def _figure(figure: Any) -> str:
    """A figure of matplotlib as SVG; its title is its text for those who cannot see it."""
    from budgetloader.bench.plot import close

    buffer = io.StringIO()
    title = figure.axes[0].get_title()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    close(figure)
    picture = buffer.getvalue()
    picture = picture[picture.index("<svg") :]
    return f'<figure role=img aria-label="{html.escape(title)}">{picture}</figure>'
