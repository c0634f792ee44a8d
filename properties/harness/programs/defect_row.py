"""What a row of the known defects of the modes says, and what its program is written with."""

from dataclasses import dataclass
from typing import Tuple, Union

from frostproof.properties.harness.programs.compare import ZEROS
from frostproof.properties.harness.programs.conditions import Condition, either, has, input_kinds
from frostproof.properties.harness.programs.modes import BACKENDS
from frostproof.strategies.programs import Input, Program, Statement

# what follows from a wrong requires_grad or grad_fn
GRAPH = (
    "requires_grad",
    "is_leaf",
    "grad_fn",
    "gradient",
    ZEROS,
    "backward",
    "backward accepts",
    "input flags",
    "input grad_fn",
    "later write",
    "input value",
    "fired",
)
SHARING = ("identity", "storage", "write", "write version")
INFERENCE = ("inference", "write", "write version", "later write", "version", "accepts", *GRAPH)
MEASURED = ("2.4", "2.8", "2.13", "2.14")
SEEN = ("view_of", "neighbour", "transposed", "slice", "step", "expanded")  # inputs that are views
ALIASES = ("view_of", "detached_of", "neighbour")  # inputs that share memory with another
ON = ("enable_grad", "set_grad_on")
FUNCTIONALIZED = ("compile-aot_eager", "compile-inductor")
DYNAMIC = tuple(f"compile-{backend}-dynamic" for backend in BACKENDS[1:])
BROKEN = tuple(
    f"compile-{backend}{kind}-break" for backend in BACKENDS[1:] for kind in ("", "-dynamic")
)
OVERLAPPING = either(has("expand", "unfold", "as_strided", "broadcast_self"), input_kinds("expanded"))


@dataclass(frozen=True)
class Row:
    """A defect of a mode.

    ident: a short name; sentence: what goes wrong; modes: beginnings of the modes' names, the
    first one the mode in which the program is tried; aspects: in what it shows, the first one
    the program's; condition: the programs that it covers; program: the smallest that shows it;
    head: the beginning of the error's kind and message, where it is one, or several; scene: when;
    shown, absent: "major.minor" of the torch versions on which it was measured to show, or not
    to; issue: upstream's number, or what a search found; ends: it ends or spoils the process,
    so that no law runs it; subject: what of the program is looked at, where it is not what the
    aspect is mostly looked at in; apart: why it is not counted as a defect of torch; "" where it is.
    """

    ident: str
    sentence: str
    modes: Tuple[str, ...]
    aspects: Tuple[str, ...]
    condition: Condition
    program: Program
    head: Union[str, Tuple[str, ...]] = ""
    scene: str = "first"
    shown: Tuple[str, ...] = MEASURED
    absent: Tuple[str, ...] = ()
    issue: str = "not searched"
    ends: bool = False
    subject: str = ""
    apart: str = ""


def do(operation: str, operands: str = "x", targets: str = "a", argument: str = "") -> Statement:
    """A statement; operands, targets: names of one letter."""
    return Statement(operation, tuple(operands), tuple(targets), argument)


def block(name: str, *body: Statement) -> Statement:
    """A block of BLOCKS."""
    return Statement(name, (), (), "", body)


def program(
    kinds: str,
    *statements: Statement,
    returns: str = "a",
    shape: Tuple[int, ...] = (2,),
    layout: str = "contiguous",
    dtype: str = "float64",
) -> Program:
    """kinds: of the inputs x, y, z, with spaces."""
    inputs = tuple(Input(name, kind, shape, layout, dtype) for name, kind in zip("xyz", kinds.split()))
    return Program(inputs, statements, tuple(returns), "one" if len(returns) == 1 else "tuple")
