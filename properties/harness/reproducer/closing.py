"""The assertion that ends a program: each check of the harness in plain torch.

Also what snapshots are in a program: the values that ``tolist`` gave at that time.
"""

import inspect
import sys
from typing import Any, Dict, List, Optional

import torch

from frostproof.properties.harness.core import bits, checks
from frostproof.properties.harness.reproducer import facts
from frostproof.properties.harness.reproducer.calls import Calls
from frostproof.properties.harness.reproducer.facts import Known, Snapshot, plain
from frostproof.properties.harness.reproducer.statements import (
    Block,
    Ref,
    Statement,
    Unwritable,
    contrary,
    every,
)

Parts = Optional[List[Any]]
ROOM = __name__.rpartition(".")[0]


class Tape(Calls):
    """Writes down what a law does with torch while its minimal example is replayed.

    ``instrument`` makes the law and what it uses here tell each call, attribute, operator and
    block. What is torch's is written down; the oracle, the snapshots and the checks are silent: of
    them only the values count. What is known by a name goes by its name, whatever else is small is
    written as a number; a description that is drawn prints itself. ``harness_NAME`` is what
    becomes of a call of the harness's own function of this name.
    """

    # snapshots

    def harness_read_bits(self, function: Any, values: Any, named: Any) -> bytes:
        tensor, ref = plain(values[0]), self.ref(values[0])
        held = Snapshot(bits.read_bits(tensor))
        if ref is None:
            return bytes(held)
        made = self.write(ref, ".tolist()", pure=True)
        made.hint = "was"
        held.ref, held.shape, held.dtype = Ref(made), tuple(tensor.shape), tensor.dtype
        return held

    def harness_has_bits(self, function: Any, values: Any, named: Any) -> Any:
        now = self.harness_read_bits(bits.read_bits, values, {})
        if not isinstance(now, Snapshot):
            return function(plain(values[0]), values[1])
        return self.compare("==", now, values[1])

    def harness_from_bits(self, function: Any, values: Any, named: Any) -> torch.Tensor:
        held, shape, dtype = map(facts.plain_deep, values)
        made: torch.Tensor = function(bytes(held), tuple(shape), dtype)
        if isinstance(held, Snapshot):
            self.learn(made, Ref(self.write("torch.tensor(", held.ref, f", dtype={dtype})", pure=True)))
        return made

    def harness_as_float64(self, function: Any, values: Any, named: Any) -> torch.Tensor:
        made: torch.Tensor = function(plain(values[0]))
        ref, split = self.ref(values[0]), plain(values[0]).dtype.is_complex
        if ref is not None:
            dtype = torch.complex128 if split else torch.float64
            code = self.write("torch.tensor(", ref, f".tolist(), dtype={dtype})", pure=True)
            code = self.write("torch.view_as_real(", Ref(code), ")", pure=True) if split else code
            self.learn(made, Ref(code))
        return made

    def harness_count_cases(self, function: Any, values: Any, named: Any) -> None:
        function(*map(plain, values))
        self.cases.append(self.write(pure=True))

    # checks: those of ``core.checks`` are told like a law's own code, down to the comparison

    @staticmethod
    def bound(function: Any, values: Any, named: Any) -> Dict[str, Any]:
        bound = inspect.signature(function).bind(*values, **named)
        bound.apply_defaults()
        return dict(bound.arguments)

    def judged(self, function: Any, given: Dict[str, Any], what: str, condition: Any) -> None:
        """Run a check; where it fails, or each is wanted, write down its condition."""
        broken: Optional[checks.LawBroken] = None
        self.depth += 1
        try:
            self.run(function, (), given)
        except checks.LawBroken as problem:
            broken = self.failed = problem
        finally:
            self.depth -= 1
        if broken is not None or self.every:
            try:
                parts: Parts = condition()
            except Unwritable:
                parts = None
            if parts is not None and (broken is not None or len(parts) < 40):
                self.close(parts, broken, what)
        if broken is not None:
            raise broken

    def harness_check(self, function: Any, values: Any, named: Any) -> None:
        given = self.bound(function, values, named)

        def condition() -> Parts:
            if self.ref(values[0]) is not None:
                return self.text(values[0], True)
            return self.branched(True) if values[0] is True else None

        self.judged(function, given, given["sentence"], condition)

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

    def harness_fail(self, function: Any, values: Any, named: Any) -> None:
        given, raised = self.bound(function, values, named), sys.exc_info()[1]
        what = given.get("subject", given["sentence"])
        try:
            self.judged(function, given, what, lambda: self.branched(False))
        except checks.LawBroken:
            found = [s for s in every(self.root.body) if s.raised is raised is not None]
            self.closed = found[-1] if found else self.closed
            raise

    def harness_check_within(self, function: Any, values: Any, named: Any) -> None:
        given = self.bound(function, values, named)

        def condition() -> Parts:
            actual, expected = plain(given["actual"]), plain(given["expected"])
            allowed = plain(given.get("allowed"))
            if allowed is None:
                allowed = checks.tolerance(expected, plain(given["rtol"]), plain(given["atol"]))
            ours, theirs = self.ref(given["actual"]), self.ref(given["expected"])
            if ours is None:
                return None
            if tuple(actual.shape) != tuple(expected.shape):
                return ["tuple(", ours, f".shape) == {tuple(expected.shape)}"]
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

        self.judged(function, given, given["what"], condition)

    def harness_check_raises(self, function: Any, values: Any, named: Any) -> None:
        given = self.bound(function, values, named)
        kinds = given["error"] if isinstance(given["error"], tuple) else (given["error"],)
        names = [kind.__name__ for kind in kinds]
        error = names[0] if len(names) == 1 else f"({', '.join(names)})"
        what, matching, action = plain(given["what"]), plain(given["matching"]), given["action"]
        block = Block(attempt=lambda: [f"except {error}:", "    pass"])
        self.open[-1].body.append(block)
        self.open.append(block)
        broken: Optional[checks.LawBroken] = None
        try:
            function(given["error"], lambda: self.called(action, (), {}), what, matching)
        except checks.LawBroken as problem:
            broken = self.failed = problem
        finally:
            self.open.pop()
        inside = [each for each in block.body if isinstance(each, Statement)]
        for each in inside:
            each.raised = None
        if broken is None and not self.every:
            return
        told = f"sys.exit({self.sentence(what)})"
        passed = f'"{matching.lower()}" in str(error).lower() or {told}' if matching else "pass"
        block.attempt = lambda: [
            f"except {error}{' as error' if matching else ''}:",
            f"    {passed}",
            "else:",
            f"    sys.exit({self.sentence(what + ': nothing was raised')})",
        ]
        for each in inside:
            each.pure = False
        end = Statement([], False)
        end.closes = True
        block.body.append(end)
        if broken is not None:
            self.closed = end
            raise broken

    harness_disagree = harness_fail
    harness_check_close = harness_check_within
