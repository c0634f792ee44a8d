"""A user's own optimizer as the laws build it: one more name beside those of torch.optim."""

from typing import Any, Callable

import pytest
import torch

from properties.harness.own.factory import call, said
from strategies import OptimizerSpec
from strategies.optimizers import OWN

NEEDED = ("step", "zero_grad", "param_groups", "state", "state_dict", "load_state_dict")


def build(option: str, text: str, factory: Callable[[Any], Any]) -> OptimizerSpec:
    """Try the factory on a small matrix, register it under its own name, and name it.

    Raises pytest.UsageError where it fails or does not give an optimizer.
    """
    parameter = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = call(option, text, factory, [parameter])
    missing = [name for name in NEEDED if not hasattr(optimizer, name)]
    if missing:
        raise pytest.UsageError(
            f"{option} {text}: the factory must return an optimizer, but {type(optimizer).__name__} "
            f"has no {', '.join(missing)}"
        )
    parameter.grad = torch.ones(2, 2)
    try:
        optimizer.step()
    except Exception as problem:
        raise pytest.UsageError(
            f"{option} {text}: one step over a 2x2 parameter raised {said(problem)}"
        ) from None
    OWN[text] = factory
    return OptimizerSpec(text)
