"""The map of the house in CONTRIBUTING, drawn from the imports of the source files.

    python tools/house.py            # draw docs/house.svg again
    python tools/house.py --check    # exit status 1 if it is not what the imports say

A room has the files of its folder, or those that it starts from, together with what these import and no earlier room
has. What is left of loader/ is in the room "commands". A new file needs no entry here.
"""

from __future__ import annotations

import ast
import html
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "house.svg"
_PACKAGE = "budgetloader"


@dataclass(frozen=True)
class Room:
    """A part of the package.

    Args:
        name: as the picture shows it.
        purpose: one line.
        starts: modules of loader/ that belong to it, together with what they import and no earlier room has.
        folder: a folder whose files belong to it.
    """

    name: str
    purpose: str
    starts: tuple[str, ...] = ()
    folder: str = ""


COMMANDS = Room("commands", "What the command budgetloader runs; a file for each command in loader/commands/.")
ROOMS = (  # from the ground up
    Room(
        "plans",
        "Which samples, windows and flips each batch has. Exact, and numpy alone.",
        ("batch", "plans", "theory"),
    ),
    Room(
        "files",
        "Reading: the .beton file, JPEGs that can be cut, folders and tars, object storage.",
        ("dataset", "jpeg"),
    ),
    Room("convert", "Images in, .beton out: sources, labels, encoding.", (), "convert"),
    Room(
        "engines",
        "Batch plans in, tensors out. One file for each engine, and the parts that they share.",
        (),
        "engines",
    ),
    Room(
        "loader",
        "A dataset, a schedule and an engine as an iterable; the sampler for other datasets.",
        ("loader", "sampler"),
    ),
    Room("service", "One process decodes for many trainers (Ray).", (), "service"),
    Room("models", "Networks, recipes and the trainer. It knows no loader.", (), "models"),
    COMMANDS,
    Room("bench", "Measurements; what they measured is in bench/results/.", (), "bench"),
)


class HouseError(Exception):
    """Imports that make no house."""


def sources(root: Path = ROOT) -> dict[str, str]:
    """Module name below the package, such as "engines.native" → its source."""
    found = {}
    for top, prefix in (("loader", ""), ("models", "models."), ("bench", "bench.")):
        for path in sorted((root / top).rglob("*.py")):
            inside = path.relative_to(root / top)
            if (root / top / inside.parts[0]).is_symlink() or "__pycache__" in inside.parts:
                continue
            name = prefix + ".".join(inside.with_suffix("").parts)
            if name != "__init__":  # the package's own names, which lead everywhere
                found[name.removesuffix(".__init__")] = path.read_text()
    return found


def imported(source: str, known: Mapping[str, str]) -> Iterator[str]:
    """The modules of the package that a source imports, also inside functions; not those for the type checker alone."""
    tree = ast.parse(source)
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{name.name}" for name in node.names]
        elif isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        for name in names:
            package, _, inner = name.partition(".")
            if package == _PACKAGE:
                module = inner if inner in known else inner.rpartition(".")[0]
                if module in known:
                    yield module


def imports(found: Mapping[str, str]) -> dict[str, set[str]]:
    """Module → the modules of the package that it imports."""
    return {name: set(imported(source, found)) - {name} for name, source in found.items()}


def rooms(graph: Mapping[str, set[str]]) -> dict[str, list[str]]:
    """Room → its modules."""
    folders = {room.folder: room.name for room in ROOMS if room.folder}
    home = {name: folders[top] for name in graph if (top := name.partition(".")[0]) in folders}
    for room in ROOMS[: ROOMS.index(COMMANDS)]:
        todo = [name for name in graph if name in room.starts or home.get(name) == room.name]
        while todo:
            name = todo.pop()
            if home.setdefault(name, room.name) == room.name:
                todo += [other for other in graph[name] if other not in home]
    home |= {name: COMMANDS.name for name in graph if name not in home}
    return {room.name: sorted(name for name in graph if home[name] == room.name) for room in ROOMS}


def arrows(graph: Mapping[str, set[str]], placed: Mapping[str, Sequence[str]]) -> dict[str, set[str]]:
    """Room → the rooms that it imports from.

    Raises:
        HouseError: two rooms need each other, directly or in a circle.
    """
    home = {name: room for room, names in placed.items() for name in names}
    needs = {room: {home[o] for n in names for o in graph[n]} - {room} for room, names in placed.items()}
    order = {room.name: number for number, room in enumerate(ROOMS)}
    for room, others in needs.items():
        for other in sorted(others):
            if order[other] > order[room]:
                culprits = [f"{n} imports {o}" for n in placed[room] for o in graph[n] if home[o] == other]
                raise HouseError(f"{room} must not need {other}: {', '.join(culprits)}")
    return needs


def picture(root: Path = ROOT) -> str:
    """The SVG."""
    graph = imports(sources(root))
    placed = rooms(graph)
    needs = arrows(graph, placed)
    return _drawn(placed, needs)


_WIDTH, _LEFT, _LINE, _GAP = 900, 150, 18, 22


def _drawn(placed: Mapping[str, Sequence[str]], needs: Mapping[str, set[str]]) -> str:
    parts, middles, top = [], {}, 46
    for room in reversed(ROOMS):
        folder = f"loader/{room.folder}/" if room.folder in ("engines", "service") else f"{room.folder or 'loader'}/"
        lines = _listed(room, placed[room.name])
        height = 56 + _LINE * len(lines)
        middles[room.name] = top + height / 2
        parts.append(
            f'<rect class="room" x="{_LEFT}" y="{top}" width="{_WIDTH - _LEFT - 10}" height="{height}" rx="6"/>'
        )
        parts.append(_text(_LEFT + 12, top + 22, room.name, "name"))
        parts.append(_text(_WIDTH - 22, top + 22, folder, "folder"))
        parts.append(_text(_LEFT + 12, top + 42, room.purpose, "purpose"))
        for number, line in enumerate(lines):
            parts.append(_text(_LEFT + 12, top + 62 + _LINE * number, line, "file"))
        top += height + _GAP
    order = [room.name for room in ROOMS]
    for room, others in needs.items():
        for other in sorted(others, key=order.index):
            parts.append(_arrow(room, other, middles, distance=abs(order.index(room) - order.index(other))))
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{top}" viewBox="0 0 {_WIDTH} {top}" '
        'role="img" aria-label="The rooms of the package and which of them import which">'
    )
    return "\n".join([head, _STYLE, *parts, "</svg>\n"])


def _listed(room: Room, names: Sequence[str]) -> list[str]:
    """The room's files in lines; those of a folder within it in lines of their own."""
    folders: dict[str, list[str]] = {"": []}
    for name in names:
        folder, _, file = name.rpartition(".")
        if file != "__main__" and not any(other.startswith(f"{name}.") for other in names):
            folders.setdefault("" if folder == room.folder else folder, []).append(file)
    lines = []
    for folder, files in folders.items():
        text = "  ".join([f"{folder}/", *files] if folder else files)
        lines += textwrap.wrap(text, 98, break_long_words=False, break_on_hyphens=False)
    return lines


_STYLE = """<style>
text { font: 13px system-ui, sans-serif; fill: #222 }
.page { fill: #fff } .room { fill: #f4f6fa; stroke: #8a99b5 }
.name { font-weight: bold; font-size: 15px } .folder { text-anchor: end; fill: #667 } .purpose { font-style: italic }
.file { font-family: monospace; font-size: 12px; white-space: pre }
.needs { fill: none; stroke: #4568a8; stroke-width: 1.2 } .head { fill: #4568a8 }
</style>
<rect class="page" width="100%" height="100%"/>
<text x="150" y="26">An arrow leads from a room to one that it imports from. None leads up.</text>"""


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{html.escape(text)}</text>'


def _arrow(room: str, other: str, middles: Mapping[str, float], *, distance: int) -> str:
    """A curve in the margin, further out the further it leads; it ends a little above the box's middle."""
    start, end, out = middles[room] + 6, middles[other] - 4 * distance, _LEFT - 14 - 16 * distance
    path = f"M{_LEFT} {start:g} C{out} {start:g} {out} {end:g} {_LEFT - 7} {end:g}"
    head = f"M{_LEFT} {end:g} l-8 -4 v8 z"
    drawn = f'<path class="needs" d="{path}"/><path class="head" d="{head}"/>'
    return f"<g><title>{room} imports from {other}</title>{drawn}</g>"


def main(arguments: Sequence[str]) -> int:
    drawn = picture()
    if "--check" in arguments:
        if not PICTURE.exists() or PICTURE.read_text() != drawn:
            print(f"{PICTURE.relative_to(ROOT)} is not what the imports say; run: python tools/house.py")
            return 1
        return 0
    PICTURE.write_text(drawn)
    print(f"{PICTURE.relative_to(ROOT)}: drawn")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
