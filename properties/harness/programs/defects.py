"""Known defects of the modes, as data: each with the condition on the programs that it covers."""

from dataclasses import dataclass
from typing import Callable, Sequence, Tuple

from frostproof.strategies.programs import Program


@dataclass(frozen=True)
class Row:
    """A defect of a mode.

    ident: a short name; sentence: what goes wrong; modes: beginnings of the modes' names;
    aspects: in what it shows; condition: the programs that it covers; head: what the error's
    kind and message begin with, where it is one; program: the smallest that shows it (its repr);
    scene: when; shown: the torch versions on which it was measured to show; absent: those on
    which not; issue: upstream's number, or "none found".
    """

    ident: str
    sentence: str
    modes: Tuple[str, ...]
    aspects: Tuple[str, ...]
    condition: Callable[[Program], bool]
    program: str = ""
    head: str = ""
    scene: str = "first"
    subject: str = "out0"
    shown: Tuple[str, ...] = ()
    absent: Tuple[str, ...] = ()
    issue: str = "none found"


ROWS: Sequence[Row] = ()


def covered(program: Program, mode: str, aspect: str, head: str = "") -> str:
    """The id of the first row that covers a difference; "" where none does."""
    for row in ROWS:
        if aspect in row.aspects and mode.startswith(row.modes) and head.startswith(row.head):
            if row.condition(program):
                return row.ident
    return ""
