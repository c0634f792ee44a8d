"""Recipes that are right, however unusual: no alarm."""

import copy
from typing import Any, Callable, Dict

import torch
from torch import nn
from torch.nn import functional

from frostproof.properties.selftest.recipes.mistakes import (
    Recipe,
    data,
    stepper,
    two_layers,
    word_stepper,
)

RIGHT: Dict[str, Recipe] = {}


def right(factory: Recipe) -> Recipe:
    RIGHT[factory.__name__] = factory
    return factory


@right
def plain_training() -> Any:
    net = two_layers(nn.Dropout(0.2))
    return net, stepper(net, torch.optim.Adam(net.parameters()))


@right
def frozen_and_listed() -> Any:
    net = two_layers()
    net[0].requires_grad_(False)
    return net, stepper(net, torch.optim.AdamW(net.parameters(), weight_decay=0.1))


@right
def frozen_batchnorm_in_eval_mode() -> Any:
    net = two_layers(nn.BatchNorm1d(6))
    net[:2].requires_grad_(False)
    inner = stepper(net, torch.optim.SGD(net[3].parameters(), 0.1))

    def step() -> Any:
        net.train()
        net[:2].eval()
        return inner()

    return net, step


@right
def frozen_midway_with_cleared_gradients() -> Any:
    net = two_layers()
    step = stepper(net, torch.optim.Adam(net.parameters(), weight_decay=0.1))
    step()
    net[0].requires_grad_(False)
    net[0].zero_grad()
    for parameter in net[0].parameters():
        parameter.grad = None
    return net, step


@right
def best_weights_deep_copied() -> Any:
    net = two_layers()
    best = copy.deepcopy(net.state_dict())
    return net, stepper(net, torch.optim.Adam(net.parameters())), {"best": best}


@right
def gradual_unfreezing() -> Any:
    net = two_layers()
    net[0].requires_grad_(False)
    inner = stepper(net, torch.optim.SGD(net.parameters(), 0.1))
    count = [0]

    def step() -> None:
        count[0] += 1
        if count[0] == 3:
            net[0].requires_grad_(True)
        inner()

    return net, step


@right
def adversaries_take_turns() -> Any:
    torch.manual_seed(0)
    net: Any = nn.ModuleDict({"maker": nn.Linear(4, 4), "judge": nn.Linear(4, 1)})
    makes = torch.optim.Adam(net["maker"].parameters())
    judges = torch.optim.Adam(net["judge"].parameters())
    inputs = data()

    def step() -> None:
        net["judge"].requires_grad_(True)
        judges.zero_grad()
        functional.softplus(net["judge"](net["maker"](inputs).detach())).mean().backward()
        judges.step()
        net["judge"].requires_grad_(False)
        makes.zero_grad()
        functional.softplus(-net["judge"](net["maker"](inputs))).mean().backward()
        makes.step()

    return net, step


@right
def adversaries_that_begin_frozen() -> Any:
    net, step = adversaries_take_turns()
    net["judge"].requires_grad_(False)
    return net, step


@right
def target_network_with_an_average() -> Any:
    net = two_layers()
    target = copy.deepcopy(net).requires_grad_(False)
    teacher = copy.deepcopy(net)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    inputs = data()

    def step() -> None:
        optimizer.zero_grad()
        with torch.no_grad():
            wanted = 1 + 0.9 * target(inputs).amax(1)
        loss = functional.mse_loss(net(inputs).amax(1), wanted)
        (loss + functional.mse_loss(net(inputs), teacher(inputs).detach() * 0.5)).backward()
        optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(target.parameters(), net.parameters()):
                slow.lerp_(fast, 0.1)

    return net, step, {"teacher": teacher}


@right
def accumulation() -> Any:
    net = two_layers()
    net[0].requires_grad_(False)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    inputs = data()
    count = [0]

    def step() -> None:
        count[0] += 1
        (net(inputs).square().mean() / 8).backward()
        if count[0] % 8 == 0:
            optimizer.step()
            optimizer.zero_grad()

    return net, step


@right
def warm_up_from_zero() -> Any:
    net = two_layers()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: min(1.0, epoch / 4))
    inner = stepper(net, optimizer)

    def step() -> None:
        inner()
        scheduler.step()

    return net, step


class LowRank(nn.Module):
    """A frozen linear layer with a trainable update of rank 2 that begins at zero."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, inputs: torch.Tensor) -> Any:
        return self.base(inputs) + self.up(self.down(inputs))


@right
def low_rank_adapter() -> Any:
    torch.manual_seed(0)
    net = nn.Sequential(LowRank(nn.Linear(4, 6)), nn.Tanh(), LowRank(nn.Linear(6, 2)))
    return net, stepper(net, torch.optim.AdamW(net.parameters(), 0.01))


@right
def tied_embedding() -> Any:
    torch.manual_seed(0)
    net: Any = nn.ModuleDict({"embedding": nn.Embedding(50, 4), "head": nn.Linear(4, 50, bias=False)})
    net["head"].weight = net["embedding"].weight
    optimizer = torch.optim.AdamW(net.parameters())
    return net, word_stepper(net, optimizer)


@right
def weight_norm_before_freezing() -> Any:
    net = two_layers()
    nn.utils.weight_norm(net[0]) if not hasattr(
        getattr(nn.utils, "parametrizations", None), "weight_norm"
    ) else nn.utils.parametrizations.weight_norm(net[0])
    for parameter in net[0].parameters():
        parameter.requires_grad = False
    return net, stepper(net, torch.optim.SGD(net.parameters(), 0.1))


@right
def sparse_embedding() -> Any:
    torch.manual_seed(0)
    net = nn.Sequential(nn.EmbeddingBag(20, 4, sparse=True), nn.Linear(4, 2))
    net[1].requires_grad_(False)
    optimizer = torch.optim.SparseAdam(list(net[0].parameters()))
    words = torch.tensor([[0, 1], [2, 3]])
    return net, stepper(net, optimizer, inputs=words)


@right
def layers_in_a_list_given_to_the_optimizer() -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.rest = [nn.Linear(4, 4), nn.Linear(4, 2)]

        def forward(self, inputs: torch.Tensor) -> Any:
            for layer in (self.first, *self.rest):
                inputs = torch.tanh(layer(inputs))
            return inputs

    torch.manual_seed(0)
    net = Net()
    parameters = [*net.parameters(), *(p for layer in net.rest for p in layer.parameters())]
    return net, stepper(net, torch.optim.SGD(parameters, 0.1))


@right
def layer_swapped_for_an_equal_one() -> Any:
    net = two_layers()
    net[0].requires_grad_(False)
    inner = stepper(net, torch.optim.SGD(net[2].parameters(), 0.1))

    def step() -> None:
        net[0] = copy.deepcopy(net[0])
        inner()

    return net, step


@right
def an_optimizer_made_in_the_step() -> Any:
    net = two_layers()
    held: Dict[str, Callable[[], Any]] = {}

    def step() -> Any:
        if not held:
            held["step"] = stepper(net, torch.optim.SGD(net.parameters(), 0.1))
        return held["step"]()

    return net, step


@right
def clipping_and_noise_in_bfloat16() -> Any:
    net = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2)).to(torch.bfloat16)
    net[0].weight.requires_grad = False
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    inputs = data().to(torch.bfloat16)

    def step() -> None:
        optimizer.zero_grad()
        net(inputs).float().square().mean().backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()

    return net, step
