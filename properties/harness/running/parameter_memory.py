"""Steps of an optimizer over parameters that lie in one storage, watched byte by byte.

Values are judged by the same optimizer over dense copies, which laws of their own judge by
its rule.
"""

from typing import Optional, Set

import torch

from frostproof.properties.harness.core.bits import read_bits
from frostproof.properties.harness.core.checks import check_close, check_same_bits
from frostproof.properties.harness.core.layout import overlaps
from frostproof.strategies.optimizers import OptimizerSpec
from frostproof.strategies.parameter_layouts import GUARD, ParameterLayout


class StorageRun:
    """The live parameters of a layout and dense copies of them, with an optimizer each."""

    def __init__(
        self, layout: ParameterLayout, spec: OptimizerSpec, device: str, dtype: torch.dtype
    ) -> None:
        self.layout, self.spec, self.dtype = layout, spec, dtype
        self.storage = layout.storage(device, dtype)
        self.parameters = layout.parameters(self.storage)
        self.optimizer = spec.build(self.parameters)
        self.copies = [
            torch.nn.Parameter(dense_copy(parameter), parameter.requires_grad)
            for parameter in self.parameters
        ]
        self.reference = spec.build(self.copies)
        self.generator = layout.generator()
        own = self.own_elements()
        every = range(len(self.storage))
        self.beside = torch.tensor([index for index in every if index not in own], dtype=torch.long)

    def own_elements(self) -> Set[int]:
        """The places in the storage of what requires grad."""
        numbers = torch.arange(len(self.storage))
        return {
            number
            for place in self.layout.places()
            if not place.frozen
            for number in place.view(numbers, GUARD).flatten().tolist()
        }

    def feed(self) -> None:
        """Give every live parameter a gradient."""
        for parameter, copy in zip(self.parameters, self.copies):
            if parameter.requires_grad:
                parameter.grad = self.layout.gradient_for(parameter, self.generator)
                copy.grad = dense_copy(parameter.grad)

    def step(self) -> Optional[str]:
        """One step that is judged; what the optimizer said where it refused, else None."""
        self.feed()
        bits, storage = read_bits(self.storage[self.beside]), read_bits(self.storage)
        what = f"after a step of {self.spec.name} over a {self.layout.kind} layout"
        try:
            self.optimizer.step()
        except RuntimeError as problem:
            check_same_bits(self.storage, storage, f"the storage of what {self.spec.name} refused")
            return str(problem)
        check_same_bits(self.storage[self.beside], bits, f"what lies beside the parameters {what}")
        self.reference.step()
        for number, (parameter, copy) in enumerate(zip(self.parameters, self.copies)):
            if not overlaps(parameter):  # an element that is several: documented as undefined
                check_near(parameter, copy, self.spec, f"parameter {number} {what}")
        return None


def dense_copy(tensor: torch.Tensor) -> torch.Tensor:
    """The same values, row-major, in memory of their own."""
    made = torch.empty(tuple(tensor.shape), dtype=tensor.dtype, device=tensor.device)
    return made.copy_(tensor.detach())


def check_near(actual: torch.Tensor, wanted: torch.Tensor, spec: OptimizerSpec, what: str) -> None:
    """Two parameters that went the same way are equal, but for the order of operations."""
    __tracebackhide__ = True
    rate = float(dict(spec.options).get("lr", 0.1))
    unit = 32 * float(torch.finfo(actual.dtype).eps)
    check_close(actual, wanted, f"{what}, beside the same over dense memory", unit, unit * (1 + rate))
