"""Frozen parameters that follow trainable ones: momentum encoders and target networks.

They are meant to move, as an average or a copy of their leader. A few thousand values of
each tensor, taken before and after a step, show whether one did.
"""

from typing import Dict, List, Mapping, Optional, Tuple

import torch

from frostproof.properties.harness.core.bits import from_bits
from frostproof.properties.harness.own.watch import readable

POINTS = 4096  # values that are compared of each tensor
LEADERS = 6  # trainable parameters that are tried for each frozen one
SLOWEST = 1e-5  # the smallest share of the leader that an average takes in a step


def _few(flat: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        some = flat[:: max(1, len(flat) // POINTS)]
        return torch.empty(len(some), dtype=torch.float64).copy_(some)


def sample(tensor: torch.Tensor) -> Optional[torch.Tensor]:
    """Some values of a real floating tensor, 1-D, float64, a copy; None of any other."""
    if not tensor.is_floating_point() or not readable(tensor) or not tensor.numel():
        return None
    with torch.no_grad():
        return _few(tensor.reshape(-1))


def alike_by_chance(values: Optional[torch.Tensor]) -> bool:
    """Whether a sample says nothing of where it comes from: one value all over, as zeros are."""
    return values is None or bool((values == values[0]).all())


def earlier_sample(bits: bytes, like: torch.Tensor) -> Optional[torch.Tensor]:
    """The same values of a tensor whose bytes were taken earlier."""
    if not like.is_floating_point() or len(bits) != like.numel() * like.element_size():
        return None
    return _few(from_bits(bits, (like.numel(),), like.dtype))


def follow_rate(
    before: torch.Tensor, now: torch.Tensor, leader: torch.Tensor, eps: float
) -> Optional[float]:
    """The share r of now = before + r * (leader - before); None where it is no such average.

    0 where follower and leader are equal up to rounding.
    """
    change, way = now - before, leader - before
    size = max(float(now.abs().max()), float(leader.abs().max()))
    noise = 8 * eps * size
    if float(way.abs().max()) <= noise:
        return 0.0 if float(change.abs().max()) <= noise else None
    if not bool(leader.any()):
        return None
    rate = float((change * way).sum() / (way * way).sum())
    rest = change - rate * way
    close = float(way.abs().max()) <= 0.05 * size
    explained = float((rest * rest).sum()) <= 0.1 * float((change * change).sum())
    if SLOWEST <= rate <= 1.001 and float(rest.abs().max()) <= noise and (close or explained):
        return rate
    return None


def common_end(one: str, two: str) -> int:
    """How many parts two dotted names have in common at their ends."""
    count = 0
    for a, b in zip(reversed(one.split(".")), reversed(two.split("."))):
        if a != b:
            break
        count += 1
    return count


def _without_end(name: str, parts: int) -> str:
    return ".".join(name.split(".")[:-parts])


class AveragedCopies:
    """Which frozen parameters follow which trainable ones.

    pairs: (path of the followers, path of their leaders), as they were found.
    """

    def __init__(self) -> None:
        self.samples: Dict[str, Optional[torch.Tensor]] = {}
        self.first: Dict[str, Optional[torch.Tensor]] = {}  # those before the first step
        self.pairs: List[Tuple[str, str]] = []
        self.names: List[str] = []

    def remember(self, leaders: Mapping[str, torch.Tensor], shapes: "set[Tuple[int, ...]]") -> None:
        """Take samples of the trainable parameters of these shapes, as a step ends."""
        for name, parameter in leaders.items():
            if tuple(parameter.shape) in shapes:
                self.samples[name] = sample(parameter)
        if not self.first:
            self.first = dict(self.samples)

    def follows(
        self, name: str, bits: bytes, now: torch.Tensor, leaders: Mapping[str, torch.Tensor]
    ) -> bool:
        """Whether a frozen parameter moved as an average or copy of a leader does."""
        before, after = earlier_sample(bits, now), sample(now)
        if before is None or after is None or now.numel() < 2:
            return False  # any change of one number is an average
        like = [
            (common_end(name, other), other)
            for other, leader in leaders.items()
            if other != name and leader.shape == now.shape and leader.is_floating_point()
        ]
        for common, other in sorted((c for c in like if c[0]), reverse=True)[:LEADERS]:
            eps = max(torch.finfo(now.dtype).eps, torch.finfo(leaders[other].dtype).eps)
            for values in (sample(leaders[other]), self.samples.get(other)):
                if values is not None and follow_rate(before, after, values, eps) is not None:
                    pair = (_without_end(name, common), _without_end(other, common))
                    if pair not in self.pairs:
                        self.pairs.append(pair)
                    self.names.append(name)
                    return True
        return False

    def cover(self, name: str) -> bool:
        """Whether a parameter lies in a module whose parameters follow."""
        owner = name.rpartition(".")[0]
        return any(
            name.startswith(f"{path}.")
            if path
            else any(n.rpartition(".")[0] == owner for n in self.names)
            for path, _ in self.pairs
        )

    def cover_buffer(self, name: str) -> bool:
        """Whether a buffer lies in such a module, or in one round it that counts its averages."""
        owner = name.rpartition(".")[0]
        return self.cover(name) or any(n.startswith(f"{owner}." if owner else "") for n in self.names)
