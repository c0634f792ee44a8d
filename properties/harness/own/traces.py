"""A few values of each trainable parameter and its gradient, at every optimizer step.

They show what whole snapshots would cost too much for: movement that ends, writes from
outside, gradients that are set to zero by hand, and gradients that flow into each other.
"""

from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Set, Tuple

import torch

from frostproof.properties.harness.core.bits import read_bits
from frostproof.properties.harness.own import causes
from frostproof.properties.harness.own.findings import Movement, in_steps, named, spans
from frostproof.properties.harness.own.optimizer_watch import Hand, hand_of
from frostproof.properties.harness.own.watch import POINTS, finite, points, readable

if TYPE_CHECKING:
    from frostproof.properties.harness.own.examination import Examination

TINY = 1e-6  # of the largest value: below it a gradient may be rounded to zero


def _few(tensor: Optional[torch.Tensor]) -> Optional[torch.Tensor]:
    """Some values of a real dense tensor, a copy in float64 on the CPU."""
    if tensor is None or not readable(tensor) or not tensor.is_floating_point() or not tensor.numel():
        return None
    with torch.no_grad():
        some = points(tensor)
        return torch.empty(len(some), dtype=torch.float64).copy_(some)


class Traces:
    """What the few values show.

    moved: the last step in which an optimizer moved a parameter; stood: the steps since, in
    which it had a gradient and a learning rate, and stood. written: steps before which
    something wrote into it outside an optimizer's step. gradients: the last step in which
    one came; lived: the last in which one was not zero at an optimizer's step. uncleared:
    steps whose gradient lay on one that had been used already. mixed: steps whose gradient
    holds one of a backward for another optimizer, which had stepped since.
    """

    def __init__(self, seen: "Examination") -> None:
        self.seen = seen
        self.moved: Dict[str, int] = {}
        self.stood: Dict[str, List[int]] = {}
        self.written: Dict[str, List[int]] = {}
        self.gradients: Dict[str, int] = {}
        self.lived: Dict[str, int] = {}
        self.uncleared: Dict[str, List[int]] = {}
        self.mixed: Dict[str, List[int]] = {}
        self.shared_rates: Set[str] = set()  # accumulate over several steps of another optimizer
        self._last: Dict[str, Tuple[torch.Tensor, bytes]] = {}
        self._before: Dict[str, bytes] = {}
        self._fed: Set[str] = set()
        self._came: Dict[str, torch.Tensor] = {}  # sizes of the gradients that came since the step
        self._zeroed: Dict[str, torch.Tensor] = {}  # where they were set to zero in some step
        self._lived: Dict[str, torch.Tensor] = {}  # where they were not zero in some step
        self._values: Dict[str, torch.Tensor] = {}  # the parameter's before the step
        self._used: Set[str] = set()
        self._waiting: Dict[str, int] = {}  # steps that another optimizer did since it got one
        self._mixed: Dict[str, int] = {}
        self._suspects: Dict[str, Tuple[torch.Tensor, torch.Tensor, Hand]] = {}

    def gradient_came(self, name: str, gradient: torch.Tensor) -> None:
        """Before it is added to what lies at the parameter, and before other hooks change it."""
        self.gradients[name] = self.seen.steps
        few = _few(gradient)
        if few is None:
            return
        few.abs_()
        if name in self._came and self._came[name].shape == few.shape:
            few = torch.maximum(few, self._came[name]) if hasattr(torch, "maximum") else few
        self._came[name] = few
        if name not in self._used and name not in self._waiting:
            return
        there = _few(self.seen.parameters[name].grad)
        lies = there is not None and bool(there.any())
        if name in self._used:
            self._used.discard(name)
            if lies:
                self.uncleared.setdefault(name, []).append(self.seen.steps)
        if name in self._waiting:
            since = self._waiting.pop(name)
            if lies:
                self._mixed[name] = self._mixed.get(name, 0) + since

    def before_step(self, optimizer: Any, names: Mapping[str, torch.Tensor]) -> None:
        """Take values and gradients of what an optimizer holds."""
        seen = self.seen
        self._before, self._fed = {}, set()
        for name, parameter in names.items():
            if not parameter.requires_grad or not readable(parameter):
                continue
            bits = self._before[name] = read_bits(points(parameter))
            last = self._last.get(name)
            if last is not None and last[0] is parameter and last[1] != bits:
                self.written.setdefault(name, []).append(seen.steps)
            gradient = _few(parameter.grad)
            if gradient is not None and bool(gradient.any()):
                self.lived[name] = seen.steps
                if seen.hands.rate_now.get(id(parameter), 1.0):
                    self._fed.add(name)
            self._look_for_zeroed(name, parameter, gradient)
            since = self._mixed.pop(name, 0)
            self._waiting.pop(name, None)
            if since == 1:
                self.mixed.setdefault(name, []).append(seen.steps)
            elif since:
                self.shared_rates.add(name)

    def _look_for_zeroed(
        self, name: str, parameter: torch.Tensor, gradient: Optional[torch.Tensor]
    ) -> None:
        came = self._came.pop(name, None)
        if came is None or gradient is None or came.shape != gradient.shape:
            return
        zeroed, lived = (came > TINY * came.max()) & (gradient == 0), gradient != 0
        if name in self._zeroed and self._zeroed[name].shape == zeroed.shape:
            zeroed, lived = zeroed | self._zeroed[name], lived | self._lived[name]
        self._zeroed[name], self._lived[name] = zeroed, lived
        values = _few(parameter) if self.zeroed(name) else None
        if values is not None:
            self._values[name] = values

    def _always_zeroed(self, name: str) -> torch.Tensor:
        return self._zeroed[name] & ~self._lived[name]

    def zeroed(self, name: str) -> bool:
        """Whether its gradient is set to zero at some places, in every step in which one came."""
        return name in self._zeroed and bool(self._always_zeroed(name).any())

    def after_step(self, optimizer: Any, names: Mapping[str, torch.Tensor]) -> None:
        """Compare, as an optimizer has stepped."""
        seen = self.seen
        for name, bits in self._before.items():
            parameter = names.get(name)
            if parameter is None or not readable(parameter):
                continue
            now = read_bits(points(parameter))
            self._last[name] = parameter, now
            if now != bits:
                self.moved[name] = seen.steps
                self.stood.pop(name, None)
            elif name in self._fed and name in self.moved:
                self.stood.setdefault(name, []).append(seen.steps)
            if parameter.grad is not None:
                self._used.add(name)
            if name in self._values:
                self._zeroed_moved(optimizer, name, parameter)
        for name in seen.fresh:
            parameter = seen.parameters.get(name)
            if name not in names and parameter is not None and parameter.grad is not None:
                self._waiting[name] = self._waiting.get(name, 0) + 1

    def _zeroed_moved(self, optimizer: Any, name: str, parameter: torch.Tensor) -> None:
        was, now = self._values.pop(name), _few(parameter)
        if now is None or now.shape != was.shape:
            return
        moved = self._always_zeroed(name) & (now != was)
        if bool(moved.any()):
            self._suspects[name] = was, moved, hand_of(optimizer, parameter, "zero")

    def look(self) -> None:
        """As a round of steps has ended: what was set to zero, and moved, may be back by now."""
        for name, (was, moved, hand) in self._suspects.items():
            parameter = self.seen.parameters[name]
            now = _few(parameter)
            if now is None or now.shape != was.shape:
                continue
            moved = moved & (now != was)
            if not bool(moved.any()):
                continue
            cause = causes.of_zeroed_gradient(hand)
            where = _rows(moved, parameter)
            movement = self.seen.movements.setdefault(
                ("R1", name, cause),
                Movement("R1", name, cause, f"{where}gradient is set to zero before each step, but it"),
            )
            movement.add(self.seen.steps, float((now - was).abs()[moved].max()))
        self._suspects.clear()
        for name in self.seen.frozen.names & set(self._last):
            del self._last[name]


def _rows(moved: torch.Tensor, parameter: torch.Tensor) -> str:
    """In words, which rows of a parameter some of its values belong to."""
    if parameter.dim() < 2:
        return "its "
    stride = max(1, -(-parameter.numel() // max(1, len(moved))))
    width = parameter.numel() // parameter.shape[0]
    rows = sorted({int(index) * stride // width for index in moved.nonzero()[:, 0]})
    if len(rows) == parameter.shape[0]:
        return "its "
    return f"row{'s' * (len(rows) > 1)} {spans(rows[:50])}: its "


def _died(seen: "Examination", name: str) -> bool:
    """Whether gradients go on to come, and have been zero for long; of a small one all is seen."""
    lived, came = seen.traces.lived.get(name, 0), seen.traces.gradients.get(name, 0)
    small = seen.parameters[name].numel() <= POINTS
    return small and 0 < lived <= seen.steps - LONG and came > seen.steps - LONG


LONG = 3  # steps of an end that is no accident


def judge_traces(seen: "Examination", excuse: Callable[["Examination", str], Optional[str]]) -> None:
    """R3 of what stopped on the way, and notes on what may be meant.

    excuse: why a parameter need not move, None where it should.
    """
    traces = seen.traces
    notes: Dict[str, List[str]] = {}
    for name in sorted(seen.trainable - seen.frozen.names - seen.still):
        parameter = seen.parameters[name]
        if name in seen.replaced and id(parameter) not in seen.hands.holds:
            if seen.hands.holds and name in seen.fresh and traces.moved.get(name):
                sentence = (
                    f"was replaced in step {seen.replaced[name]} by a new parameter, which gets "
                    "gradients, but did not move since"
                )
                seen.find("R3", name, sentence, causes.REPLACED_LATER)
                continue
        last, stood = traces.moved.get(name, 0), traces.stood.get(name, [])
        rate = seen.hands.rate_now.get(id(parameter), 1.0)
        highest = seen.hands.rates.get(id(parameter), 1.0)
        if len(stood) >= LONG and not finite(parameter):
            continue  # NaN moves no more
        if len(stood) >= LONG and rate < 0.1 * highest:
            notes.setdefault(f"learning rate {rate:.3g} moves it no more", []).append(name)
        elif len(stood) >= LONG and excuse(seen, name) is None:
            sentence = f"moved until step {last}, and not in {in_steps(stood)}, though gradients came"
            cause = causes.DIES_OUT
            if parameter.dtype in (torch.bfloat16, torch.float16):
                cause = causes.too_small(parameter.dtype)
            if name in traces.written:
                cause = causes.WRITTEN_BACK
            seen.find("R3", name, sentence, cause)
        elif last and seen.steps - last >= LONG and not rate:
            notes.setdefault(f"its learning rate is 0 since step {last + 1}", []).append(name)
        elif last and seen.steps - last >= LONG and name in seen.fresh:
            notes.setdefault(f"its optimizer has not stepped since step {last}", []).append(name)
        elif _died(seen, name):
            when = f"its gradient is exactly zero since step {traces.lived[name] + 1}"
            notes.setdefault(when, []).append(name)
        elif last and 0 < traces.gradients.get(name, 0) <= seen.steps - LONG:
            when = f"no gradient came since step {traces.gradients[name]}"
            notes.setdefault(when, []).append(name)
    for name, steps in traces.mixed.items():
        if len(steps) > 1 and name in seen.trainable:
            sentence = (
                "is stepped with a gradient into which another optimizer's backward flowed too, "
                f"in {in_steps(steps)}"
            )
            seen.find("R3", name, sentence, causes.FLOWS_TOGETHER)
    uncleared = [n for n, steps in traces.uncleared.items() if len(steps) > 1 and n not in traces.mixed]
    if uncleared:
        when = "never cleared before backward: each step uses the sum of all gradients so far"
        notes.setdefault(when, []).extend(uncleared)
    written = [name for name in traces.written if name not in seen.still]
    if written and seen.hands.steps:
        steps = sorted({step for name in written for step in traces.written[name]})
        notes.setdefault(f"written outside any optimizer's step, before {in_steps(steps)}", []).extend(
            written
        )
    if traces.shared_rates:
        when = "gradients add up over several steps of another optimizer"
        notes.setdefault(when, []).extend(sorted(traces.shared_rates))
    seen.notes += [f"{named(names)}: {what}" for what, names in notes.items()]
