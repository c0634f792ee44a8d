"""Judges copies and averages: whether what follows does follow, and whole (R8)."""

from typing import TYPE_CHECKING, Dict, List, Optional, Tuple

import torch

from frostproof.properties.harness.own import anatomy, causes
from frostproof.properties.harness.own.averaged_copies import alike_by_chance, common_end, sample
from frostproof.properties.harness.own.findings import in_steps, named

if TYPE_CHECKING:
    from frostproof.properties.harness.own.examination import Examination

FAR = 1e-2  # of the largest value: a leader that is farther away has left what should follow it


def judge_following(seen: "Examination") -> None:
    """After the last step."""
    for path, leader in seen.followers.pairs:
        if path and leader:
            _statistics(seen, path, leader)
            _left_out(seen, path, leader)
    _written_with_themselves(seen)


def _gap(one: torch.Tensor, two: torch.Tensor) -> float:
    """max |one - two| in units of the largest value of both, over a few values; 0 where it has none."""
    a, b = sample(one), sample(two)
    if a is None or b is None or a.shape != b.shape:
        return 0.0
    scale = max(float(a.abs().max()), float(b.abs().max()))
    return float((a - b).abs().max()) / scale if scale else 0.0


def _statistics(seen: "Examination", path: str, leader: str) -> None:
    """Buffers of a follower that stay as at birth, while its leader's go on."""
    buffers = dict(seen.module.named_buffers())
    stay: List[str] = []
    for name, buffer in buffers.items():
        other = buffers.get(f"{leader}{name[len(path) :]}") if name.startswith(f"{path}.") else None
        if other is None or other is buffer or not buffer.is_floating_point():
            continue
        if buffer.shape != other.shape or anatomy.unsaved(seen.module, name):
            continue
        if (
            name in seen.watch.bits
            and _gap(buffer, other) > 0
            and seen.buffers.leaders_moved(f"{leader}{name[len(path) :]}", other)
        ):
            stay.append(name)
    in_use = [n for n in stay if not getattr(anatomy.owner_of(seen.module, n), "training", True)]
    for name in in_use:
        other_name = f"{leader}{name[len(path) :]}"
        sentence = (
            f"stays as at birth, while {other_name} goes on, and the parameters of {path} follow "
            f"those of {leader}"
        )
        seen.find("R8", name, sentence, causes.WITHOUT_STATISTICS)
    rest = [name for name in stay if name not in in_use]
    if rest:
        seen.notes.append(f"stay as at birth, in train mode: {named(rest)}: run update_bn before use")


def _left_out(seen: "Examination", path: str, leader: str) -> None:
    """Parameters of a follower that do not follow, though others of it do."""
    moved = {subject for _, subject, _ in seen.movements}
    for name in sorted(seen.frozen.names):
        if not name.startswith(f"{path}.") or name in seen.followers.names or name in moved:
            continue
        other = f"{leader}{name[len(path) :]}"
        parameter, leads = seen.parameters[name], seen.parameters.get(other)
        if leads is None or other in seen.frozen.names or leads.shape != parameter.shape:
            continue
        if parameter.element_size() >= 4 and _gap(parameter, leads) > FAR:
            sentence = f"does not follow {other}, though others of {path} follow those of {leader}"
            seen.find("R8", name, sentence, causes.FOLLOWS_IN_PART)


def _twin(seen: "Examination", name: str) -> Optional[str]:
    """The trainable parameter as whose copy a frozen one began, and which has left it since."""
    frozen = seen.parameters[name]
    mine = sample(frozen)
    if mine is None or alike_by_chance(mine):
        return None
    best: Tuple[int, Optional[str]] = 0, None
    for other, first in seen.followers.first.items():
        if first is None or first.shape != mine.shape or other in seen.frozen.names:
            continue
        common = common_end(name, other)
        if common > best[0] and bool((first == mine).all()):
            if _gap(frozen, seen.parameters[other]) > 0:
                best = common, other
    return best[1]


def _written_with_themselves(seen: "Examination") -> None:
    """Frozen copies of something that trains, which never follow it."""
    moved = {subject for _, subject, _ in seen.movements} | set(seen.followers.names)
    asleep: Dict[str, List[str]] = {}
    for name in sorted(seen.frozen.names):
        if name in moved or name in seen.frozen.since:
            continue
        twin = _twin(seen, name)
        if twin is None:
            continue
        steps = [] if name in seen.frozen.foreign else seen.frozen.written.get(name)
        if steps:
            sentence = (
                f"is written in {in_steps(steps)}, each time with the values that it has: it never "
                f"follows {twin}, as whose copy it began"
            )
            seen.find("R8", name, sentence, causes.WRITTEN_WITH_ITSELF)
        else:
            asleep.setdefault(twin.rpartition(".")[0], []).append(name)
    names = [name for some in asleep.values() for name in some]
    if names:
        seen.notes.append(
            f"began as copies of what trains, and never followed: {named(names)}: right for a fixed "
            "reference; a target or an average would have to be written"
        )
