"""Which failures are one, and which explain the others: told of a law's id and its message.

A broken operation breaks a law in every dtype, and after it every law that uses it. Laws of
single operations take nothing else for granted: they come first.
"""

import re
from typing import Dict, List, Tuple

from frostproof.properties.harness.report.record import Entry, column_of, column_order

BEGINNING = 4  # words of a sentence: values follow
# laws by what they take for granted: one that breaks explains those after it
BASIC = (
    ("D1", "D2", "D5", "D6", "D7", "D8", "D9"),
    ("C1", "C2", "C5"),
    ("F5", "F8"),
    ("D4", "C3", "F2", "G", "O", "K"),
    ("F3", "M"),
)


def place(ident: str) -> Tuple[int, int]:
    """Where a law stands, by the first of its ids: smaller is more basic."""
    if not ident:
        return -1, 0
    first = ident.split(" ")[0]
    for number, group in enumerate(BASIC):
        for inner, beginning in enumerate(group):
            if first == beginning or (len(beginning) == 1 and first.startswith(beginning)):
                return number, inner
    return len(BASIC), 0


def part(text: str, name: str) -> List[str]:
    """The lines of one part of a law's message: "seen" and those that belong to it."""
    lines: List[str] = []
    for line in text.split("\n"):
        if lines and not line.startswith(" "):
            break
        if lines or line.startswith(f"{name} "):
            lines.append(line)
    return lines


def sentence(text: str) -> str:
    """What was seen, without what differs between cells: numbers, dtypes, devices."""
    seen = "\n".join(part(text, "seen"))
    words = re.sub(r"torch\.\w+|\b(cpu|cuda|mps|xpu|meta)(:\d+)?\b", "", seen)
    words = re.sub(r"\b(b?float|bf|c?double|u?int|complex|half|bool|q?u?int)\d*\w*\b", "", words)
    return " ".join(re.sub(r"[^a-zA-Z ]+", " ", words).split()[:BEGINNING])


def broken_laws(entries: List[Entry]) -> List[List[Entry]]:
    """The broken entries of each law together, in the table's order; what explains the others first.

    What is no law's (a crash, a fixture) comes before all.
    """
    found: Dict[str, List[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: column_order(column_of(entry))):
        if entry.outcome == "broken":
            found.setdefault(entry.test, []).append(entry)
    return sorted(found.values(), key=lambda some: place(some[0].law.strip("?")))
