"""MkDocs' hook: the site holds what its pages link to in the repository, so that no link leaves it.

Pages link to files outside docs/ as on a code host, such as `../bench/results/x.json`. The site gets a copy of each of
these files. CHANGELOG.md and CONTRIBUTING.md become pages.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
_LINK = re.compile(r"(?<=\]\()(?!https?:|#|mailto:)([^)\s#]+)(?=[)#\s])")


def target_of(link: str, page: str) -> str:
    """What a link of a page leads to, from the repository's root.

    Args:
        link: relative to the page.
        page: from the repository's root, such as "docs/gpu.md".
    """
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link))


def place_of(target: str) -> str:
    """Where the site has a file of the repository, from the site's root."""
    if target in PAGES:
        return PAGES[target]
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    # A browser shows text, and would download Python.
    return f"repository/{target}" + (".txt" if target.endswith((".py", ".md")) else "")


def source_of(page: str) -> str:
    """The file that a page of the site is made from, from the repository's root."""
    return next((source for source, made in PAGES.items() if made == page), f"docs/{page}")


def on_files(files: Any, config: Any) -> Any:
    """Add what pages link to outside docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    pages = {file.src_uri: file.content_string for file in files.documentation_pages()}
    for page, text in pages.items():
        for link in _LINK.findall(text):
            target = target_of(link, source_of(page))
            if target.startswith("docs/") or target in PAGES or not (ROOT / target).is_file():
                continue  # a page, or nothing: MkDocs says so
            if files.get_file_from_path(place_of(target)) is None:
                files.append(File.generated(config, place_of(target), abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Have links lead to where the site has these files."""

    def placed(found: re.Match[str]) -> str:
        target = target_of(found[1], source_of(page.file.src_uri))
        if not (ROOT / target).is_file():
            return found[1]
        return posixpath.relpath(place_of(target), posixpath.dirname(page.file.src_uri) or ".")

    return _LINK.sub(placed, markdown)
