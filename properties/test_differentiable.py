"""Steps that are differentiable themselves: what they move, and what must stand still."""

from functools import cache
from typing import List, Tuple

import torch
from hypothesis import given
from hypothesis import strategies as st

from frostproof.properties.harness.core.bits import read_bits
from frostproof.properties.harness.core.checks import check, check_close, check_same_bits
from frostproof.properties.harness.core.law import PRECISE, law, part
from frostproof.strategies import OptimizerSpec, optimizer_names, optimizers
from frostproof.strategies.optimizer_traits import traits_of
from frostproof.strategies.optimizers import has_option


@cache
def differentiable() -> Tuple[str, ...]:
    """The optimizers whose step can be differentiated; they take vectors."""
    return tuple(
        name
        for name in optimizer_names()
        if has_option(name, "differentiable", True) and not traits_of(name).matrices
    )


def differentiates() -> str:
    """What is said where no optimizer can be differentiated; else ""."""
    return "" if differentiable() else "differentiable: no optimizer of this torch has this option"


def unrolled(spec: OptimizerSpec, differentiable: bool) -> OptimizerSpec:
    """The optimizer in its for-loop, which is what a differentiable step is."""
    options = {k: v for k, v in spec.options if k not in ("foreach", "fused", "capturable")}
    way = {"differentiable": True} if differentiable else {"foreach": False}
    return OptimizerSpec(spec.name, tuple(sorted({**options, **way}.items())))


def vectors(count: int, seed: int, device: str, dtype: torch.dtype) -> List[torch.Tensor]:
    """Vectors of three values from 0.25 to 1.25: a value to train from, and gradients."""
    generator = torch.Generator()
    generator.manual_seed(seed)
    drawn = (torch.rand(3, generator=generator, dtype=torch.float64) for _ in range(count))
    return [(vector + 0.25).to(device, dtype) for vector in drawn]


@law("F1 F3", "torch.optim documentation, differentiable", PRECISE, needs=differentiates)
@part(2, least=10)
@given(data=st.data())
def test_differentiable_steps(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F1: a differentiable step moves as an ordinary one does, in the graph; the frozen stay."""
    drawn = data.draw(optimizers(names=differentiable(), device=device, dtype=dtype))
    count, seed = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 255))
    start, *gradients = vectors(count + 1, seed, device, dtype)
    plain = torch.nn.Parameter(torch.empty_like(start).copy_(start))
    live = start.requires_grad_() * 1
    frozen = torch.nn.Parameter(torch.full((3,), 0.75, device=device, dtype=dtype), False)
    before = read_bits(frozen)
    optimizer = unrolled(drawn, True).build([live, frozen])
    ordinary = unrolled(drawn, False).build([plain])
    for step, gradient in enumerate(gradients, 1):
        live.grad, plain.grad = gradient, torch.empty_like(gradient).copy_(gradient)
        optimizer.step()
        ordinary.step()
        where = f"step {step} of a differentiable {drawn.name}"
        # its biases are corrected in float32, whatever the dtype
        check_close(live, plain, f"the value after {where}", 1e-4, 1e-6)
        check_same_bits(frozen, before, f"a frozen parameter after {where}")
        check(frozen.grad is None, f"a frozen parameter has a gradient after {where}")
        if drawn.name != "Adagrad":  # makes state for every parameter when it is built
            check(frozen not in optimizer.state, f"a frozen parameter has state after {where}")
        check(live.grad_fn is not None, f"the value has left the graph after {where}")
