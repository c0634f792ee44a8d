"""The program of a broken law: its minimal example is replayed, and what it does written down."""

import contextlib
import dataclasses
import io
import os
import sys
import types
import warnings
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

import pytest
import torch

from frostproof.properties.harness.core.checks import LawBroken
from frostproof.properties.harness.reproducer import facts
from frostproof.properties.harness.reproducer.closing import Tape
from frostproof.properties.harness.reproducer.instrument import instrumented
from frostproof.properties.harness.reproducer.statements import (
    Slice,
    Statement,
    TooLong,
    Unwritable,
    blocks,
    every,
    writable,
)
from frostproof.properties.harness.reproducer.text import Program
from frostproof.properties.harness.running.case import Case

# Of the package, what is silent: only its values count.
QUIET = tuple(
    f"frostproof.{name}"
    for name in (
        *("properties.selftest.", "properties.harness.core.bits", "properties.harness.core.law"),
        *("properties.harness.core.own_warnings", "properties.harness.running.recording"),
        *("properties.harness.reference.oracle", "properties.harness.reference.update_rules"),
        *("properties.harness.defects.known", "strategies.capabilities", "strategies.digits"),
        *("strategies.literals", "strategies.network_code", "strategies.tensor_code"),
        *(
            f"properties.harness.{room}."
            for room in ("machine", "own", "report", "reproducer", "session")
        ),
    )
)


class Own:
    """Whether a function, class or object is of the law's file, what lies beside it, or the harness."""

    def __init__(self, law: Any) -> None:
        self.files: Dict[str, bool] = {}
        folder = os.path.dirname(law.__code__.co_filename)
        for name, module in list(sys.modules.items()):
            path = getattr(module, "__file__", None) or ""
            if name.startswith("frostproof."):
                self.files[path] = self.files.get(path, True) and not name.startswith(QUIET)
            elif path and os.path.dirname(path) == folder:
                self.files.setdefault(path, "conftest" not in path)
        self.files[law.__code__.co_filename] = True

    def __call__(self, thing: Any) -> bool:
        thing = getattr(thing, "__func__", thing)
        code = getattr(thing, "__code__", None)
        if code is not None:
            return self.files.get(code.co_filename, False)
        kind = thing if isinstance(thing, type) else type(thing)
        module = sys.modules.get(kind.__module__)
        return self.files.get(getattr(module, "__file__", None) or "", False)


def arguments(case: Case) -> Dict[str, Any]:
    """What to call the law with."""
    values = {name: value for name, value in case.values.items() if name != "events"}
    if case.drawn or case.draws_data:
        drawn = iter(list(case.drawn))
        values["data"] = types.SimpleNamespace(draw=lambda strategy, label=None: next(drawn))
    return values


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """What runs inside begins with gradients on, and leaves modes, hooks and warnings as they were."""
    hook, mode = sys.excepthook, torch.is_grad_enabled()
    torch.set_grad_enabled(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.excepthook = hook
        torch.set_grad_enabled(mode)


def play(law: Any, case: Case, tape: Tape) -> Optional[BaseException]:
    """Run one example; what it raised."""
    try:
        with alone(), instrumented(tape.own, tape):
            try:
                history(case) if case.values.get("events") else law(**arguments(case))
            except AssertionError:
                tape.rehearse()
                raise
    except (Exception, TooLong, pytest.skip.Exception) as problem:
        return problem
    return None


def history(case: Case) -> None:
    """The events of a state machine once more, and after each what must hold."""
    machine = type(case.machine)()
    for name, given in case.values["events"]:
        getattr(machine, name)(**given)
        found = machine.invariants
        for invariant in found() if callable(found) else found:
            invariant.function(machine)


def outcome(text: str) -> Optional[str]:
    """How a program ends when run here: None where it ends well, else its sentence or its error.

    It runs in this process, because a torch that was broken by hand is broken only here.
    """
    try:
        with alone(), contextlib.redirect_stderr(io.StringIO()):
            exec(compile(text, "<reproducer>", "exec"), {"__name__": "__main__"})
    except SystemExit as ended:
        return None if not ended.code else str(ended.code)
    except (Exception, pytest.skip.Exception) as raised:
        return f"{type(raised).__name__}: {raised}"
    return None


@dataclasses.dataclass
class Found:
    """The program that shows what broke a law, or why there is none.

    marks: the parameters that the broken assertion is about, by the description's names: "moved"
    or "named"; networks: the nets that were built.
    """

    program: str = ""
    why: str = ""
    marks: Dict[str, str] = dataclasses.field(default_factory=dict)
    networks: List[Any] = dataclasses.field(default_factory=list)


def found_by(law: Any, case: Case) -> Found:
    """The program that shows what broke the law in this case."""
    tape = Tape(Own(law))
    text, why = recorded(tape, law, case)
    networks = [getattr(module, "description", None) for module, _ in tape.modules]
    return Found(text, why, marks(tape), [each for each in networks if each is not None])


def marks(tape: Tape) -> Dict[str, str]:
    """The parameters that the closing assertion speaks of."""
    moved = getattr(tape.failed, "relation", "") in ("same bits", "moved")
    waiting, seen = tape.closed.refs() if tape.closed else [], []
    while waiting:
        seen.append(waiting.pop())
        waiting += seen[-1].statement.refs()
    found: Dict[str, str] = {}
    for module, own in tape.modules:
        places = {id(part): own.path + place for part, place in facts.places(module)}
        for name, parameter in module.named_parameters():
            place = places[id(parameter)]
            paths = [ref.path for ref in seen if ref.statement is own.statement]
            if any(path.startswith(place) for path in paths):
                found[name] = "moved" if moved and place in paths else "named"
    return found


def recorded(tape: Tape, law: Any, case: Case) -> Tuple[str, str]:
    """(the program that shows what broke the law, why there is none)."""
    problem = play(law, case, tape)
    if problem is None:
        return "", "replayed once, this example holds: it takes more than one run of it"
    if isinstance(problem, TooLong):
        return "", str(problem)
    end = tape.closed
    if not isinstance(problem, AssertionError) or (end is None and not isinstance(problem, LawBroken)):
        found = [each for each in every(tape.root.body) if each.raised is problem]
        end = found[-1] if found else None
    raised = not isinstance(problem, AssertionError) or (end is not None and end.raised is not None)
    if raised and end is not None:
        end.closes = True
    if end is None:
        return "", (
            f"{type(problem).__name__} was raised by the law's own code, not by what it calls"
            if raised
            else "what the assertion compares comes from the law's own code, not from what it calls"
        )
    return shortest(tape, end, case, raised)


def candidates(tape: Tape, end: Statement) -> Iterator[Set[int]]:
    """What to keep for one end, the shorter ones first: where the law holds each of them ends well."""
    order = list(every(tape.root.body))
    place = {id(each): number for number, each in enumerate(order)}
    before = [place[id(each)] for each in tape.cases if id(each) in place]
    last = max((number for number in before if number < place[id(end)]), default=0)
    ends = [end, *tape.triggers]
    for whole, since in dict.fromkeys([(False, last), (False, 0), (True, 0)]):
        yield Slice(tape.root, ends, whole, since).kept
    order = order[: max(place[id(each)] for each in ends) + 1]
    if len(order) <= 300 and all(each.pure or writable(each) for each in order):
        yield {id(each) for each in order if writable(each)}  # all that is made, needed or not


def written(tape: Tape, kept: Set[int], case: Case, raised: bool = False) -> Tuple[str, str]:
    """(the program of these statements, why there is none)."""
    try:
        return Program(tape.root, kept, case.headline(), raised).text(), ""
    except (Unwritable, SyntaxError) as problem:
        return "", str(problem)


def shortest(tape: Tape, end: Statement, case: Case, raised: bool) -> Tuple[str, str]:
    """The shortest of the programs that end as the law did."""
    seen = ""
    for kept in candidates(tape, end):
        text, why = written(tape, kept, case, raised)
        ends = None if why else outcome(text)
        if ends is None:
            seen = why or seen
        elif ends.startswith(type(end.raised).__name__) if raised else own_end(ends, text):
            return shortened(tape, case, kept, text, ends, raised), ""
        elif not raised:
            seen = f"run alone it ends otherwise: {ends}"
    return "", seen or "run alone it does not show this"


def shortened(tape: Tape, case: Case, kept: Set[int], text: str, ends: str, raised: bool) -> str:
    """Without what is made for nothing or sets what is so already, where the program ends so still."""
    order = [each for each in every(tape.root.body) if id(each) in kept]
    managers = [block.manager.statement for block in blocks(tape.root.body) if block.manager]
    for each in reversed(order):
        used = any(ref.statement is each for s in order if id(s) in kept for ref in s.refs())
        for_nothing = each.pure and not (used or each.closes or each in managers)
        if for_nothing or (each.idle and untouched(each, order)):
            fewer, _ = written(tape, kept - {id(each)}, case, raised)
            shorter = for_nothing or fewer.count("\n") < text.count("\n")
            if fewer and shorter and outcome(fewer) == ends:
                kept, text = kept - {id(each)}, fewer
    return text


def untouched(statement: Statement, order: List[Statement]) -> bool:
    """Whether what a statement sets is, before it, as it was made."""

    def touched(each: Statement) -> Set[int]:
        found = {id(ref.statement) for ref in each.refs()}
        return found.union(*(touched(ref.statement) for ref in each.refs()))

    mine, place = touched(statement), statement.parts[0].path
    for each in order[: order.index(statement)]:
        if not each.pure and touched(each) & mine:
            there = each.parts[0].path if each.sets else ""
            apart = not (there.startswith(place) or place.startswith(there))
            if not each.sets or (each.sets == statement.sets and not apart):
                return False
    return True


def own_end(ends: str, text: str) -> bool:
    """Whether a program ended by its assertion, not by an error on the way."""
    return repr(ends) in text or ends in text
