"""What was seen of a module's training, judged: R1 to R8, and notes on what may be meant."""

from typing import TYPE_CHECKING, Dict, List, Optional

import torch

from frostproof.properties.harness.own import anatomy, causes
from frostproof.properties.harness.own.cancelled import judge_cancelled
from frostproof.properties.harness.own.findings import named, spans
from frostproof.properties.harness.own.following import judge_following
from frostproof.properties.harness.own.traces import judge_traces

if TYPE_CHECKING:
    from frostproof.properties.harness.own.examination import Examination

# what must hold of a module's training, by id
LAWS: Dict[str, str] = {
    "R1": "a frozen parameter keeps its bits through the recipe's own steps",
    "R2": "the buffers of a frozen module keep their bits",
    "R3": "every trainable parameter gets a gradient and moves",
    "R4": "what is to be kept neither moves nor gets gradients",
    "R5": "the model is frozen as it seems to be",
    "R6": "parameters, gradients and loss stay finite",
    "R7": "the recipe's step runs",
    "R8": "what follows as an average or a copy follows whole",
}


def look_at_the_setup(seen: "Examination") -> None:
    """Before anything steps: flags that do nothing, nothing to train, what is tied or hidden."""
    module = seen.module
    owners = dict(module.named_modules())
    for path, attribute in anatomy.lost_flags(module).items():
        of_module = path in owners or path == "the module"
        seen.find(
            "R5",
            path,
            f"has an attribute {attribute} of its own",
            causes.FLAG_OF_A_MODULE if of_module else causes.MISSPELT,
        )
    for name in anatomy.thawed_by_reparametrization(module):
        sentence = "is trainable, though everything else of its layer is frozen"
        seen.find("R5", name, sentence, causes.THAWED)
    if not seen.trainable:
        sentence = f"has nothing to train: all {len(seen.frozen.names)} parameters are frozen"
        seen.find("R3", "the model", sentence, causes.NOTHING_TO_TRAIN)
    for name, others in anatomy.aliases(module).items():
        seen.notes.append(f"{name} is tied to {named(others)}: they freeze together")
    if seen.hidden:
        seen.notes.append(
            f"outside named_parameters: {named(sorted(seen.hidden))}: "
            "freezing the module does not reach them"
        )


def judge(seen: "Examination") -> None:
    """After the last step."""
    for movement in seen.movements.values():
        finding = movement.finding()
        covered = (
            seen.followers.cover_buffer(finding.subject)
            if finding.law == "R2"
            else seen.followers.cover(finding.subject) and finding.cause in causes.OF_WRITING
        )
        of_rows = finding.law == "R1" and finding.subject in seen.trainable & seen.kept.lost
        turns = finding.subject in seen.frozen.taken and finding.cause.startswith("a stale gradient")
        if not covered and not of_rows and not (finding.law == "R1" and turns):
            seen.findings.append(finding)
    judge_following(seen)
    judge_cancelled(seen)
    _note_what_was_seen(seen)
    if seen.steps:
        _judge_the_thawed(seen)
        _judge_the_trainable(seen)
        _judge_gradients(seen)
        judge_traces(seen, excused)
    for name in seen.watch.unreadable:
        seen.notes.append(f"{name}: has no plain memory to compare, not checked")


def _note_what_was_seen(seen: "Examination") -> None:
    if not seen.frozen.names and not seen.frozen.since and not seen.frozen.thawed:
        if not seen.kept.tensors:
            seen.notes.append("nothing was frozen, and nothing was to be kept")
    if seen.frozen.taken:
        seen.notes.append(
            f"takes turns, and is frozen when its optimizer steps: {named(sorted(seen.frozen.taken))}: "
            "it is moved by the gradient that came while it was trainable"
        )
    if seen.kept.replaced:
        seen.notes.append(f"replaced in keep by something newer: {named(sorted(seen.kept.replaced))}")
    for path, leader in seen.followers.pairs:
        if any(finding.subject.startswith(f"{path}." if path else "") for finding in seen.findings):
            continue  # that it follows is not all that is to be said
        seen.notes.append(
            f"{path or 'frozen parameters'} follows {leader or 'the rest'} as an average or copy: "
            "frozen for gradients, and taken to be meant so"
        )
    if seen.idle and seen.calls > len(seen.idle):
        calls = f"call{'s' * (len(seen.idle) > 1)} {spans(seen.idle)}"
        seen.notes.append(f"{calls} did nothing: no optimizer step, no gradient")
    if seen.calls and seen.steps > seen.calls:
        seen.notes.append(
            f"{seen.calls} calls did {seen.steps} rounds of optimizer steps: steps are counted by these"
        )


def _judge_the_thawed(seen: "Examination") -> None:
    """Unfrozen for good by the very first step, though nothing takes turns: it was undone."""
    thawed = seen.frozen.thawed
    at_once = [name for name, step in thawed.items() if step == 1 < seen.steps]
    if len(seen.hands.covers) < 2 and not seen.frozen.since:
        for name in at_once:
            seen.find("R5", name, "was frozen, but is trainable after the first step", causes.UNDONE)
        at_once = []
    later = [name for name in thawed if thawed[name] > 1] + at_once
    if later:
        seen.notes.append(f"unfrozen on the way: {named(later)}")


def excused(seen: "Examination", name: str) -> Optional[str]:
    """Why a trainable parameter need not move, as a note; None where it should."""
    parameter = seen.parameters[name]
    if any(tensor is parameter for tensor in seen.kept.tensors.values()):
        return "to be kept"
    if name in seen.hidden and name not in seen.sizes:
        return "outside named_parameters, without a gradient"
    for group, names in seen.experts.items():
        if name in names and name not in seen.sizes and any(n in seen.sizes for n in names):
            return f"experts of {group} that were not chosen"
    if name in seen.sizes and _only_rounding(seen, name):
        return "its gradient is only rounding (a bias before a normalization, or of attention keys)"
    return None


def may_train_later(seen: "Examination") -> bool:
    """Whether something that an optimizer holds has not moved yet: a late or rare update."""
    idle = {n for n in seen.still if n not in seen.frozen.names and excused(seen, n) is None}
    if not seen.hands.holds:
        return bool(idle) and seen.still == seen.trainable
    return any(id(seen.parameters[name]) in seen.hands.holds for name in idle)


def _only_rounding(seen: "Examination", name: str) -> bool:
    size, parameter = seen.sizes[name], seen.parameters[name]
    largest = max(seen.sizes.values())
    noise = min(16 * torch.finfo(parameter.dtype).eps, 1e-3) * largest
    if not size:  # exactly zero
        beside = anatomy.weights_beside_biases(seen.module).get(name)
        return seen.sizes.get(beside or "", 0.0) > 0
    return size <= noise


def _judge_the_trainable(seen: "Examination") -> None:
    frozen = seen.frozen
    order = [name for name in seen.parameters if name in seen.trainable]
    starved = [name for name in order if name not in seen.sizes and name not in frozen.since]
    prefix = order[: len(starved)] == starved and len(starved) < len(order)
    notes: Dict[str, List[str]] = {}
    for name in order:
        if name in frozen.names or name not in seen.still:
            continue  # what moved without autograd trains too
        if frozen.thawed.get(name, 0) == seen.steps and name not in seen.fresh:
            continue  # no step has seen it yet
        excuse = excused(seen, name)
        if excuse is not None:
            notes.setdefault(excuse, []).append(name)
        elif name not in seen.sizes:
            _starved(seen, name, prefix)
        else:
            _unmoved(seen, name, notes)
    for excuse, names in notes.items():
        seen.notes.append(f"did not move, and need not: {named(names)}: {excuse}")


def _held(seen: "Examination", name: str) -> bool:
    """Whether an optimizer holds it, or no optimizer is known."""
    return not seen.hands.holds or id(seen.parameters[name]) in seen.hands.holds


def _in_steps(seen: "Examination") -> str:
    return f"in {seen.steps} step{'s' * (seen.steps != 1)}"


def _starved(seen: "Examination", name: str, prefix: bool) -> None:
    if not seen.sizes:
        cause = causes.NO_BACKWARD
    elif prefix:
        cause = causes.CUT_OFF
    else:
        cause = causes.UNUSED
    if not _held(seen, name):
        cause += causes.NOT_HELD_EITHER
    seen.find("R3", name, f"is trainable, but got no gradient {_in_steps(seen)}", cause)


def _unmoved(seen: "Examination", name: str, notes: Dict[str, List[str]]) -> None:
    parameter, thawed = seen.parameters[name], seen.frozen.thawed
    since = f" (unfrozen in step {thawed[name]})" if name in thawed else ""
    sentence = f"is trainable{since} and gets gradients, but did not move {_in_steps(seen)}"
    if not _held(seen, name):
        cause = causes.UNFROZEN_LATE if since else causes.NOT_HELD
        if tuple(parameter.shape) in seen.hands.strangers:
            cause = causes.RECREATED
    elif not seen.sizes[name]:
        sentence = f"is trainable, but its gradient was exactly zero in all of {seen.steps} steps"
        cause = causes.DEAD
    elif not seen.hands.rates.get(id(parameter), 1.0):
        cause = "its learning rate is 0"
    elif not seen.hands.holds:
        cause = "no torch optimizer was found that holds it"
    elif not seen.hands.steps:
        cause = causes.NEVER_STEPPED
    elif name not in seen.fed:
        if seen.fed or any(n not in seen.still for n in seen.trainable):
            # of some alone: an own way to let them stand for a while
            notes.setdefault(causes.CLEARED_BY_HAND, []).append(name)
            return
        cause = causes.CLEARED
    elif name in seen.traces.moved and name in seen.traces.written:
        cause = causes.WRITTEN_BACK
    elif parameter.dtype in (torch.bfloat16, torch.float16):
        cause = causes.too_small(parameter.dtype)
    else:
        cause = causes.ROUNDS_AWAY
    seen.find("R3", name, sentence, cause)


def _judge_gradients(seen: "Examination") -> None:
    odd = sorted(seen.odd_from_the_start & set(seen.sizes) - seen.frozen.names)
    unused: Dict[int, List[str]] = {}
    for name, step in seen.not_finite.items():
        if name in odd:
            continue
        if step < seen.steps and seen.hands.steps and name not in seen.stepped_not_finite:
            unused.setdefault(step, []).append(name)
        elif not seen.hands.scaled or step == seen.steps:  # a scaler skips until its scale fits
            seen.find("R6", name, f"got a gradient with NaN or infinity in step {step}")
    for step, names in unused.items():
        what = f"a gradient with NaN or infinity in step {step}, with which no optimizer stepped"
        seen.notes.append(f"{named(names)}: {what}")
    if odd:  # what explains the others comes first
        others = [f for f in seen.findings if f.law != "R6" or f.subject not in odd]
        seen.findings.clear()
        for name in odd:
            seen.find("R6", name, "holds NaN or infinity from the start, and gets gradients")
        seen.findings += others
    for name in sorted(seen.kept_with_gradient):
        seen.find("R4", name, "is to be kept, but gets gradients", causes.KEPT_WITH_GRADIENT)
