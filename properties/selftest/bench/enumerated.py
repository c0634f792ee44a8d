"""The enumerated law, and its work in bare torch: every mask and cut of one small net."""

from itertools import product
from typing import Any, Dict, List, Tuple

import torch

from frostproof.properties import test_enumeration
from frostproof.properties.selftest.bench.cases import DTYPE, seconds, summary
from frostproof.strategies.networks import ACTIVATION_MODULES

DEPTH = 4  # most of the law's cases


def bare_enumeration() -> None:
    """Each case: set the mask, backward, compare gradients, two steps of three optimizers, compare."""
    description = test_enumeration.network_of(DEPTH)
    torch.default_generator.manual_seed(description.seed)
    layers = torch.nn.ModuleList()
    width = description.inputs
    for layer in description.layers:
        linear = torch.nn.Linear(width, layer.width)
        activation = ACTIVATION_MODULES.get(layer.activation)
        layers.append(linear if activation is None else torch.nn.Sequential(linear, activation()))
        width = layer.width
    parameters = list(layers.parameters())
    start = [parameter.detach().clone() for parameter in parameters]
    inputs, targets = torch.rand(3, description.inputs) * 3 - 1.5, torch.rand(3, width) * 3 - 1.5

    def loss(cut: Any) -> torch.Tensor:
        value = inputs
        for place, layer in enumerate(layers):
            value = layer(value.detach() if place == cut else value)
        return torch.nn.functional.mse_loss(value.detach() if cut == DEPTH else value, targets)

    def restore() -> None:
        with torch.no_grad():
            for parameter, old in zip(parameters, start):
                parameter.copy_(old)

    for cut in (None, *range(DEPTH + 1)):
        reference: List[Any] = []
        after: List[List[torch.Tensor]] = []
        for flags in product((False, True), repeat=len(parameters)):
            for parameter, flag in zip(parameters, flags):
                parameter.requires_grad = not flag
                parameter.grad = None
            value = loss(cut)
            if value.requires_grad:
                value.backward()
            if not reference:
                reference = [None if p.grad is None else p.grad.clone() for p in parameters]
            for parameter, wanted, flag in zip(parameters, reference, flags):
                if flag or wanted is None:
                    assert parameter.grad is None
                else:
                    assert parameter.grad is not None and torch.equal(parameter.grad, wanted)
            for place, spec in enumerate(test_enumeration.SPECS):
                optimizer = getattr(torch.optim, spec.name)(parameters, **dict(spec.options))
                optimizer.step()
                optimizer.step()
                if len(after) == place:
                    after.append([parameter.detach().clone() for parameter in parameters])
                for parameter, moved, old, wanted, flag in zip(
                    parameters, after[place], start, reference, flags
                ):
                    still = flag or wanted is None
                    assert torch.equal(parameter, old if still else moved)
                restore()


def compare_enumeration(rounds: int) -> Dict[str, Any]:
    """Microseconds a case of the law and of the bare work, in turns."""
    cases = (DEPTH + 2) * 2 ** (2 * DEPTH)
    pairs: List[Tuple[float, float]] = []
    for _ in range(rounds):
        law = seconds(lambda: test_enumeration.test_every_mask_and_cut("cpu", DTYPE, DEPTH))
        pairs.append((law / cases, seconds(bare_enumeration) / cases))
    return summary(pairs)
