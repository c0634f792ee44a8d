"""Steps in which not everything moves each time, and flags that change on the way."""

from typing import Any, List

import torch
from torch import nn
from torch.nn import functional

from frostproof.properties.harness.own.optimizer_watch import STEP_HOOKS
from frostproof.properties.selftest.recipes.machinery import TORCH
from frostproof.properties.selftest.recipes.mistakes import data, mistake, stepper, two_layers
from frostproof.properties.selftest.recipes.right import right


def pair() -> Any:
    torch.manual_seed(0)
    return nn.ModuleDict({"maker": nn.Linear(4, 4), "judge": nn.Linear(4, 1)})


def adversaries(every: int = 1, freeze: bool = True) -> Any:
    net = pair()
    makes = torch.optim.Adam(net["maker"].parameters())
    judges = torch.optim.Adam(net["judge"].parameters())
    inputs = data()
    count = [0]

    def step() -> None:
        count[0] += 1
        judges.zero_grad()
        functional.softplus(net["judge"](net["maker"](inputs).detach())).mean().backward()
        judges.step()
        if count[0] % every == 0:
            if freeze:
                net["judge"].requires_grad_(False)
            makes.zero_grad()
            functional.softplus(-net["judge"](net["maker"](inputs))).mean().backward()
            makes.step()
            if freeze:
                net["judge"].requires_grad_(True)

    return net, step


@right
def maker_trained_every_eighth_step() -> Any:
    return adversaries(8)


@right
def adversaries_with_detach_alone() -> Any:
    return adversaries(1, freeze=False)


@right
def two_halves_by_turns() -> Any:
    net = two_layers()
    optimizers = [torch.optim.Adam(net[0].parameters()), torch.optim.Adam(net[2].parameters())]
    count = [0]

    def step() -> None:
        turn = count[0] % 2
        count[0] += 1
        net[0].requires_grad_(turn == 0)
        net[2].requires_grad_(turn == 1)
        stepper(net, optimizers[turn])()

    return net, step


@right
def one_part_accumulates_longer() -> Any:
    net = two_layers()
    often = torch.optim.SGD(net[2].parameters(), 0.1)
    seldom = torch.optim.SGD(net[0].parameters(), 0.1)
    inputs = data()
    count = [0]

    def step() -> None:
        count[0] += 1
        net(inputs).square().mean().backward()
        often.step()
        often.zero_grad()
        if count[0] % 10 == 0:
            seldom.step()
            seldom.zero_grad()

    return net, step


@right
def one_group_warms_up_for_long() -> Any:
    net = two_layers()
    groups: List[Any] = [{"params": net[0].parameters()}, {"params": net[2].parameters()}]
    optimizer = torch.optim.AdamW(groups, 0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, [lambda epoch: max(0.0, epoch - 8) / 10, lambda epoch: 1.0]
    )
    inner = stepper(net, optimizer)

    def step() -> None:
        inner()
        scheduler.step()

    return net, step


@right
def rate_lowered_on_a_plateau() -> Any:
    net = two_layers()
    net[0].weight.requires_grad_(False)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, nesterov=True)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1)
    inner = stepper(net, optimizer)

    def step() -> Any:
        loss = inner()
        scheduler.step(loss.item())
        return loss.item()

    return net, step


@right
def layers_frozen_one_by_one() -> Any:
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    inner = stepper(net, torch.optim.AdamW(net.parameters(), 0.01))
    count = [0]

    def step() -> None:
        count[0] += 1
        if count[0] in (3, 5):
            net[count[0] - 3].requires_grad_(False)
        inner()

    return net, step


@right
def unfrozen_with_a_new_group() -> Any:
    net = two_layers()
    net[0].requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], 0.01)
    inner = stepper(net, optimizer)
    count = [0]

    def step() -> None:
        count[0] += 1
        if count[0] == 4:
            net[0].requires_grad_(True)
            optimizer.add_param_group({"params": list(net[0].parameters()), "lr": 0.001})
        inner()

    return net, step


@right
def a_new_optimizer_for_each_step() -> Any:
    net = two_layers()
    net[0].requires_grad_(False)
    return net, lambda: stepper(net, torch.optim.AdamW(net.parameters(), 0.01))()


@mistake("R3", "no optimizer holds it")
def unfrozen_but_not_in_the_optimizer() -> Any:
    net = two_layers()
    net[0].requires_grad_(False)
    inner = stepper(net, torch.optim.Adam([p for p in net.parameters() if p.requires_grad], 0.01))
    count = [0]

    def step() -> None:
        count[0] += 1
        if count[0] == 3:
            net[0].requires_grad_(True)
        inner()

    return net, step


@mistake("R1", "momentum")
def frozen_on_the_way_with_zeroed_gradients() -> Any:
    net = two_layers()
    inner = stepper(net, torch.optim.SGD(net.parameters(), 0.1, momentum=0.9), set_to_none=False)
    count = [0]

    def step() -> None:
        count[0] += 1
        if count[0] == 3:
            net[0].requires_grad_(False)
        inner()

    return net, step


if STEP_HOOKS:  # on old torch such an optimizer is gone before it can be looked at

    @mistake("R1", "weight decay")
    def zeroed_gradients_and_a_new_optimizer_for_each_step() -> Any:
        net = two_layers()
        net(data()).sum().backward()
        net[0].requires_grad_(False)

        def step() -> None:
            optimizer = torch.optim.AdamW(net.parameters(), 0.01, weight_decay=0.1)
            stepper(net, optimizer, set_to_none=False)()

        return net, step


@mistake("R5", "makes it trainable again")
def training_loop_that_unfreezes_everything() -> Any:
    net = two_layers()
    net[0].requires_grad_(False)
    inner = stepper(net, torch.optim.SGD(net.parameters(), 0.1))

    def step() -> None:
        for parameter in net.parameters():
            parameter.requires_grad = True
        inner()

    return net, step


@mistake("R3", "cleared between backward and optimizer.step()")
def gradients_cleared_before_the_step() -> Any:
    net = two_layers()
    optimizer = torch.optim.AdamW(net.parameters(), 0.01, weight_decay=0.0)

    def step() -> None:
        net(data()).square().mean().backward()
        optimizer.zero_grad()
        optimizer.step()

    return net, step


@mistake("R7", "ended")
def data_that_ends() -> Any:
    net = two_layers()
    batches = iter([data()] * 3)
    inner = stepper(net, torch.optim.SGD(net.parameters(), 0.1))

    def step() -> None:
        next(batches)
        inner()

    return net, step


@mistake("R3", "cut off from the loss")
def reentrant_checkpoint_behind_a_frozen_layer() -> Any:
    from torch.utils.checkpoint import checkpoint

    net: Any = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    net[0].requires_grad_(False)
    extra: Any = {} if TORCH < (1, 11) else {"use_reentrant": True}

    def forward(inputs: torch.Tensor) -> Any:
        return net[2](checkpoint(net[1], net[0](inputs), **extra))

    optimizer = torch.optim.SGD(net.parameters(), 0.1)

    def step() -> None:
        optimizer.zero_grad()
        forward(data()).square().mean().backward()
        optimizer.step()

    return net, step


@right
def checkpoint_behind_a_frozen_layer() -> Any:
    from torch.utils.checkpoint import checkpoint

    net: Any = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Dropout(0.3), nn.Linear(4, 2))
    net[0].requires_grad_(False)
    extra: Any = {} if TORCH < (1, 11) else {"use_reentrant": True}
    optimizer = torch.optim.SGD(net.parameters(), 0.1)

    def step() -> None:
        optimizer.zero_grad()
        hidden = net[0](data()).requires_grad_(True)
        net[3](checkpoint(net[1:3], hidden, **extra)).square().mean().backward()
        optimizer.step()

    return net, step


@right
def actor_updated_every_second_step() -> Any:
    torch.manual_seed(0)
    net: Any = nn.ModuleDict({"actor": nn.Linear(4, 2), "critic": nn.Linear(6, 1)})
    net["old"] = nn.ModuleDict({"actor": nn.Linear(4, 2), "critic": nn.Linear(6, 1)})
    net["old"].load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith("old")})
    net["old"].requires_grad_(False)
    acts = torch.optim.Adam(net["actor"].parameters())
    judges = torch.optim.Adam(net["critic"].parameters())
    seen = data()
    count = [0]

    def value(critic: Any, action: torch.Tensor) -> Any:
        return critic(torch.cat([seen, action], 1))

    def step() -> None:
        count[0] += 1
        judges.zero_grad()
        with torch.no_grad():
            wanted = 1 + 0.9 * value(net["old"]["critic"], net["old"]["actor"](seen))
        functional.mse_loss(value(net["critic"], torch.rand(8, 2)), wanted).backward()
        judges.step()
        if count[0] % 2 == 0:
            acts.zero_grad()
            value(net["critic"], net["actor"](seen)).mean().neg().backward()
            acts.step()
            with torch.no_grad():
                for part in ("actor", "critic"):
                    for new, old in zip(net[part].parameters(), net["old"][part].parameters()):
                        old.copy_(0.995 * old + 0.005 * new)

    return net, step


@right
def last_layer_waits_for_some_steps() -> Any:
    net = two_layers()
    optimizer = torch.optim.AdamW(net.parameters(), 0.01)
    count = [0]

    def step() -> None:
        count[0] += 1
        optimizer.zero_grad()
        net(data()).square().mean().backward()
        if count[0] <= 8:
            for parameter in net[2].parameters():
                parameter.grad = None
        optimizer.step()

    return net, step


@mistake("R1", "a stale gradient")
def second_optimizer_steps_on_old_gradients() -> Any:
    net = two_layers()
    whole = torch.optim.SGD(net.parameters(), 0.1)
    head = torch.optim.SGD(net[2].parameters(), 0.1)
    count: List[int] = [0]

    def step() -> None:
        count[0] += 1
        if count[0] == 2:
            net[0].requires_grad_(False)
        head.zero_grad()  # the body's gradients stay
        net(data()).square().mean().backward()
        whole.step()

    return net, step
