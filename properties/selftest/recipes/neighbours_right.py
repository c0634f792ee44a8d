"""What looks like a mistake and is meant: neighbours of right recipes, each of another mechanism."""

import copy
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from frostproof.properties.selftest.recipes.mistakes import data, stepper, two_layers
from frostproof.properties.selftest.recipes.neighbours_wrong import distilled, student_and_teacher
from frostproof.properties.selftest.recipes.right import right


@right
def gradients_of_the_whole_copy_cleared_to_be_sure() -> Any:
    net, optimizer = student_and_teacher()

    def cancel() -> None:
        for parameter in net["teacher"].parameters():
            parameter.grad = None

    return net, distilled(net, optimizer, cancel)


@right
def last_layers_of_both_cancelled_by_name() -> Any:
    net, optimizer = student_and_teacher()

    def cancel() -> None:
        for name, parameter in net.named_parameters():
            if ".2." in name:
                parameter.grad = None

    return net, distilled(net, optimizer, cancel)


@right
def gradients_cleared_before_backward_by_hand() -> Any:
    net, optimizer = student_and_teacher()
    inner = distilled(net, optimizer, lambda: None)

    def step() -> None:
        for name, parameter in net["teacher"].named_parameters():
            if name.startswith("2."):
                parameter.grad = None
        inner()

    return net, step


@right
def frozen_layer_cancelled_too() -> Any:
    torch.manual_seed(0)
    net: Any = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    net[0].requires_grad_(False)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with torch.no_grad():
        for layer in (net[0], net[2]):
            layer.bias.zero_()

    def step() -> None:
        optimizer.zero_grad()
        net(data()).square().mean().backward()
        for parameter in net[0].parameters():
            parameter.grad = None
        optimizer.step()

    return net, step


@right
def penalty_on_what_is_frozen() -> Any:
    net = two_layers()
    net[0].requires_grad_(False)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)

    def step() -> Any:
        optimizer.zero_grad()
        loss = net(data()).square().mean() + 0.1 * sum(p.square().sum() for p in net[0].parameters())
        loss.backward()
        optimizer.step()
        return loss

    return net, step


@right
def weight_of_a_loss_annealed_to_zero() -> Any:
    torch.manual_seed(0)
    net: Any = nn.ModuleDict(
        {"body": nn.Linear(4, 6), "main": nn.Linear(6, 2), "beside": nn.Linear(6, 2)}
    )
    optimizer, count = torch.optim.SGD(net.parameters(), 0.1), [0]

    def step() -> None:
        count[0] += 1
        optimizer.zero_grad()
        features = torch.tanh(net["body"](data()))
        weight = max(0.0, 1.0 - count[0] / 3)
        (
            net["main"](features).square().mean() + weight * net["beside"](features).square().mean()
        ).backward()
        optimizer.step()

    return net, step


@right
def probe_on_detached_features() -> Any:
    torch.manual_seed(0)
    net: Any = nn.ModuleDict(
        {"body": nn.Linear(4, 6), "main": nn.Linear(6, 2), "probe": nn.Linear(6, 2)}
    )
    optimizer = torch.optim.Adam(net.parameters())

    def step() -> None:
        optimizer.zero_grad()
        features = torch.tanh(net["body"](data()))
        loss = net["main"](features).square().mean() + net["probe"](features.detach()).square().mean()
        loss.backward()
        optimizer.step()

    return net, step


@right
def weights_clamped_and_normalised_after_the_step() -> Any:
    net = two_layers()
    inner = stepper(net, torch.optim.SGD(net.parameters(), 0.1))

    def step() -> None:
        inner()
        with torch.no_grad():
            net[0].weight.clamp_(-0.4, 0.4)
            net[2].weight.div_(net[2].weight.norm(dim=1, keepdim=True))

    return net, step


@right
def frozen_parameter_that_is_nan() -> Any:
    net = two_layers()
    net.register_parameter("unset", nn.Parameter(torch.full((3,), float("nan")), requires_grad=False))
    return net, stepper(net, torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.1))


@right
def kept_buffer_of_infinities() -> Any:
    net = two_layers()
    lowest = torch.full((4,), float("-inf"))
    return net, stepper(net, torch.optim.SGD(net.parameters(), 0.1)), {"lowest": lowest}


@right
def scaler_that_skips_its_first_steps() -> Any:
    net = two_layers()
    optimizer, scale = torch.optim.SGD(net.parameters(), 0.1), [2.0**126]

    def step() -> None:
        optimizer.zero_grad()
        (net(data()).square().mean() * 8 * scale[0]).backward()
        found = any(not bool(torch.isfinite(p.grad).all()) for p in net.parameters())
        if found:
            scale[0] /= 2**40
            optimizer.zero_grad()
            return
        for parameter in net.parameters():
            parameter.grad.div_(scale[0])
        optimizer.step()

    return net, step


@right
def generator_of_weights_for_a_frozen_net() -> Any:
    torch.manual_seed(0)
    net: Any = nn.ModuleDict({"maker": nn.Linear(3, 8), "fixed": nn.Linear(4, 2)})
    net["fixed"].requires_grad_(False)
    optimizer, code = torch.optim.Adam(net["maker"].parameters()), torch.ones(3)

    def step() -> None:
        optimizer.zero_grad()
        change = net["maker"](code).view(2, 4)
        functional.linear(
            data(), net["fixed"].weight + change, net["fixed"].bias
        ).square().mean().backward()
        optimizer.step()

    return net, step


@right
def image_that_trains_before_a_frozen_net() -> Any:
    net = two_layers()
    net.requires_grad_(False)
    net.register_parameter("image", nn.Parameter(data()))
    optimizer = torch.optim.LBFGS([net.image], 0.1, max_iter=2)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = (net(net.image) - 1).square().mean()
        loss.backward()
        return loss

    return net, lambda: optimizer.step(closure)


@right
def weights_reset_to_the_best_after_a_bad_step() -> Any:
    net = two_layers()
    inner, best, count = stepper(net, torch.optim.SGD(net.parameters(), 0.1)), [copy.deepcopy(net)], [0]

    def step() -> None:
        count[0] += 1
        inner()
        if count[0] == 4:
            net.load_state_dict(best[0].state_dict())
        best[0] = copy.deepcopy(net)

    return net, step


@right
def two_rates_of_learning_for_fast_and_slow() -> Any:
    net = two_layers()
    fast = torch.optim.SGD(net[2].parameters(), 0.1)
    slow, count = torch.optim.SGD(net[0].parameters(), 0.1), [0]

    def step() -> None:
        count[0] += 1
        net(data()).square().mean().backward()
        fast.step()
        fast.zero_grad()
        if count[0] % 3 == 0:
            slow.step()
            slow.zero_grad()

    return net, step


@right
def frozen_statistics_calibrated_before_training() -> Any:
    net = two_layers(nn.BatchNorm1d(6))
    net[1].requires_grad_(False)
    net(data())
    net[1].eval()
    return net, stepper(net, torch.optim.Adam([p for p in net.parameters() if p.requires_grad]))
