"""A table of results, to show on a terminal, in Markdown and on a page."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Grid:
    """A table of text.

    Args:
        title: the quantity, the data and the machine.
        columns: their names.
        rows: one text for each column.
        note: how to read it: how a column is computed, and its limits.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def rich(self) -> Any:
        """For a terminal: a `rich.table.Table`."""
        from rich.table import Table

        table = Table(title=self.title, caption=self.note or None, caption_justify="left")
        for number, name in enumerate(self.columns):
            table.add_column(name, justify="right" if number else "left", no_wrap=True)
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        lines = [self.columns, ("---", *["---:"] * (len(self.columns) - 1)), *self.rows]
        return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)

    def html(self) -> str:
        def line(tag: str, cells: Sequence[str]) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

        head, body = line("th", self.columns), "\n".join(line("td", row) for row in self.rows)
        note = f"<p class=note>{html.escape(self.note)}</p>" if self.note else ""
        return (
            f"<section><h2>{html.escape(self.title)}</h2>\n<table><thead>{head}</thead>\n"
            f"<tbody>{body}</tbody></table>{note}</section>"
        )
