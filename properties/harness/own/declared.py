"""What a user declares of a module, "these must train, these must stand", against what was seen."""

from fnmatch import fnmatchcase
from typing import Any, Dict, Iterable, List, Mapping, Set

import torch

from frostproof.properties.harness.own import anatomy, causes
from frostproof.properties.harness.own.examination import Examination
from frostproof.properties.harness.own.findings import Finding, named
from frostproof.properties.harness.own.watch import Watch

FROZEN_AGAIN = (
    "a filter of names that forgot it, or a load or resume that froze it again: call "
    "requires_grad_(True) on it after everything is loaded, before the optimizer is built"
)
WRITTEN = "an in-place write outside the optimizer (an init, copy_, load_state_dict, average, clipping)"
FOLLOWS = "it follows other parameters as an average or copy"


def matching(what: str, tensors: Mapping[str, torch.Tensor], wanted: Any) -> Set[str]:
    """The names of tensors that patterns, parameters or modules stand for.

    wanted: a pattern such as "encoder.*" or "*lora_*", the name of a parameter or submodule, a
    parameter, a module, or several of them. Raises ValueError for one that stands for nothing.
    """
    __tracebackhide__ = True
    if isinstance(wanted, (str, torch.Tensor, torch.nn.Module)):
        wanted = [wanted]
    found: Set[str] = set()
    for one in wanted:
        if isinstance(one, str):
            inside = {n for n in tensors if n == one or n.startswith(f"{one}.") or fnmatchcase(n, one)}
        else:
            parts = [one] if isinstance(one, torch.Tensor) else [*one.parameters(), *one.buffers()]
            ids = set(map(id, parts))
            inside = {name for name, tensor in tensors.items() if id(tensor) in ids}
        if not inside:
            shown = repr(one) if isinstance(one, str) else f"this {type(one).__name__}"
            raise ValueError(
                f"{what}: {shown} matches no parameter or submodule; there are {named(list(tensors))}"
            )
        found |= inside
    return found


class Declared:
    """Parameters (and buffers) of a module that must train, and others that must stand.

    trains, frozen: see ``matching``; None declares nothing. With trains alone, all other
    parameters must stand. buffers: whether frozen means buffers too.
    """

    def __init__(
        self,
        what: str,
        module: torch.nn.Module,
        trains: Any = None,
        frozen: Any = None,
        *,
        buffers: bool = False,
    ) -> None:
        __tracebackhide__ = True
        self.module = module
        self.buffers = buffers
        parameters = dict(module.named_parameters())
        self.trains = set() if trains is None else matching(what, parameters, trains)
        self.frozen = set() if frozen is None else matching(what, self._now(), frozen)
        both = sorted(self.trains & self.frozen)
        if both:
            raise ValueError(f"{what}: {named(both)} cannot both train and be frozen")
        if trains is not None and frozen is None:
            self.frozen = set(parameters) - self.trains
        self._watch = Watch()
        for name, tensor in self._now().items():
            if name in self.frozen or name in self.trains:
                self._watch.remember(name, tensor)
        self._stood_still = {n for n in self.trains if not parameters[n].requires_grad}

    def _now(self) -> Dict[str, torch.Tensor]:
        both: Dict[str, torch.Tensor] = dict(self.module.named_parameters())
        if self.buffers:
            both.update(self.module.named_buffers())
        return both

    def moved(self) -> Set[str]:
        """The declared ones that have other bits now."""
        now = self._now()
        return {name for name in self._watch.bits if name in now and self._watch.moved(name, now[name])}

    def judge(self, seen: Examination) -> List[Finding]:
        """What was found of the module, and what breaks the declaration."""
        now, moved = self._now(), self.moved()
        findings = [
            finding
            for finding in seen.findings
            # what is to stand may do so by being left out of the optimizer
            if not (finding.law == "R3" and finding.subject in self.frozen)
        ]
        known = {finding.subject for finding in findings if finding.law in ("R1", "R2")}
        for name in [name for name in now if name in self.frozen & moved - known]:
            change = self._watch.change(name, now[name])
            by = "" if change is None else f", by {change:.3g} at most"
            law = "R1" if isinstance(now[name], torch.nn.Parameter) else "R2"
            sentence = f"should be frozen, but moved{by}"
            findings.append(Finding(law, name, sentence, self._cause(seen, name, now[name], moved)))
        for name in [name for name in now if name in self.trains]:
            if name in self._stood_still or not now[name].requires_grad:
                again = "" if name in self._stood_still else " again"
                sentence = f"should train, but is frozen{again}"
                findings.append(Finding("R5", name, sentence, FROZEN_AGAIN))
        return findings

    def _cause(self, seen: Examination, name: str, tensor: torch.Tensor, moved: Set[str]) -> str:
        if not isinstance(tensor, torch.nn.Parameter):
            path, _, own = name.rpartition(".")
            counter = f"{path}.num_batches_tracked" if path else "num_batches_tracked"
            return causes.of_buffer(anatomy.owner_of(self.module, name), own, counter in moved)
        if not tensor.requires_grad:
            return FOLLOWS
        holder = seen.hands.holds.get(id(tensor))
        if holder is None:
            return f"it requires grad, and something moved it: {WRITTEN}"
        return (
            f"it requires grad, and {holder} trains it: a filter of names missed it; call "
            "requires_grad_(False) on it"
        )


def unmoved(declared: Declared, findings: Iterable[Finding], moved: Set[str]) -> List[Finding]:
    """What should train and did not move, each with a cause, of all that was found."""
    by_name = {finding.subject: finding for finding in findings if finding.law in ("R3", "R5")}
    plain = "should train, but did not move"
    return [by_name.get(name, Finding("R3", name, plain)) for name in sorted(declared.trains - moved)]
