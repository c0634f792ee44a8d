"""The laws of a module: those of operators that hold for parameters, and two of its own."""

import random
from typing import Callable, Dict, List, Sequence, Tuple

import torch

from frostproof.properties.harness.core.bits import read_bits
from frostproof.properties.harness.machine import accelerators
from frostproof.properties.harness.operators.accumulating import accumulation
from frostproof.properties.harness.operators.masks import (
    detached,
    frozen_neighbours,
    inputs_stay,
    sharing,
    without_grad,
)
from frostproof.properties.harness.operators.trial import Trial
from frostproof.strategies.operator_modules import ModuleCall

Mask = Tuple[int, ...]


def masks_of(call: ModuleCall, most: int, seed: str) -> List[Mask]:
    """What to freeze: all parameters, all inputs, everything; then each alone, each but one, some.

    At most ``most``: of the later kinds those that the seed chooses.
    """
    chance = random.Random(seed)
    numbers = range(len(call.values))
    sides = [tuple(numbers[: call.parameters]), tuple(numbers[call.parameters :]), tuple(numbers)]
    alone = [(number,) for number in numbers]
    but_one = [tuple(other for other in numbers if other != number) for number in numbers]
    some = [tuple(number for number in numbers if chance.random() < 0.5) for _ in range(4)]
    later = [mask for mask in dict.fromkeys([*alone, *but_one, *some]) if mask not in sides]
    chance.shuffle(later)
    return [mask for mask in dict.fromkeys([*sides, *later]) if mask][:most]


def frozen_stay(trial: Trial, masks: Sequence[Mask]) -> None:
    """O1 O2: after backward() what is frozen has no .grad, and everything keeps bits and version."""
    for mask in masks:
        leaves = trial.call.leaves(mask)
        before = [(read_bits(leaf), leaf._version) for leaf in leaves]
        pairs = trial.weighted(trial.run(leaves))
        if pairs:
            accelerators.seed(1)
            torch.autograd.backward([one for one, _ in pairs], [weight.clone() for _, weight in pairs])
        for number, leaf in enumerate(leaves):
            bits, version = before[number]
            trial.expect("O2", "bits", read_bits(leaf) == bits, f"x{number} was changed by the call")
            trial.expect(
                "O2", "version", leaf._version == version, f"the version of x{number} was bumped"
            )
            if number in mask:
                trial.expect(
                    "O1",
                    "frozen",
                    leaf.grad is None and not leaf.requires_grad,
                    f"x{number} is frozen, but has a gradient or requires one after backward()",
                )
            else:
                what = f"gradient of x{number} with {mask} frozen"
                trial.agree("O1", "with frozen", leaf.grad, trial.gradients[number], what)


def buffers_stay(trial: Trial) -> None:
    """O2: in eval mode a call changes no buffer. (In train mode, see frozen_neighbours.)"""
    call = trial.call
    assert isinstance(call, ModuleCall)
    if call.training or not call.buffers:
        return
    for number, (now, was) in enumerate(zip(trial.outputs[-len(call.buffers) :], call.buffers)):
        trial.expect(
            "O2", "eval", read_bits(now) == read_bits(was), f"buffer {number} was changed in eval mode"
        )


def laws(trial: Trial, masks: Sequence[Mask]) -> Dict[str, Callable[[], None]]:
    """Each law by its name, ready to be tried."""
    call = trial.call
    assert isinstance(call, ModuleCall)
    inputs = [mask for mask in masks if all(number >= call.parameters for number in mask)]
    return {
        "frozen_neighbours": lambda: frozen_neighbours(trial, masks),
        "frozen_stay": lambda: frozen_stay(trial, masks),
        "detached": lambda: detached(trial, inputs),
        "without_grad": lambda: without_grad(trial),
        "inputs_stay": lambda: inputs_stay(trial),
        "buffers_stay": lambda: buffers_stay(trial),
        "sharing": lambda: sharing(trial),
        "accumulation": lambda: accumulation(trial),
    }
