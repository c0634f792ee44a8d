"""Where the graph is cut: positions between the layers of an MLP."""

from dataclasses import dataclass
from typing import Tuple

from hypothesis import strategies as st

from strategies.networks import MLP


@dataclass(frozen=True)
class Cuts:
    """Cut positions (0: at the input, depth: after the last layer) and the way to cut.

    by: "detach" or "no_grad" (everything before the last position runs without grad).
    """

    positions: Tuple[int, ...] = ()
    by: str = "detach"


@st.composite
def detach_positions(draw: st.DrawFn, mlp: MLP, *, at_least: int = 0, output: bool = True) -> Cuts:
    """Any set of cut positions of ``mlp``, and one of the two ways to cut.

    at_least: 1 asks for a cut for certain. output: False never cuts after the
    last layer, so that something is left to train. Shrinks towards no cut (or
    one at the input), by detach.
    """
    last = mlp.depth if output else mlp.depth - 1
    kind = draw(st.integers(0, 7))
    by = "no_grad" if kind % 4 == 3 else "detach"
    if kind == 0 and not at_least:
        return Cuts((), by)
    if kind < 6:  # one cut
        return Cuts((draw(st.integers(0, last)),), by)
    bits = draw(st.integers(1, 2 ** (last + 1) - 1))
    return Cuts(tuple(place for place in range(last + 1) if bits >> place & 1), by)
