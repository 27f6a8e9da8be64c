"""The documentation's pages and the code blocks in them."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from conftest import ROOT

PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
NAMES = {path.relative_to(ROOT).as_posix(): path for path in PAGES}
_BLOCK = re.compile(
    r"^(?P<indent> *)```(?P<kind>\w*| \{\.\w+\})(?: title=\"(?P<title>[^\"]*)\")?\n(?P<text>.*?)^(?P=indent)```$",
    re.M | re.S,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, its title, its text, and the line that it begins at."""

    kind: str
    title: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(
            found["kind"], found["title"] or "", textwrap.dedent(found["text"]), text[: found.start()].count("\n") + 2
        )
        for found in _BLOCK.finditer(text)
    ]
