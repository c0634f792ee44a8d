"""A user's own optimizer as the laws build it: one more name beside those of torch.optim."""

from typing import Any, Callable, Optional, Sequence

import pytest
import torch

from frostproof.properties.harness.own.factory import call, said
from frostproof.strategies import OptimizerSpec
from frostproof.strategies.optimizer_traits import OptimizerTraits
from frostproof.strategies.optimizers import OWN, OwnOptimizer

NEEDED = ("step", "param_groups", "state", "state_dict", "load_state_dict")


def _try(optimizer: Any, parameters: Sequence[torch.Tensor], closure: bool) -> Optional[Exception]:
    """One step; what it raised."""

    def again() -> torch.Tensor:
        with torch.enable_grad():
            loss = torch.stack([(parameter**2).sum() for parameter in parameters]).sum()
        for parameter in parameters:
            parameter.grad = None
        loss.backward()
        return loss

    again()
    try:
        optimizer.step(again) if closure else optimizer.step()
    except Exception as problem:
        return problem
    return None


def build(option: str, text: str, factory: Callable[[Any], Any]) -> OptimizerSpec:
    """Try the factory on small parameters, register it under its own name, and name it.

    Raises pytest.UsageError where it fails or does not give an optimizer.
    """
    matrix = [torch.nn.Parameter(torch.ones(2, 2))]
    both = [*matrix, torch.nn.Parameter(torch.ones(2))]
    optimizer = call(option, text, factory, matrix)
    missing = [name for name in NEEDED if not hasattr(optimizer, name)]
    if missing:
        raise pytest.UsageError(
            f"{option} {text}: the factory must return an optimizer, but {type(optimizer).__name__} "
            f"has no {', '.join(missing)}"
        )
    problem = _try(optimizer, matrix, closure=False)
    closure = problem is not None and _try(factory(matrix), matrix, closure=True) is None
    if problem is not None and not closure:
        raise pytest.UsageError(
            f"{option} {text}: one step over a 2x2 parameter raised {said(problem)}"
        ) from None

    def works(params: Any, parameters: Sequence[torch.Tensor]) -> bool:
        try:
            return _try(factory(params), parameters, closure) is None
        except Exception:
            return False

    OWN[text] = OwnOptimizer(
        factory,
        OptimizerTraits(closure=closure, matrices=not works(list(both), list(both))),
        groups=works([{"params": matrix}], list(matrix)),
    )
    return OptimizerSpec(text)
