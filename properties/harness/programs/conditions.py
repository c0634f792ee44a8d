"""Conditions on programs, of which the rows of known defects are made."""

from typing import Callable, FrozenSet, Set, Tuple

from frostproof.strategies.programs import Program, Statement
from frostproof.strategies.statements import BLOCKS

Condition = Callable[[Program], bool]
OFF = ("no_grad", "set_grad_off")
VIEWS = ("view", "views", "same", "same_view")


def _is(statement: Statement, names: Tuple[str, ...]) -> bool:
    return statement.kind in names or statement.operation in names


def has(*names: str) -> Condition:
    """Some statement is of these kinds or names."""
    return lambda program: any(_is(each, names) for each, _ in program.walk())


def inside(blocks: Tuple[str, ...], *names: str) -> Condition:
    """Some statement of these kinds or names (of any, without names) is in one of the blocks."""

    def holds(program: Program) -> bool:
        return any(
            set(around) & set(blocks) and (not names or _is(each, names))
            for each, around in program.walk()
            if each.operation not in BLOCKS
        )

    return holds


def both(*conditions: Condition) -> Condition:
    """All of the conditions."""
    return lambda program: all(condition(program) for condition in conditions)


def either(*conditions: Condition) -> Condition:
    """One of the conditions."""
    return lambda program: any(condition(program) for condition in conditions)


def read_before_write() -> Condition:
    """A tensor is written to after a statement of arithmetic has read it or an alias, or by itself."""

    def holds(program: Program) -> bool:
        read: Set[str] = set()
        for each, _ in program.walk():
            record = each.record
            if record is None:
                continue
            if record.writes and (read or len(set(each.operands)) < len(each.operands)):
                return True
            if each.kind in ("arithmetic", "function", "branch", "write"):
                read.update(each.operands)
        return False

    return holds


def writes_of_another() -> Condition:
    """Some write takes its values from another operand, which may be an alias of what it writes to."""
    return lambda program: any(
        each.record is not None and each.record.writes and len(each.operands) > 1
        for each, _ in program.walk()
    )


def several_writes() -> Condition:
    """More than one statement writes."""
    return lambda program: (
        sum(bool(each.record and each.record.writes) for each, _ in program.walk()) > 1
    )


def scalars() -> Condition:
    """Some tensor is of no dimensions: an input, a sum, or an element."""
    made = has("total", "select", "one_of_unbind", "unbind", "squeeze")
    return lambda program: any(each.shape == () for each in program.inputs) or made(program)


def input_kinds(*kinds: str) -> Condition:
    """Some input is of these kinds, layouts or dtypes."""
    wanted: FrozenSet[str] = frozenset(kinds)
    return lambda program: any(wanted & {each.kind, each.layout, each.dtype} for each in program.inputs)
