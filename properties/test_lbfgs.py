"""LBFGS against its recursion, line search and formula, and what it moves although frozen."""

from typing import Tuple

import torch
from hypothesis import given
from hypothesis import strategies as st

from frostproof.properties.harness.core.bits import read_bits
from frostproof.properties.harness.core.checks import (
    check,
    check_close,
)
from frostproof.properties.harness.core.law import PRECISE, law
from frostproof.properties.harness.reference import oracle
from frostproof.properties.harness.reference.lbfgs import LBFGS, Bowl, lbfgs_steps, lbfgs_tolerance
from frostproof.properties.harness.running.scenario import gradient_like
from frostproof.strategies import (
    OptimizerScenario,
    OptimizerSpec,
)
from frostproof.strategies.optimizer_scenarios import (
    PARAMETER_SHAPES,
)


@law("F3 F1", "torch.optim.LBFGS documentation; Nocedal and Wright, algorithm 7.4", PRECISE)
@given(
    count=st.integers(1, 3),
    seed=st.integers(0, 1023),
    frozen=st.integers(0, 3),
    options=st.sampled_from(
        [
            (rate, iterations, history)
            for history in (1, 2, 10)
            for rate in (0.5, 0.2)
            for iterations in (1, 4)
        ]
    ),
)
def test_lbfgs_recursion(
    device: str,
    dtype: torch.dtype,
    count: int,
    seed: int,
    frozen: int,
    options: Tuple[float, int, int],
) -> None:
    """F3: LBFGS steps by its two-loop recursion over all it lists; the frozen stand still."""
    bowl = Bowl(count, seed, frozen, device, dtype)
    rate, iterations, history = options
    optimizer = torch.optim.LBFGS(bowl.parameters, lr=rate, max_iter=iterations, history_size=history)
    rule = LBFGS(rate, iterations, history)
    unit = lbfgs_tolerance(dtype)
    for step in range(1, 1 + lbfgs_steps(dtype)):
        bowl.check_frozen()
        expected = rule.step(bowl.point(), bowl.slope)
        if rule.near_the_bottom:
            break
        optimizer.step(bowl.closure)  # type: ignore[arg-type]
        check_close(bowl.point(), expected, f"all parameters after step {step} of LBFGS", unit, unit)
    bowl.check_frozen()


@law("F3 F1", "torch.optim.LBFGS documentation, line_search_fn", PRECISE)
@given(count=st.integers(1, 3), seed=st.integers(0, 1023), frozen=st.integers(0, 3))
def test_lbfgs_line_search(device: str, dtype: torch.dtype, count: int, seed: int, frozen: int) -> None:
    """F3: with strong_wolfe no step of LBFGS raises the loss, even at a rate that overshoots."""
    bowl = Bowl(count, seed, frozen, device, dtype)
    optimizer = torch.optim.LBFGS(bowl.parameters, lr=3.0, max_iter=3, line_search_fn="strong_wolfe")
    for step in (1, 2):
        before = bowl.loss()
        optimizer.step(bowl.closure)  # type: ignore[arg-type]
        after = bowl.loss()
        check(after <= before * (1 + 1e-5), f"step {step} took the loss from {before} to {after}")
        check(step > 1 or after < before, f"the first step left the loss at {before}")
    bowl.check_frozen()


def lbfgs_second(
    old: torch.Tensor, first: torch.Tensor, second: torch.Tensor, rate: float
) -> Tuple[torch.Tensor, torch.Tensor]:
    """All values after one and after two iterations from ``old``, with these gradients (float64)."""
    taken = -first * (rate * min(1.0, 1 / float(first.abs().sum())))
    change = second - first
    curvature = float((change * taken).sum())
    at = old + taken
    if curvature <= 1e-10:
        return at, at - rate * second
    scale = curvature / float((change * change).sum())
    along = float((taken * -second).sum()) / curvature
    direction = (-second - along * change) * scale
    along -= float((change * direction).sum()) / curvature
    return at, at + rate * (direction + along * taken)


@law("F6 F3", "the formula in the torch.optim.LBFGS documentation; Nocedal, 1980", PRECISE)
@given(seed=st.integers(0, 1023), first=st.sampled_from(PARAMETER_SHAPES[:3]), stale=st.booleans())
def test_lbfgs_moves_frozen_by_its_formula(
    device: str, dtype: torch.dtype, seed: int, first: Tuple[int, ...], stale: bool
) -> None:
    """F6: frozen midway, a parameter still moves under LBFGS, exactly along its formula's direction."""
    generator = torch.Generator()
    generator.manual_seed(seed)
    rate = 0.5
    spec = OptimizerSpec("LBFGS", (("lr", rate), ("max_iter", 1)))
    parameters = OptimizerScenario(spec, (first, (3, 2)), (False, False), seed=seed).parameters(
        device, dtype
    )
    frozen, live = parameters
    old = torch.cat([oracle.as_float64(parameter).flatten() for parameter in parameters])
    gradients = [gradient_like(parameter, "ordinary", generator) for parameter in parameters]
    exact = torch.cat([oracle.as_float64(gradient).flatten() for gradient in gradients])
    optimizer = spec.build(parameters)

    def closure() -> float:
        for parameter, gradient in zip(parameters, gradients):
            if parameter.requires_grad:
                parameter.grad = gradient
        return 1.0

    optimizer.step(closure)
    frozen.requires_grad = False
    if not stale:
        frozen.grad = None
    with torch.no_grad():
        gradients[1] = gradients[1] * 0.5
    later = torch.cat([oracle.as_float64(gradient).flatten() for gradient in gradients])
    if not stale:
        later[: frozen.numel()] = 0
    bits = read_bits(frozen)
    optimizer.step(closure)
    at, wanted = lbfgs_second(old, exact, later, rate)
    unit = float(torch.finfo(dtype).eps) * 1e4
    size = frozen.numel()
    for parameter, part in ((frozen, wanted[:size]), (live, wanted[size:])):
        what = f"{'live' if parameter is live else 'frozen'} parameter after two steps of LBFGS"
        check_close(parameter, part.reshape(tuple(parameter.shape)), what, rtol=unit, atol=unit)
    if bool(((wanted - at)[:size].abs() > 0.01).any()):
        check(read_bits(frozen) != bits, "LBFGS left a parameter alone that was frozen midway")
