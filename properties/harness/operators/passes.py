"""A pass of all laws over calls of operators, and what it found."""

from dataclasses import dataclass, field
from typing import Callable, Dict, Iterable, Iterator, List, Sequence, Tuple

import torch

from frostproof.properties.harness.core.checks import Tally
from frostproof.properties.harness.operators import laws as operator_laws
from frostproof.properties.harness.operators.modules import laws as module_laws
from frostproof.properties.harness.operators.modules import masks_of
from frostproof.properties.harness.operators.reasons import UNDEFINED, excuse
from frostproof.properties.harness.operators.trial import Problem, Trial, offered
from frostproof.strategies import operator_database, operator_modules
from frostproof.strategies.operator_calls import Call, whole

Laws = Callable[[Trial, Sequence[Tuple[int, ...]]], Dict[str, Callable[[], None]]]


@dataclass(frozen=True)
class Alarm:
    """A law that one call broke. masks: those that were tried, () for those of the call itself."""

    operator: str
    call: Call
    dtype: torch.dtype
    transform: str
    device: str
    problem: Problem
    masks: Sequence[Tuple[int, ...]]

    @property
    def sentence(self) -> str:
        """What is told of it."""
        kind, problem = str(self.dtype).rpartition(".")[2], self.problem
        code = f"  [{self.call.code[:160]}]" if self.call.code else ""
        what = f"{problem.law} {problem.route}: {problem.sentence}"
        return f"{self.operator} ({kind}, {self.transform}): {what}{code}"


@dataclass
class Found:
    """What a pass has seen: alarms, and how much was looked at."""

    alarms: List[Alarm] = field(default_factory=list)
    operators: int = 0
    calls: int = 0
    known: Dict[str, int] = field(default_factory=dict)
    absent: int = 0


def try_call(
    found: Found,
    name: str,
    call: Call,
    dtype: torch.dtype,
    *,
    device: str = "cpu",
    transform: str = "plain",
    masks: Sequence[Tuple[int, ...]] = (),
    only: Sequence[str] = (),
    laws: Laws = operator_laws.laws,
) -> None:
    """All laws, or those named, on one call. laws: gives them by name for a trial and masks."""
    for problem in problems_of(found, call, masks=masks, only=only, laws=laws):
        why = excuse(problem, name, dtype, transform, device)
        if why is None:
            found.alarms.append(Alarm(name, call, dtype, transform, device, problem, masks))
        else:
            found.known[why] = found.known.get(why, 0) + 1


def problems_of(
    found: Found,
    call: Call,
    *,
    masks: Sequence[Tuple[int, ...]] = (),
    only: Sequence[str] = (),
    laws: Laws = operator_laws.laws,
) -> Iterator[Problem]:
    """What breaks a law on one call, whether a row excuses it or not; counted in ``found``."""
    try:
        trial = Trial(call)
    except (RuntimeError, NotImplementedError, ValueError, TypeError) as refused:
        found.absent += 1
        if "internal assert" in str(refused).lower():
            yield Problem("raised", "forward", str(refused))
        return
    if not trial.learns:
        found.absent += 1
        return
    found.calls += 1
    for law, action in laws(trial, list(masks) or list(trial.masks())).items():
        if only and law not in only:
            continue
        before = len(trial.found)
        try:
            with operator_database.quiet():
                action()
        except Exception as raised:
            if offered(raised):
                said = f"{type(raised).__name__}: {raised}".split("\n")[0][:200]
                trial.expect("raised", law, False, said)
        finally:
            torch.set_grad_enabled(True)
        for problem in trial.found[before:]:
            problem.mode = law
            yield problem
    Tally.assertions += trial.checks


def try_database(
    found: Found, names: Iterable[str], device: str, dtype: torch.dtype, most: int, ties: int = 1
) -> None:
    """The laws on up to ``most`` samples of each operator; ``ties`` of them with whole numbers too."""
    for name in names:
        if name in UNDEFINED:
            continue
        found.operators += 1
        for number, call in enumerate(operator_database.calls(name, device, dtype, most)):
            try_call(found, name, call, dtype, device=device)
            if number < ties and not dtype.is_complex:
                try_call(found, name, whole(call), dtype, device=device, transform="whole")


def try_modules(
    found: Found,
    names: Iterable[str],
    device: str,
    dtype: torch.dtype,
    most: int,
    masks: int,
    seed: int = 0,
) -> None:
    """The laws of modules on up to ``most`` samples of each, in both modes, with so many masks."""
    for name in names:
        found.operators += 1
        for training in (True, False):
            for number, call in enumerate(
                operator_modules.calls(name, device, dtype, training, most, seed)
            ):
                try_call(
                    found,
                    name,
                    call,
                    dtype,
                    device=device,
                    transform="train" if training else "eval",
                    masks=masks_of(call, masks, f"{name}/{number}/{seed}"),
                    laws=module_laws,
                )
