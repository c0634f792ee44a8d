"""Knowledge runs one way: each room of the harness knows those below it, and nothing knows the laws."""

import ast
from pathlib import Path
from typing import Iterator, Tuple

from frostproof.properties.selftest import ROOT

# From the lowest: a room may import from those before it.
ROOMS = (
    "strategies",
    "core",
    "machine",
    "defects",
    "reference",
    "running",
    "hunting",
    "operators",
    "programs",
    "own",
    "report",
    "reproducer",
    "session",
    "hunt",
    "laws",
)


def room_of(module: str) -> str:
    """The room of a dotted module of the package; "" outside of it, or where it is a room itself."""
    parts = [*module.split("."), "", "", ""][:4]
    if parts[0] != "frostproof" or parts[1] not in ("strategies", "properties"):
        return ""
    if parts[1] == "strategies":
        return "strategies"
    if parts[2] == "harness":
        return parts[3]
    return "laws" if parts[2].startswith("test_") or parts[2] == "own" else parts[2]


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports when it runs, wherever in it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in list(ast.walk(tree)):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []  # for annotations alone
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def arrows() -> Iterator[Tuple[str, str, str]]:
    """(file, its room, a room that it imports from), where these are two."""
    for path in sorted((*ROOT.glob("strategies/*.py"), *ROOT.glob("properties/**/*.py"))):
        below = path.relative_to(ROOT)
        if below.parts[1] in ("selftest", "package"):
            continue
        room = room_of(".".join(("frostproof", *below.with_suffix("").parts)))
        for module in imported(path):
            if room and room_of(module) not in ("", room):
                yield str(below), room, room_of(module)


def test_knowledge_runs_one_way() -> None:
    found = list(arrows())
    assert len(found) > 300
    for file, room, other in found:
        assert other in ROOMS, f"{file} imports from {other}: give this room its place here"
        if room in ROOMS:
            assert ROOMS.index(other) < ROOMS.index(room), f"{file}, of {room}, imports from {other}"
