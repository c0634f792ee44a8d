"""A compiled step of an optimizer is a step, also once flags, rates, groups or state have changed."""

import copy
import random
import warnings
from typing import Any, Callable, Dict, List

import pytest
import torch

from frostproof.properties.harness.core.checks import (
    check_close,
    check_equal,
    check_unchanged,
    count_cases,
    snapshot,
)
from frostproof.properties.harness.core.law import law, thorough
from frostproof.properties.harness.running.attempts import attempt
from frostproof.properties.harness.running.call_modes import compiles, forget_compiled
from frostproof.properties.harness.session import evidence
from frostproof.properties.test_optimizer_state import ORDINARY, built

SOURCE = "torch.compile documentation: compiling the optimizer"
# 1 - beta ** step is a float32 tensor where it was a number of Python: a few digits cancel
ROUNDING = 1e-4


class Stepped:
    """Three layers of known values, and an optimizer of the first two of them."""

    def __init__(self, name: str, device: str, backend: str) -> None:
        self.net = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(3))).to(device)
        with torch.no_grad():
            for number, each in enumerate(self.net.parameters()):
                each.copy_((torch.arange(each.numel()) % 3 / 4 - 0.2 + number / 16).view_as(each))
        self.named: Dict[str, torch.nn.Parameter] = dict(self.net.named_parameters())
        parameters = [each for key, each in self.named.items() if key[0] != "2"]
        self.optimizer = built(name, parameters)
        self.inputs = torch.tensor([[1.0, -0.5], [0.5, 2.0]], device=device)
        self.step: Callable[[], Any] = self.optimizer.step
        if backend:
            self.step = torch.compile(self.optimizer.step, backend=backend, dynamic=False)

    def backward(self) -> None:
        """Clear, forward and backward."""
        self.net.zero_grad(set_to_none=True)
        self.net(self.inputs).pow(2).mean().backward()


def freeze(stepped: Stepped) -> None:
    """The first layer's weight and the second's bias."""
    for name in ("0.weight", "1.bias"):
        stepped.named[name].requires_grad_(False)


def unfreeze(stepped: Stepped) -> None:
    """All of them."""
    stepped.net.requires_grad_(True)


def halve_rates(stepped: Stepped) -> None:
    """As a scheduler does."""
    for group in stepped.optimizer.param_groups:
        group["lr"] = group["lr"] / 2


def add_group(stepped: Stepped) -> None:
    """The third layer, at a rate of its own."""
    group = {"params": list(stepped.net[2].parameters()), "lr": 0.05}
    stepped.optimizer.add_param_group(group)


def load_state(stepped: Stepped) -> None:
    """Its own."""
    stepped.optimizer.load_state_dict(copy.deepcopy(stepped.optimizer.state_dict()))


EVENTS: List[Any] = [freeze, halve_rates, unfreeze, add_group, load_state]


@law("W8 F1 F3 F7 F9", SOURCE, "float32", needs=compiles)
def test_a_compiled_step_is_a_step(device: str, dtype: torch.dtype) -> None:
    """W8: compiled, a step of some optimizer moves what the plain step moves, and as far."""
    source = random.Random(evidence.Current.seed)
    check_compiled(source.choice(ORDINARY), "eager", device, source)


@law("W8 F1 F3 F7 F9", SOURCE, "float32", needs=compiles)
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("name", ORDINARY)
def test_compiled_steps_are_steps(device: str, dtype: torch.dtype, name: str, backend: str) -> None:
    """W8: so with every optimizer."""
    if not thorough():
        pytest.skip("tracing takes seconds: every optimizer in the nightly profile")
    check_compiled(name, backend, device, random.Random(evidence.Current.seed))


def check_compiled(name: str, backend: str, device: str, source: random.Random) -> None:
    """Steps of two optimizers, one compiled, each after another of the EVENTS."""
    __tracebackhide__ = True
    events = source.sample(EVENTS, len(EVENTS))
    if not thorough():
        events = [freeze, events[0]]
    forget_compiled()
    plain, other = (Stepped(name, device, each) for each in ("", backend))
    for event in (None, *events):
        frozen = []
        for each in (plain, other):
            if event is not None:
                event(each)
            each.backward()
            frozen = [key for key, value in each.named.items() if value.grad is None]
        before = snapshot(other.named)
        plain.step()
        what = f"a compiled step of {name} after {event.__name__ if event else 'nothing'}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            attempt(other.step, what)
        check_alike(plain, other, frozen, before, what)
        count_cases(1)


def check_alike(
    plain: Stepped, other: Stepped, frozen: List[str], before: Dict[str, bytes], what: str
) -> None:
    """What is frozen stays, the rest ends where the plain one is; both go on from there."""
    __tracebackhide__ = True
    check_unchanged(other.named, before, what, frozen)
    for name, parameter in other.named.items():
        wanted = plain.named[name].detach()
        check_close(parameter.detach(), wanted, f"{name} after {what}", ROUNDING, ROUNDING)
        check_equal(parameter.requires_grad, name not in frozen, f"requires_grad of {name}")
        with torch.no_grad():
            parameter.copy_(wanted)
    states = [
        sorted(key for key, value in each.named.items() if each.optimizer.state.get(value))
        for each in (plain, other)
    ]
    check_equal(states[1], states[0], f"what has state after {what}")
