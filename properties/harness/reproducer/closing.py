"""The assertion that ends a program: each check of the harness in plain torch.

Also what snapshots are in a program: the values that ``tolist`` gave at that time.
"""

import inspect
import sys
from typing import Any, Callable, Dict, List, Optional

import torch

from frostproof.properties.harness.core import bits, checks
from frostproof.properties.harness.reproducer import facts
from frostproof.properties.harness.reproducer.calls import SPECIAL
from frostproof.properties.harness.reproducer.facts import Known, Snapshot, plain
from frostproof.properties.harness.reproducer.statements import (
    Block,
    Ref,
    Statement,
    Unwritable,
    contrary,
    every,
)
from frostproof.properties.harness.reproducer.tape import Tape

Parts = Optional[List[Any]]


def special(name: str) -> Callable[[Any], Any]:
    """Register what the tape does where a law calls a function of the harness of this name."""

    def register(function: Any) -> Any:
        SPECIAL[name] = function
        return function

    return register


# snapshots


def snapshot_of(tape: Tape, tensor: torch.Tensor) -> bytes:
    """``read_bits``, and a statement that keeps the values."""
    held = Snapshot(bits.read_bits(tensor))
    ref = tape.ref(tensor)
    if ref is None:
        return bytes(held)
    made = tape.write(ref, ".tolist()", pure=True)
    made.hint = "was"
    held.ref, held.shape, held.dtype = Ref(made), tuple(tensor.shape), tensor.dtype
    return held


@special("read_bits")
def _read_bits(tape: Tape, function: Any, values: Any, named: Any) -> bytes:
    return snapshot_of(tape, plain(values[0]))


@special("has_bits")
def _has_bits(tape: Tape, function: Any, values: Any, named: Any) -> Any:
    tensor, held = map(plain, values)
    value = function(tensor, bytes(held))
    now = snapshot_of(tape, tensor)
    try:
        parts = tape.snapshots("==", now, held) if isinstance(now, Snapshot) else None
    except Unwritable:
        parts = None
    return value if not parts else tape.computed(value, *parts)


@special("from_bits")
def _from_bits(tape: Tape, function: Any, values: Any, named: Any) -> torch.Tensor:
    held, shape, dtype = (facts.plain_deep(value) for value in values)
    made: torch.Tensor = function(bytes(held), tuple(shape), dtype)
    if isinstance(held, Snapshot):
        tape.learn(made, Ref(tape.write("torch.tensor(", held.ref, f", dtype={dtype})", pure=True)))
    return made


@special("as_float64")
def _as_float64(tape: Tape, function: Any, values: Any, named: Any) -> torch.Tensor:
    tensor = plain(values[0])
    made: torch.Tensor = function(tensor)
    ref = tape.ref(tensor)
    if ref is not None:
        if tensor.dtype.is_complex:
            parts: List[Any] = [
                "torch.view_as_real(torch.tensor(",
                ref,
                ".tolist(), dtype=torch.complex128))",
            ]
        else:
            parts = ["torch.tensor(", ref, ".tolist(), dtype=torch.float64)"]
        tape.learn(made, Ref(tape.write(*parts, pure=True)))
    return made


@special("count_cases")
def _count_cases(tape: Tape, function: Any, values: Any, named: Any) -> None:
    function(*map(plain, values))
    tape.cases.append(tape.write(pure=True))


# conditions


def close(tape: Tape, actual: torch.Tensor, expected: torch.Tensor, allowed: torch.Tensor) -> Parts:
    """The condition that the worst element is as near as it must be."""
    ours, theirs = tape.ref(actual), tape.ref(expected)
    if ours is None:
        return None
    if tuple(actual.shape) != tuple(expected.shape):
        return ["tuple(", ours, f".shape) == {tuple(expected.shape)}"]
    with torch.no_grad():
        one = torch.empty(tuple(actual.shape), dtype=torch.float64).copy_(actual)
        two = torch.empty(tuple(expected.shape), dtype=torch.float64).copy_(expected)
        off = (one - two).abs() / allowed
        off[off != off] = float("inf")
        worst = tuple((off == off.max()).nonzero()[0].tolist())
    index = str(list(worst)) if worst else ""
    wanted: List[Any] = [facts.number(float(two[worst]), torch.float64)]
    if theirs is not None and not theirs.statement.operated and theirs.statement.refs():
        wanted = [theirs, f"{index}.item()"]
    limit = f"{float(allowed.expand_as(one)[worst]):.6g}"
    return ["abs(", ours, f"{index}.item() - ", *wanted, f") <= {limit}"]


# checks: those of ``core.checks`` are told like a law's own code, down to the comparison


def _bound(function: Any, values: Any, named: Any) -> Dict[str, Any]:
    bound = inspect.signature(function).bind(*map(plain, values), **named)
    bound.apply_defaults()
    return dict(bound.arguments)


def judged(tape: Tape, function: Any, given: Dict[str, Any], what: str, condition: Any) -> None:
    """Run a check; where it fails, or each is wanted, write down its condition."""
    broken: Optional[checks.LawBroken] = None
    tape.depth += 1
    try:
        function(**{name: facts.plain_deep(value) for name, value in given.items()})
    except checks.LawBroken as problem:
        broken = tape.failed = problem
    finally:
        tape.depth -= 1
    if broken is not None or tape.every:
        try:
            parts: Parts = condition()
        except Unwritable:
            parts = None
        if parts is not None and (broken is not None or len(parts) < 40):
            tape.close(parts, broken, what)
    if broken is not None:
        raise broken


@special("check")
def _check(tape: Tape, function: Any, values: Any, named: Any) -> None:
    given = _bound(function, values, named)

    def condition() -> Parts:
        if tape.ref(values[0]) is not None:
            return tape.text(values[0], True)
        return branched(tape, True) if values[0] is True else None

    judged(tape, function, given, given["sentence"], condition)


def branched(tape: Tape, holds: bool) -> Parts:
    """The condition of the last ``if`` of the function that calls; holds: not its contrary."""
    frame: Any = sys._getframe(1)
    while frame.f_globals.get("__name__", "").startswith("frostproof.properties.harness.reproducer"):
        frame = frame.f_back
    code, value = tape.branches.get(id(frame), (None, None))
    ref = tape.ref(value) if code is frame.f_code and isinstance(value, Known) else None
    if ref is None:
        return None
    return [ref] if bool(value) == holds else contrary(ref)


@special("disagree")
@special("fail")
def _fail(tape: Tape, function: Any, values: Any, named: Any) -> None:
    given, raised = _bound(function, values, named), sys.exc_info()[1]
    what = given.get("subject", given["sentence"])
    try:
        judged(tape, function, given, what, lambda: branched(tape, False))
    except checks.LawBroken:
        found = [s for s in every(tape.root.body) if s.raised is raised is not None]
        if found:
            tape.closed = found[-1]
        raise


@special("check_close")
@special("check_within")
def _check_within(tape: Tape, function: Any, values: Any, named: Any) -> None:
    given = _bound(function, values, named)
    actual, expected = given["actual"], given["expected"]

    def condition() -> Parts:
        allowed = given.get("allowed")
        if allowed is None:
            allowed = checks.tolerance(expected, given["rtol"], given["atol"])
        return close(tape, actual, expected, allowed)

    judged(tape, function, given, given["what"], condition)


@special("check_raises")
def _check_raises(tape: Tape, function: Any, values: Any, named: Any) -> None:
    given = _bound(function, values, named)
    kinds = given["error"] if isinstance(given["error"], tuple) else (given["error"],)
    names = [kind.__name__ for kind in kinds]
    error = names[0] if len(names) == 1 else f"({', '.join(names)})"
    what, matching, action = plain(given["what"]), plain(given["matching"]), given["action"]
    block = Block(attempt=lambda: [f"except {error}:", "    pass"])
    tape.open[-1].body.append(block)
    tape.open.append(block)

    def act() -> None:
        tape.called(action, (), {})

    broken: Optional[checks.LawBroken] = None
    try:
        function(given["error"], act, what, matching)
    except checks.LawBroken as problem:
        broken = problem
    finally:
        tape.open.pop()
    for each in block.body:
        if isinstance(each, Statement):
            each.raised = None
    if broken is not None or tape.every:
        told = tape.sentence(what)
        passed = (
            f'"{matching.lower()}" in str(error).lower() or sys.exit({told})' if matching else "pass"
        )
        block.attempt = lambda: [
            f"except {error}{' as error' if matching else ''}:",
            f"    {passed}",
            "else:",
            f"    sys.exit({tape.sentence(what + ': nothing was raised')})",
        ]
        end = Statement([], False)
        end.closes = True
        block.body.append(end)
        for each in block.body:
            if isinstance(each, Statement):
                each.pure = False
        if broken is not None:
            tape.closed = end
    if broken is not None:
        tape.failed = broken
        raise broken
