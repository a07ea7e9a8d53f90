"""The house: rooms and what imports what, read from the source, as a list and as a picture."""

from __future__ import annotations

import ast
import html
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "clearcap"
LEFT_OUT = {"__init__", "__main__", "moved", "configs", "model"}  # aliases and data
WAY = ("cli", "pipeline", "vision", "denoiser", "sampling", "text")
"""The rooms that a photo passes on its way to a caption."""


def rooms() -> dict[str, Path]:
    """Every room and module at the root by name, with the file whose docstring says what it is."""
    found = {}
    for entry in sorted(PACKAGE.iterdir()):
        file = entry if entry.suffix == ".py" else entry / "__init__.py"
        if file.is_file() and entry.stem not in LEFT_OUT:
            found[entry.stem] = file
    return found


def modules(room: str) -> list[str]:
    """The dotted names of a room's modules, its own first."""
    folder = PACKAGE / room
    if not folder.is_dir():
        return [f"clearcap.{room}"]
    names = [
        ".".join(("clearcap", *file.relative_to(PACKAGE).with_suffix("").parts))
        for file in folder.rglob("*.py")
    ]
    return sorted(name.removesuffix(".__init__") for name in names)


def sentence(file: Path) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(file.read_text())) or "").splitlines()[0]


def imported(file: Path) -> set[str]:
    """What a file imports, wherever in it, as "module" or "module.name"; imports for type checking alone left out."""
    tree = ast.parse(file.read_text())
    hidden = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@cache
def arrows() -> dict[str, set[str]]:
    """For each room the other rooms that it imports, imports for type checking alone left out."""
    known = rooms()
    found: dict[str, set[str]] = {name: set() for name in known}
    for name, file in known.items():
        files = [file] if file.name != "__init__.py" else sorted(file.parent.rglob("*.py"))
        for target in {target for one in files for target in imported(one)}:
            package, _, rest = target.partition(".")
            if package == "clearcap" and rest.split(".")[0] in known:
                found[name].add(rest.split(".")[0])
        found[name].discard(name)
    return found


def floors(edges: dict[str, set[str]]) -> dict[str, int]:
    """Each room's floor: one above the highest that it imports, 0 for those that import none."""
    known: dict[str, int] = {}

    def floor(room: str) -> int:
        if room not in known:
            known[room] = 1 + max((floor(below) for below in edges[room]), default=-1)
        return known[room]

    for room in edges:
        floor(room)
    return known


def direct(edges: dict[str, set[str]]) -> set[tuple[str, str]]:
    """Arrows without those that a longer way stands for."""

    @cache
    def below(room: str) -> frozenset[str]:
        return frozenset(one for target in edges[room] for one in {target} | below(target))

    return {
        (room, target)
        for room, targets in edges.items()
        for target in targets
        if not any(target in below(other) for other in targets if other != target)
    }


def picture() -> str:
    """The house as SVG: a row a floor, the ground at the bottom, an arrow from a room to each that it rests on."""
    edges = arrows()
    level = floors(edges)
    known = rooms()
    rows = [
        sorted(room for room in level if level[room] == number) for number in range(max(level.values()) + 1)
    ]
    wide, high, box, tall = 760, 78, 118, 40
    height = high * len(rows) + 40
    place = {}
    for number, row in enumerate(rows):
        for column, room in enumerate(row):
            x = wide * (column + 1) / (len(row) + 1)
            place[room] = (x, height - 40 - high * number)
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {height}" role="img" '
        'font-family="system-ui, sans-serif" font-size="15">',
        "<title>The rooms of clearcap, floor by floor, and what each rests on</title>",
        f'<rect width="{wide}" height="{height}" rx="8" fill="#fbfaf7"/>',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#8a8f98"/></marker></defs>',
    ]
    for room, target in sorted(direct(edges)):
        (x, y), (u, v) = place[room], place[target]
        middle = (y + v) / 2
        drawn.append(
            f'<path d="M{x:.0f} {y + tall / 2:.0f}C{x:.0f} {middle:.0f} {u:.0f} {middle:.0f} {u:.0f} '
            f'{v - tall / 2 - 2:.0f}" fill="none" stroke="#8a8f98" stroke-width="1.2" marker-end="url(#tip)"/>'
        )
    for room, (x, y) in place.items():
        colour = "#d8ecdf" if room in WAY else "#e8edf4"
        drawn.append(
            f'<g><title>{html.escape(sentence(known[room]))}</title><rect x="{x - box / 2:.0f}" y="{y - tall / 2:.0f}" '
            f'width="{box}" height="{tall}" rx="6" fill="{colour}" stroke="#5b6470"/>'
            f'<text x="{x:.0f}" y="{y + 5:.0f}" text-anchor="middle" fill="#1b1f24">{room}</text></g>'
        )
    return "\n".join([*drawn, "</svg>", ""])


def table() -> str:
    """The rooms as a Markdown table, highest floor first."""
    level, known = floors(arrows()), rooms()
    lines = ["| floor | room | what it is | API |", "|---|---|---|---|"]
    for room in sorted(level, key=lambda one: (-level[one], one)):
        lines.append(
            f"| {level[room]} | `{room}` | {markdown(sentence(known[room]))} | [{room}](api/{room}.md) |"
        )
    return "\n".join(lines)


def markdown(text: str) -> str:
    """A docstring's sentence as Markdown."""
    return text.replace("``", "`")
