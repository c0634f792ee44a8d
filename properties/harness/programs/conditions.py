"""Conditions on programs, of which the rows of known defects are made."""

from typing import Callable, Dict, FrozenSet, Set, Tuple

from frostproof.strategies.program_inputs import OF_FIRST
from frostproof.strategies.programs import ALIASING, Program, Statement
from frostproof.strategies.statements import BLOCKS, Facts, outcome

Condition = Callable[[Program], bool]
OFF = ("no_grad", "set_grad_off")
VIEWS = ("view", "views", "same", "same_view")
CHUNKS = ("views", "one_chunk", "one_of_unbind")
SET_DATA = ("set_data", "set_data_clone")
FOREACH = ("foreach_add_", "foreach_copy_", "foreach_both_")
COPIES = ("detach_clone", "stop_gradient")  # detached, and of other memory
COMPLEX = ("complex64", "complex128")


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


def two_inputs_written() -> Condition:
    """Two inputs are written to by their names."""

    def holds(program: Program) -> bool:
        names, written = {each.name for each in program.inputs}, set()
        for each, _ in program.walk():
            if each.record is not None and each.record.writes:
                written |= {each.operands[place] for place in each.record.writes}
        return len(names & written) > 1

    return holds


def returns_several() -> Condition:
    """More than one tensor is returned."""
    return lambda program: len(program.returns) > 1


def scalars() -> Condition:
    """Some float64 tensor is of no dimensions."""

    def holds(program: Program) -> bool:
        facts: Dict[str, Facts] = {each.name: (each.shape, each.dtype) for each in program.inputs}
        found = [*facts.values()]
        for each, _ in program.walk():
            if each.record is None or not facts.keys() >= {*each.operands}:
                continue
            operands = tuple(facts[name] for name in each.operands)
            told = outcome(each.operation, each.argument, operands)
            if told is not None:
                facts.update(zip((*each.targets, *each.operands), (*told[0], *told[1])))
                found += facts.values()
        return ((), "float64") in found

    return holds


def input_kinds(*kinds: str) -> Condition:
    """Some input is of these kinds, layouts or dtypes."""
    wanted: FrozenSet[str] = frozenset(kinds)
    return lambda program: any(wanted & {each.kind, each.layout, each.dtype} for each in program.inputs)


def reads_what_it_writes(other_name: bool = False) -> Condition:
    """Some write takes values from the memory that it writes to; other_name: from an alias of it."""

    def holds(program: Program) -> bool:
        first = program.inputs[0].name
        roots: Dict[str, str] = {
            n.name: first if n.kind in OF_FIRST else n.name for n in program.inputs
        }
        for each, _ in program.walk():
            if each.record is None:
                continue
            aliases = each.kind in ALIASING and each.operation not in COPIES
            for name in each.targets:
                roots[name] = roots[each.operands[0]] if aliases else name
            if each.record.writes:
                written = each.operands[each.record.writes[0]]
                if any(
                    roots[name] == roots[written] and not (other_name and name == written)
                    for name in each.operands[1:]
                ):
                    return True
        return False

    return holds
