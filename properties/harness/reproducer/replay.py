"""The program of a broken law: its minimal example is replayed, and what it does written down."""

import contextlib
import dataclasses
import io
import itertools
import os
import sys
import warnings
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

import pytest
import torch

from frostproof.properties.harness.core.checks import LawBroken
from frostproof.properties.harness.reproducer import closing, facts
from frostproof.properties.harness.reproducer.case import Case
from frostproof.properties.harness.reproducer.instrument import instrumented
from frostproof.properties.harness.reproducer.statements import (
    Hole,
    Program,
    Slice,
    Statement,
    TooLong,
    Unwritable,
    every,
)
from frostproof.properties.harness.reproducer.tape import Tape

assert closing is not None  # it says what the checks are in a program

# Of the package, what is silent: only its values count.
QUIET = (
    "frostproof.properties.harness.core.bits",
    "frostproof.properties.harness.core.law",
    "frostproof.properties.harness.reference.oracle",
    "frostproof.properties.harness.reference.update_rules",
    "frostproof.properties.harness.reproducer.",
    "frostproof.properties.harness.machine.",
    "frostproof.properties.harness.session.",
    "frostproof.properties.harness.report.",
    "frostproof.properties.harness.own.",
    "frostproof.properties.harness.defects.known",
    "frostproof.properties.selftest.",
    "frostproof.strategies.capabilities",
    "frostproof.strategies.digits",
    "frostproof.strategies.literals",
    "frostproof.strategies.network_code",
    "frostproof.strategies.tensor_code",
)


class Replayed:
    """Stands in for ``st.DataObject``: gives what was drawn, once more."""

    def __init__(self, drawn: List[Any]) -> None:
        self.drawn = drawn
        self.place = 0

    def draw(self, strategy: Any, label: Any = None) -> Any:
        """The next of what was drawn."""
        self.place += 1
        return self.drawn[self.place - 1]


class Own:
    """Whether a function, class or object is of the law's file, what lies beside it, or the harness."""

    def __init__(self, law: Any) -> None:
        self.files: Dict[str, bool] = {}
        folder = os.path.dirname(law.__code__.co_filename)
        quiet = []
        for name, module in list(sys.modules.items()):
            path = getattr(module, "__file__", None) or ""
            if name.startswith("frostproof."):
                told = not any(
                    name == each or (each[-1] == "." and name.startswith(each)) for each in QUIET
                )
                self.files.setdefault(path, told)
                quiet += [] if told else [path]
            elif path and os.path.dirname(path) == folder:
                self.files.setdefault(path, "conftest" not in path)
        for path in quiet:
            self.files[path] = False
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
        values["data"] = Replayed(list(case.drawn))
    return values


def play(law: Any, case: Case, tape: Tape) -> Optional[BaseException]:
    """Run one example; what it raised."""
    own = tape.own
    hook, mode = sys.excepthook, torch.is_grad_enabled()
    torch.set_grad_enabled(True)
    try:
        with instrumented(own, tape), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                history(case) if case.values.get("events") else law(**arguments(case))
            except LawBroken:
                tape.rehearse()
                raise
    except (Exception, TooLong, pytest.skip.Exception) as problem:
        return problem
    finally:
        sys.excepthook = hook
        torch.set_grad_enabled(mode)
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
    hook, mode = sys.excepthook, torch.is_grad_enabled()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            exec(compile(text, "<reproducer>", "exec"), {"__name__": "__main__"})
    except SystemExit as ended:
        return None if not ended.code else str(ended.code)
    except (Exception, pytest.skip.Exception) as raised:
        return f"{type(raised).__name__}: {raised}"
    finally:
        sys.excepthook = hook
        torch.set_grad_enabled(mode)
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
    if tape.closed is None:
        return {}
    word = "moved" if getattr(tape.failed, "relation", "") in ("same bits", "moved") else "named"
    waiting, seen = tape.closed.refs(), []
    while waiting:
        ref = waiting.pop()
        seen.append(ref)
        waiting += [] if ref.statement.source else ref.statement.refs()
    found: Dict[str, str] = {}
    for module, own in tape.modules:
        places = {id(part): place for part, place in facts.places(module)}
        for name, parameter in module.named_parameters():
            place = own.at(places[id(parameter)]).path
            for ref in seen:
                if ref.statement is own.statement and ref.path.startswith(place):
                    exact = word == "moved" and ref.path == place
                    found[name] = "moved" if exact else found.get(name, "named")
    return found


def recorded(tape: Tape, law: Any, case: Case) -> Tuple[str, str]:
    """(the program that shows what broke the law, why there is none)."""
    problem = play(law, case, tape)
    if problem is None:
        return "", "replayed once, this example holds: it takes more than one run of it"
    if isinstance(problem, (Unwritable, TooLong)):
        return "", str(problem)
    end = tape.closed
    raised = not isinstance(problem, LawBroken) or (end is not None and end.raised is not None)
    if not isinstance(problem, LawBroken):
        found = [s for s in every(tape.root.body) if s.raised is problem]
        end = found[-1] if found else None
    if raised and end is not None:
        end.closes = True
    if end is None:
        return "", (
            f"{type(problem).__name__} was raised by the law's own code, not by what it calls"
            if raised
            else "what the assertion compares comes from the law's own code, not from what it calls"
        )
    return shortest(tape, end, case, raised)


def candidates(
    tape: Tape, end: Statement, case: Case, raised: bool = False
) -> Iterator[Tuple[Set[int], str, str]]:
    """(what is kept, the program, why there is none) for one end: the shorter ones first.

    Where the law holds each of them ends well.
    """
    place = {id(each): number for number, each in enumerate(every(tape.root.body))}
    cases = (place.get(id(each), len(place)) for each in tape.cases)
    last = max((number for number in cases if number < place[id(end)]), default=0)
    ends = [end, *(each for each in tape.triggers if place[id(each)] <= place[id(end)])]
    for whole, since in dict.fromkeys([(False, last), (False, 0), (True, 0)]):
        kept = Slice(tape.root, ends, whole, since).kept
        yield (kept, *written(tape, kept, case, raised))


def everything(
    tape: Tape, end: Statement, case: Case, raised: bool
) -> Iterator[Tuple[Set[int], str, str]]:
    """As a candidate: all that is made until the end, needed or not."""
    order = list(every(tape.root.body))
    order = order[: max(map(order.index, [end, *tape.triggers])) + 1]
    if len(order) <= 300 and all(each.pure or writable(each) for each in order):
        kept = {id(each) for each in order if writable(each)}
        yield (kept, *written(tape, kept, case, raised))


def written(tape: Tape, kept: Set[int], case: Case, raised: bool) -> Tuple[str, str]:
    """(the program of these statements, why there is none)."""
    try:
        return Program(tape.root, kept, case.headline()).text(hooked=raised), ""
    except (Unwritable, SyntaxError) as problem:
        return "", str(problem)


def shortest(tape: Tape, end: Statement, case: Case, raised: bool) -> Tuple[str, str]:
    """The shortest of the programs that end as the law did."""
    seen = ""
    ways = (way(tape, end, case, raised) for way in (candidates, everything))
    for kept, text, why in itertools.chain.from_iterable(ways):
        ends = None if why else outcome(text)
        if ends is None:
            seen = why or seen
        elif ends.startswith(type(end.raised).__name__) if raised else own_end(ends, text):
            return shortened(tape, case, kept, text, ends, raised), ""
        elif not raised:
            seen = f"run alone it ends otherwise: {ends}"
    return "", seen or "run alone it does not show this"


def shortened(tape: Tape, case: Case, kept: Set[int], text: str, ends: str, raised: bool) -> str:
    """Without what is made for nothing, where the program still ends so."""
    order = [each for each in every(tape.root.body) if id(each) in kept and not each.closes]
    for each in reversed(order):
        used = any(ref.statement is each for s in order if id(s) in kept for ref in s.refs())
        if each.pure and not used:
            fewer, _ = written(tape, kept - {id(each)}, case, raised)
            if fewer and outcome(fewer) == ends:
                kept, text = kept - {id(each)}, fewer
    return text


def writable(statement: Statement) -> bool:
    """Whether neither a statement nor what it refers to has a hole."""
    holes = any(isinstance(part, Hole) for part in statement.parts)
    return not holes and all(writable(ref.statement) for ref in statement.refs())


def own_end(ends: str, text: str) -> bool:
    """Whether a program ended by its assertion, not by an error on the way."""
    return repr(ends) in text or ends in text
