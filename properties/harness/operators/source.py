"""Operators as a source of the hunt: cases are calls, modes are laws."""

import random as _random
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import torch

from frostproof.properties.harness.hunting.source import Fact, Refused
from frostproof.properties.harness.operators import laws
from frostproof.properties.harness.operators.coverage import DTYPES
from frostproof.properties.harness.operators.passes import Found, problems_of
from frostproof.properties.harness.operators.reasons import UNDEFINED, excuse
from frostproof.properties.harness.operators.script import BODIES, ROUTES, script
from frostproof.properties.harness.operators.trial import Problem
from frostproof.strategies import operator_database
from frostproof.strategies.operators import TRANSFORMS, OperatorCase, names_of

AT_ONCE = 5  # laws that a case is tried by
SMALLER = 6  # samples that are tried for a smaller one


@dataclass(frozen=True)
class Case:
    """A call of an operator with its dtype, by name."""

    call: OperatorCase
    dtype: str

    @property
    def kind(self) -> torch.dtype:
        """The dtype."""
        kind: torch.dtype = getattr(torch, self.dtype)
        return kind


class Operators:
    """Every operator of torch's database, or the common ones where there is none.

    names: those to draw from; all that run where it is empty. kind: "database" or "table".
    """

    name = "operators"

    def __init__(self, device: str = "cpu", names: Sequence[str] = (), kind: str = "") -> None:
        self.device = device
        self.kind = kind or ("table" if operator_database.problem() else "database")
        self.names = names
        self.sizes = lru_cache(maxsize=64)(self._sizes)

    def modes(self) -> Dict[str, str]:
        return {
            name: "" if laws.NEEDS.get(name, lambda: True)() else f"this torch lacks what {name} needs"
            for name in (*ROUTES, *BODIES)
        }

    def _sizes(self, operator: str, dtype: str) -> Tuple[Tuple[int, int], ...]:
        """(elements, values) of each sample."""
        kind = getattr(torch, dtype)
        if self.kind == "table":
            calls = [OperatorCase(operator).build(self.device, kind)]
        else:
            calls = operator_database.calls(operator, self.device, kind)
        return tuple((sum(one.numel() for one in call.values), len(call.values)) for call in calls)

    def _size(self, case: Case) -> Tuple[int, int]:
        """Of the case's sample; of the table all have one size."""
        sizes = self.sizes(case.call.operator, case.dtype)
        return sizes[case.call.sample if self.kind == "database" else 0]

    def draw(self, random: _random.Random) -> Case:
        while True:
            dtype = random.choice(DTYPES)
            offered = names_of(self.kind, self.device, getattr(torch, dtype))
            names = [name for name in offered if name in (self.names or offered)]
            if not names:
                continue
            operator = random.choice(names)
            sizes = self.sizes(operator, dtype)
            if operator in UNDEFINED or not sizes:
                continue
            sample = random.randrange(len(sizes))
            count = sizes[sample][1]
            frozen = tuple(number for number in range(count) if random.random() < 0.5)
            transform = random.choice(TRANSFORMS)
            mask = frozen if len(frozen) < count else ()
            return Case(OperatorCase(operator, sample, mask, transform, self.kind), dtype)

    def load(self, text: str) -> Case:
        made: Case = eval(text, {"Case": Case, "OperatorCase": OperatorCase})
        return made

    def chosen(self, case: Case, modes: List[str], random: _random.Random) -> List[str]:
        return random.sample(modes, min(AT_ONCE, len(modes)))

    def judge(self, case: Case, mode: str, scene: Optional[str] = None) -> List[Fact]:
        found = Found()
        call = case.call
        masks = [call.frozen] if call.frozen else [()]
        seen = list(problems_of(found, call.build(self.device, case.kind), masks=masks, only=[mode]))
        if found.absent and not seen:
            raise Refused(f"{call.operator} does not take this call")
        return [_fact(problem) for problem in seen]

    def simpler(self, case: Case) -> Iterator[Case]:
        call = case.call
        sizes = self.sizes(call.operator, case.dtype)
        order = sorted(range(len(sizes)), key=lambda number: sizes[number])
        for sample in order[:SMALLER]:
            if sizes[sample] < self._size(case):
                fits = tuple(number for number in call.frozen if number < sizes[sample][1])
                yield replace(case, call=replace(call, sample=sample, frozen=fits))
        if call.frozen:
            yield replace(case, call=replace(call, frozen=()))
        for number in call.frozen:
            kept = tuple(other for other in call.frozen if other != number)
            yield replace(case, call=replace(call, frozen=kept))
        if call.transform != TRANSFORMS[0]:
            yield replace(case, call=replace(call, transform=TRANSFORMS[0]))
        for dtype in DTYPES[: DTYPES.index(case.dtype)]:
            if call.operator in names_of(self.kind, self.device, getattr(torch, dtype)):
                if self.kind == "table" or self.sizes(call.operator, dtype)[call.sample :]:
                    yield replace(case, dtype=dtype)

    def size(self, case: Case) -> Any:
        call = case.call
        elements = self._size(case)[0]
        rank = (TRANSFORMS.index(call.transform), DTYPES.index(case.dtype))
        return elements + 2 * len(call.frozen), rank

    def skeleton(self, case: Case) -> Tuple[str, ...]:
        return (case.call.operator,)

    def contains(self, case: Case, skeleton: Tuple[str, ...]) -> bool:
        return self.skeleton(case) == skeleton

    def covered(self, case: Case, mode: str, fact: Fact) -> str:
        problem = Problem(fact.aspect, fact.subject, fact.sentence)
        call = case.call
        return excuse(problem, call.operator, case.kind, call.transform, self.device) or ""

    def lighter(self, mode: str) -> List[str]:
        """Freezing is told by itself, not as what it is beside a partner."""
        return ["accumulation", mode] if mode == "partners" else [mode]

    def script(self, case: Case, mode: str, fact: Fact) -> str:
        return script(case.call, mode, fact, self.device, case.kind)

    def reference(self, mode: str) -> str:
        return "a plain call of the same operator, with nothing frozen"


def _fact(problem: Problem) -> Fact:
    head = problem.route
    if problem.law == "raised":
        head = f"{head}: {' '.join(problem.sentence.split()[:6])}"[:90]
    return Fact(problem.law, problem.route, problem.sentence[:600], head)


def source(device: str = "cpu") -> Operators:
    """The source."""
    return Operators(device)
