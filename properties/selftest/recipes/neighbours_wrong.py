"""Neighbours of mistakes that people have reported, each of another mechanism."""

import copy
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from frostproof.properties.selftest.recipes.mistakes import data, mistake, stepper, two_layers


def student_and_teacher() -> Any:
    """A student that trains towards a teacher, which follows as an average."""
    student = two_layers()
    net: Any = nn.ModuleDict(
        {"student": student, "teacher": copy.deepcopy(student).requires_grad_(False)}
    )
    return net, torch.optim.AdamW(student.parameters(), 0.01)


def distilled(net: Any, optimizer: Any, cancel: Any, average: bool = True) -> Any:
    """A step with something between backward and the optimizer's step."""

    def step() -> None:
        optimizer.zero_grad()
        with torch.no_grad():
            aim = net["teacher"](data()) + 1
        functional.mse_loss(net["student"](data()), aim).backward()
        cancel()
        optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(net["teacher"].parameters(), net["student"].parameters()):
                if average:
                    slow.lerp_(fast, 0.1)

    return step


@mistake("R5", "cancelled in place of those of its leader")
def gradients_of_the_copy_cancelled() -> Any:
    net, optimizer = student_and_teacher()

    def cancel() -> None:
        for name, parameter in net["teacher"].named_parameters():
            if name.startswith("2."):
                parameter.grad = None

    return net, distilled(net, optimizer, cancel)


@mistake("R5", "cancelled in place of those of its leader")
def gradients_of_a_fixed_copy_cancelled() -> Any:
    net, optimizer = student_and_teacher()

    def cancel() -> None:
        for parameter in net["teacher"][0].parameters():
            parameter.grad = None

    return net, distilled(net, optimizer, cancel, average=False)


@mistake("R3", "the loss does not depend on it")
def auxiliary_loss_as_a_number() -> Any:
    torch.manual_seed(0)
    net: Any = nn.ModuleDict(
        {"body": nn.Linear(4, 6), "main": nn.Linear(6, 2), "beside": nn.Linear(6, 2)}
    )
    optimizer = torch.optim.Adam(net.parameters())

    def step() -> Any:
        optimizer.zero_grad()
        features = torch.tanh(net["body"](data()))
        loss = net["main"](features).square().mean()
        loss = loss + 0.3 * net["beside"](features).square().mean().item()
        loss.backward()
        optimizer.step()
        return loss

    return net, step


@mistake("R3", "the loss does not depend on it")
def loss_of_the_second_head_thrown_away() -> Any:
    torch.manual_seed(0)
    net: Any = nn.ModuleDict({"body": nn.Linear(4, 6), "a": nn.Linear(6, 2), "b": nn.Linear(6, 2)})
    optimizer = torch.optim.SGD(net.parameters(), 0.1)

    def step() -> Any:
        optimizer.zero_grad()
        features = torch.tanh(net["body"](data()))
        loss = net["b"](features).square().mean()
        loss = net["a"](features).square().mean()  # meant +=
        loss.backward()
        optimizer.step()
        return loss

    return net, step


@mistake("R3", "no optimizer holds it")
def second_backward_into_what_no_optimizer_holds() -> Any:
    torch.manual_seed(0)
    net: Any = nn.ModuleDict({"actor": nn.Linear(4, 2), "critic": nn.Linear(4, 1)})
    optimizer = torch.optim.Adam(net["actor"].parameters())

    def step() -> None:
        optimizer.zero_grad()
        net["actor"](data()).square().mean().backward()
        (net["critic"](data()) - 1).square().mean().backward()
        optimizer.step()

    return net, step


@mistake("R3", "moved until step")
def clipping_that_shrinks_to_nothing() -> Any:
    net = two_layers()
    optimizer, allowed = torch.optim.SGD(net.parameters(), 0.1), [1.0]

    def step() -> None:
        optimizer.zero_grad()
        net(data()).square().mean().backward()
        nn.utils.clip_grad_norm_(net.parameters(), allowed[0])
        allowed[0] *= 1e-6
        optimizer.step()

    return net, step


@mistake("R3", "writes the old value back")
def shadow_weights_never_taken_out_again() -> Any:
    net = two_layers()
    inner = stepper(net, torch.optim.SGD(net.parameters(), 0.1))
    shadow = [parameter.detach().clone() for parameter in net.parameters()]

    def step() -> None:
        inner()
        for parameter, average in zip(net.parameters(), shadow):
            parameter.data.copy_(average)  # for evaluation, and training goes on from it

    return net, step


@mistake("R6", "holds NaN or infinity from the start")
def trainable_table_of_infinities() -> Any:
    net = two_layers()
    with torch.no_grad():
        net[2].bias[0] = float("inf")
    return net, stepper(net, torch.optim.SGD(net.parameters(), 0.1))


@mistake("R1", "weight decay")
def masked_weights_decay() -> Any:
    net = two_layers()
    optimizer = torch.optim.AdamW(net.parameters(), 0.01, weight_decay=0.1)
    keep = torch.ones_like(net[0].weight)
    keep[:3] = 0

    def step() -> None:
        optimizer.zero_grad()
        net(data()).square().mean().backward()
        net[0].weight.grad.mul_(keep)
        optimizer.step()

    return net, step


@mistake("R2", "train mode")
def instance_statistics_of_a_frozen_part() -> Any:
    torch.manual_seed(0)
    norm = nn.InstanceNorm1d(4, affine=True, track_running_stats=True)
    net = nn.Sequential(norm, nn.Flatten(), nn.Linear(12, 2))
    norm.requires_grad_(False)
    inputs = torch.randn(8, 4, 3)
    return net, stepper(net, torch.optim.SGD(net[2].parameters(), 0.1), inputs=inputs)


@mistake("R8", "loaded or copied from itself")
def target_restored_from_its_first_weights() -> Any:
    net, optimizer = student_and_teacher()
    inner = distilled(net, optimizer, lambda: None, average=False)
    first = net["teacher"].state_dict()

    def step() -> None:
        inner()
        net["teacher"].load_state_dict(first)

    return net, step


@mistake("R4", "shared storage")
def kept_optimizer_groups_of_views() -> Any:
    net = two_layers()
    step = stepper(net, torch.optim.SGD(net.parameters(), 0.1))
    return net, step, {"first": net[0].weight.data.view(-1), "second": net[2].weight.t().detach()}


@mistake("R1", "LBFGS moves what has no gradient")
def layer_dropped_from_lbfgs_by_its_flag() -> Any:
    net = two_layers()
    optimizer, count = torch.optim.LBFGS(net.parameters(), 0.1, max_iter=3), [0]

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = (net(data()) - 1).square().mean()
        loss.backward()
        return loss

    def step() -> None:
        count[0] += 1
        if count[0] == 3:
            net[0].requires_grad_(False)
            net[0].weight.grad = net[0].bias.grad = None
        optimizer.step(closure)

    return net, step


@mistake("R1", "a stale gradient")
def frozen_while_gradients_accumulate() -> Any:
    net = two_layers()
    optimizer, count = torch.optim.SGD(net.parameters(), 0.1), [0]

    def step() -> None:
        count[0] += 1
        net(data()).square().mean().backward()
        if count[0] == 3:
            net[0].requires_grad_(False)  # half of its gradients are there
        if count[0] % 2 == 0:
            optimizer.step()
            optimizer.zero_grad()
        if count[0] == 2:
            net(data()).mean().backward()

    return net, step


@mistake("R5", "makes it trainable again")
def trainer_that_turns_on_what_has_a_name() -> Any:
    net = two_layers()
    net[0].requires_grad_(False)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)

    def step() -> None:
        for name, parameter in net.named_parameters():
            parameter.requires_grad = "weight" in name or "2." in name
        optimizer.zero_grad()
        net(data()).square().mean().backward()
        optimizer.step()

    return net, step
