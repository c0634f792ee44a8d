"""The assertion that ends a program: each check of the harness in plain torch.

Also what snapshots are in a program: the values that ``tolist`` gave at that time.
"""

import inspect
import sys
from typing import Any, Callable, Dict, List, Optional

import torch

from frostproof.properties.harness.core import bits, checks
from frostproof.properties.harness.reproducer import facts
from frostproof.properties.harness.reproducer.calls import Call, Calls
from frostproof.properties.harness.reproducer.facts import Known, Snapshot, plain
from frostproof.properties.harness.reproducer.statements import (
    Block,
    Ref,
    Statement,
    contrary,
    every,
)

Parts = Optional[List[Any]]
ROOM = __name__.rpartition(".")[0]


def by_name(call: Call) -> Dict[str, Any]:
    """The arguments of a call, by their names, in order."""
    bound = inspect.signature(call.function).bind(*call.values, **call.named)
    bound.apply_defaults()
    return dict(bound.arguments)


class Tape(Calls):
    """Writes down what a law does with torch while its minimal example is replayed.

    ``instrument`` makes the law and what it uses here tell each call, attribute, operator and
    block. What is torch's is written down; the oracle, the snapshots and the checks are silent: of
    them only the values count. What is known by a name goes by its name, whatever else is small is
    written as a number; a description that is drawn prints itself. ``harness_NAME`` is what
    becomes of a call of the harness's own function of this name.
    """

    # snapshots

    def harness_read_bits(self, call: Call) -> bytes:
        tensor, ref = plain(call.values[0]), self.ref(call.values[0])
        held = Snapshot(bits.read_bits(tensor))
        if ref is None:
            return bytes(held)
        made = self.write(ref, ".tolist()", pure=True)
        made.hint = "was"
        held.ref, held.shape, held.dtype = Ref(made), tuple(tensor.shape), tensor.dtype
        return held

    def harness_has_bits(self, call: Call) -> Any:
        now = self.harness_read_bits(call)
        return (
            self.expression("_1 == _2", now, call.values[1])
            if isinstance(now, Snapshot)
            else call.run()
        )

    def harness_from_bits(self, call: Call) -> torch.Tensor:
        held, _, dtype = map(plain, call.values)
        made: torch.Tensor = call.run()
        if isinstance(held, Snapshot):
            self.learn(made, Ref(self.write("torch.tensor(", held.ref, f", dtype={dtype})", pure=True)))
        return made

    def harness_as_float64(self, call: Call) -> torch.Tensor:
        made: torch.Tensor = call.run()
        ref, split = self.ref(call.values[0]), plain(call.values[0]).dtype.is_complex
        if ref is not None:
            dtype = torch.complex128 if split else torch.float64
            code = self.write("torch.tensor(", ref, f".tolist(), dtype={dtype})", pure=True)
            code = self.write("torch.view_as_real(", Ref(code), ")", pure=True) if split else code
            self.learn(made, Ref(code))
        return made

    def harness_count_cases(self, call: Call) -> None:
        call.run()
        self.cases.append(self.write(pure=True))

    # checks: those of ``core.checks`` are told like a law's own code, down to the comparison

    def judged(self, call: Call, condition: Callable[[Dict[str, Any]], Parts]) -> None:
        """Run a check; where it fails, or each is wanted, write its condition down."""
        given = by_name(call)
        broken: Optional[checks.LawBroken] = None
        self.depth += 1
        try:
            call.run()
        except checks.LawBroken as problem:
            broken = self.failed = problem
        finally:
            self.depth -= 1
        parts = condition(given) if broken is not None or self.every else None
        if parts is not None and (broken is not None or len(parts) < 40):
            what = str(given.get("what", given.get("subject", given.get("sentence"))))
            self.close(parts, what, broken is not None)
        if broken is not None:
            raise broken

    def close(self, parts: List[Any], what: str, broken: bool) -> None:
        """The program ends where the condition does not hold."""
        made = self.write(*parts, f" or sys.exit({self.sentence(what)})")
        made.closes = True
        self.closed = made if broken else self.closed

    def asserted(self, source: str, value: Any) -> Any:
        """A bare ``assert``: a check of its own, whose sentence is its source."""
        if not self.silent() and self.ref(value) is not None and (self.every or not plain(value)):
            self.close(self.text(value, True), source.partition("\n")[0], not plain(value))
        return plain(value)

    def harness_check(self, call: Call) -> None:
        def condition(given: Dict[str, Any]) -> Parts:
            if self.ref(given["condition"]) is not None:
                return self.text(given["condition"], True)
            return self.branched(True) if given["condition"] is True else None

        self.judged(call, condition)

    def branched(self, holds: bool) -> Parts:
        """The condition of the last ``if`` of the function that calls; holds: not its contrary."""
        frame: Any = sys._getframe(1)
        while frame.f_globals.get("__name__", "").startswith(ROOM):
            frame = frame.f_back
        code, value = self.branches.get(id(frame), (None, None))
        ref = self.ref(value) if code is frame.f_code and isinstance(value, Known) else None
        if ref is None:
            return None
        return [ref] if bool(value) == holds else contrary(ref)

    def harness_fail(self, call: Call) -> None:
        raised = sys.exc_info()[1]
        try:
            self.judged(call, lambda given: self.branched(False))
        except checks.LawBroken:
            found = [s for s in every(self.root.body) if s.raised is raised is not None]
            self.closed = found[-1] if found else self.closed
            raise

    def harness_check_within(self, call: Call) -> None:
        def condition(given: Dict[str, Any]) -> Parts:
            ours, theirs = self.ref(given["actual"]), self.ref(given["expected"])
            actual, expected = plain(given["actual"]), plain(given["expected"])
            if ours is None or actual.shape != expected.shape:
                return ["tuple(", ours, f".shape) == {tuple(expected.shape)}"] if ours else None
            if "allowed" in given:
                allowed = plain(given["allowed"])
            else:
                allowed = checks.tolerance(expected, plain(given["rtol"]), plain(given["atol"]))
            with torch.no_grad():  # the worst element is as near as it must be
                one, two = (torch.empty_like(each, dtype=torch.float64) for each in (actual, expected))
                off = (one.copy_(actual) - two.copy_(expected)).abs() / allowed
                off[off != off] = float("inf")
                worst = tuple((off == off.max()).nonzero()[0].tolist())
            index = str(list(worst)) if worst else ""
            wanted: List[Any] = [facts.literal(float(two[worst]), {})]
            if theirs is not None and not theirs.statement.operated and theirs.statement.refs():
                wanted = [theirs, f"{index}.item()"]
            limit = f"{float(allowed.expand_as(one)[worst]):.6g}"
            return ["abs(", ours, f"{index}.item() - ", *wanted, f") <= {limit}"]

        self.judged(call, condition)

    def harness_check_raises(self, call: Call) -> None:
        error, _, what, matching = map(plain, by_name(call).values())
        names = ", ".join(kind.__name__ for kind in (error if isinstance(error, tuple) else (error,)))
        names = f"({names})" if isinstance(error, tuple) else names
        told, leave = f"{matching.lower()!r} in str(error).lower()", f"sys.exit({self.sentence(what)})"
        footer = [f"except {names} as error:", f"    {told} or {leave}"]
        block = Block(attempt=footer if matching else [f"except {names}:", "    pass"])
        self.open[-1].body.append(block)
        self.open.append(block)
        end = Statement([leave], False)
        try:
            call.run()
        except checks.LawBroken as problem:
            self.failed, self.closed = problem, end
            raise
        finally:
            closing = self.closed is end or self.every
            for each in every(block.body):
                each.raised, each.pure = None, each.pure and not closing
            if closing:
                end.closes = True
                block.body.append(end)
            self.open.pop()

    harness_disagree = harness_fail
    harness_check_close = harness_check_within
