"""Where the graph is cut: positions between the layers of an MLP."""

from dataclasses import dataclass
from typing import Tuple

from hypothesis import strategies as st

from frostproof.strategies.digits import Digits, read_as
from frostproof.strategies.networks import MLP


@dataclass(frozen=True)
class Cuts:
    """Cut positions (0: at the input, depth: after the last layer) and the way to cut.

    by: "detach" or "no_grad" (everything before the last position runs without grad).
    """

    positions: Tuple[int, ...] = ()
    by: str = "detach"


CUT_DIGITS = 3


def read_cuts(digits: Digits, mlp: MLP, *, at_least: int = 0, output: bool = True) -> Cuts:
    """Cuts of a net of depth up to 255, from ``CUT_DIGITS`` bytes: see ``detach_positions``."""
    last = mlp.depth if output else mlp.depth - 1
    kind, way, place = digits.below(4), digits.below(4), digits.bits(1)
    by = "no_grad" if way == 3 else "detach"
    if kind == 0 and not at_least:
        return Cuts((), by)
    if kind < 3:
        return Cuts((place % (last + 1),), by)
    # several, spread by the bits of one byte that is repeated for deep nets
    positions = tuple(index for index in range(last + 1) if place >> (index % 8) & 1)
    return Cuts(positions or (place % (last + 1),), by)


def detach_positions(mlp: MLP, *, at_least: int = 0, output: bool = True) -> st.SearchStrategy[Cuts]:
    """Any set of cut positions of ``mlp``, and one of the two ways to cut.

    at_least: 1 asks for a cut for certain. output: False never cuts after the
    last layer, so that something is left to train. Shrinks towards no cut (or
    one at the input), by detach.
    """
    return read_as(CUT_DIGITS, lambda digits: read_cuts(digits, mlp, at_least=at_least, output=output))
