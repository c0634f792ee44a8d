"""Functions with a gradient of their own, features without one, adapters that are merged."""

import copy
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from frostproof.properties.selftest.recipes.mistakes import data, mistake, stepper, two_layers
from frostproof.properties.selftest.recipes.right import right


class Rounded(torch.autograd.Function):
    """Rounds, and lets gradients through."""

    @staticmethod
    def forward(context: Any, inputs: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return inputs.mul(16).round().div(16)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return gradient


class Forgetful(Rounded):
    """Forgets its gradient."""

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> None:  # type: ignore[override]
        return None


@right
def straight_through_rounding() -> Any:
    net = two_layers()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)

    def step() -> None:
        optimizer.zero_grad()
        weight = Rounded.apply(net[0].weight)
        hidden = torch.tanh(functional.linear(data(), weight, net[0].bias))
        net[2](hidden).square().mean().backward()
        optimizer.step()

    return net, step


@mistake("R3", "no_grad or argmax")
def own_function_without_its_gradient() -> Any:
    net = two_layers()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)

    def step() -> None:
        optimizer.zero_grad()
        hidden = torch.tanh(net[0](data()))
        functional.linear(
            hidden, Forgetful.apply(net[2].weight), net[2].bias
        ).square().mean().backward()
        optimizer.step()

    return net, step


@mistake("R3", "cut off from the loss")
def features_under_no_grad() -> Any:
    net = two_layers()
    optimizer = torch.optim.Adam(net.parameters())

    def step() -> None:
        optimizer.zero_grad()
        with torch.no_grad():
            features = net[:2](data())
        net[2](features).square().mean().backward()
        optimizer.step()

    return net, step


@mistake("R3", "calls no backward")
def loss_taken_apart_by_item() -> Any:
    net = two_layers()
    optimizer = torch.optim.Adam(net.parameters())

    def step() -> None:
        optimizer.zero_grad()
        loss = torch.tensor(net(data()).square().mean().item(), requires_grad=True)
        loss.backward()
        optimizer.step()

    return net, step


@mistake("R6", "NaN")
def loss_that_is_nan_as_a_number() -> Any:
    net = two_layers()
    inner = stepper(net, torch.optim.SGD(net.parameters(), 0.1))
    return net, lambda: {"loss": inner().item() * float("nan"), "rows": 8}


@mistake("R1", "adapter")
def adapter_merged_and_taken_out_again() -> Any:
    torch.manual_seed(0)
    net: Any = nn.ModuleDict(
        {
            "base": nn.Linear(4, 4),
            "down": nn.Linear(4, 2, bias=False),
            "up": nn.Linear(2, 4, bias=False),
        }
    )
    net["base"].requires_grad_(False)
    optimizer = torch.optim.AdamW(net.parameters(), 0.01)
    inputs = data()

    def step() -> None:
        optimizer.zero_grad()
        (net["base"](inputs) + net["up"](net["down"](inputs))).square().mean().backward()
        optimizer.step()
        update = net["up"].weight.detach() @ net["down"].weight.detach()
        net["base"].weight.data += update
        net["base"](inputs)
        net["base"].weight.data -= update

    return net, step


@right
def adapter_merged_into_a_copy() -> Any:
    net, inner = two_layers(), None
    net[0].requires_grad_(False)
    inner = stepper(net, torch.optim.AdamW(net.parameters(), 0.01))

    def step() -> None:
        inner()
        merged = copy.deepcopy(net)
        with torch.no_grad():
            merged[0].weight += 1.0

    return net, step
