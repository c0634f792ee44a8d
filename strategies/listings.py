"""Plain parameters in an optimizer, without a net: to be fed made-up gradients."""

from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from hypothesis import strategies as st

from strategies.digits import Digits, read_as, reader_of
from strategies.optimizers import OptimizerSpec, optimizers

# Matrices first: some optimizers take no others. Large ones reach faults that go by size.
SHAPES: Tuple[Tuple[int, ...], ...] = (
    *((1, 1), (3, 2), (2, 5), (300, 2), (1, 210)),
    *((), (1,), (7,), (5000,)),
)
KINDS = ("ordinary", "ordinary", "half zero", "zero")
LISTING_DIGITS = 24


@dataclass(frozen=True)
class Listing:
    """An optimizer of two groups over plain parameters: the even ones, then the odd ones.

    shapes: of the parameters; frozen: a flag for each; second: options of the second
    group; steps: the kind of each step's gradients; seed: of the values.
    """

    spec: OptimizerSpec
    shapes: Tuple[Tuple[int, ...], ...] = ((1, 1), (3, 2))
    frozen: Tuple[bool, ...] = (False, False)
    second: Tuple[Tuple[str, float], ...] = ()
    steps: Tuple[str, ...] = ("ordinary",)
    seed: int = 0

    def parameters(
        self, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> List[torch.nn.Parameter]:
        """Fresh parameters with values in [-1, 1), drawn on the CPU from ``seed`` alone."""
        generator = torch.Generator()
        generator.manual_seed(self.seed)
        found = []
        for shape, frozen in zip(self.shapes, self.frozen):
            values = torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1
            parameter = torch.nn.Parameter(values.to(device=device, dtype=dtype))
            parameter.requires_grad = not frozen
            found.append(parameter)
        return found

    def spec_of(self, place: int) -> OptimizerSpec:
        """The options that act on a parameter: those of its group."""
        if place % 2 == 0:
            return self.spec
        options = {**dict(self.spec.options), **dict(self.second)}
        return OptimizerSpec(self.spec.name, tuple(sorted(options.items())))

    def build(self, parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """The live optimizer over ``parameters()``."""
        groups: List[Dict[str, Any]] = [
            {"params": list(parameters[0::2])},
            {"params": list(parameters[1::2]), **dict(self.second)},
        ]
        return self.spec.build(groups)


def listings(
    *,
    names: Optional[Sequence[str]] = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> st.SearchStrategy[Listing]:
    """Listings of optimizers that take several groups (not LBFGS).

    Shrink towards two small live parameters and one step of plain SGD.
    """
    optimizer = reader_of(optimizers(names=names, device=device, dtype=dtype))
    assert optimizer is not None

    def read(digits: Digits) -> Listing:
        spec = optimizer.read(digits)
        shapes = SHAPES[:5] if spec.matrices_only else SHAPES
        count, steps = 2 + digits.below(3), 1 + digits.below(7)
        second: Dict[str, float] = {}
        if digits.below(3):
            second["lr"] = digits.one_of((0.05, 0.2, 0.003))
        if digits.below(2) and "weight_decay" in dict(spec.options):
            second["weight_decay"] = 0.3
        seed = digits.bits(2)
        return Listing(
            spec,
            tuple(digits.one_of(shapes) for _ in range(count)),
            tuple(digits.below(4) == 3 for _ in range(count)),
            tuple(second.items()),
            tuple(digits.one_of(KINDS) for _ in range(steps)),
            seed,
        )

    return read_as(optimizer.size + LISTING_DIGITS, read)
