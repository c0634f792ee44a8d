"""Recipes with one mistake each: the law that should find it, and a word of its cause."""

import copy
from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
from torch import nn
from torch.nn import functional

Recipe = Callable[[], Any]
# name: (factory, law, words of the finding)
MISTAKES: Dict[str, Tuple[Recipe, str, str]] = {}


def mistake(law: str, words: str) -> Callable[[Recipe], Recipe]:
    def register(factory: Recipe) -> Recipe:
        MISTAKES[factory.__name__] = (factory, law, words)
        return factory

    return register


def data(rows: int = 8, width: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, width, generator=generator)


def two_layers(*between: nn.Module) -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), *between, nn.Tanh(), nn.Linear(6, 2))


def closing(net: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], torch.Tensor]:
    """What an optimizer calls that wants a closure."""

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = net(data()).square().mean()
        loss.backward()
        return loss

    return closure


def stepper(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    set_to_none: bool = True,
    inputs: Optional[torch.Tensor] = None,
) -> Callable[[], Any]:
    inputs = data() if inputs is None else inputs

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=set_to_none)
        loss = net(inputs).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    return step


def word_stepper(net: Any, optimizer: torch.optim.Optimizer) -> Callable[[], Any]:
    words = torch.tensor([0, 1, 2, 3])

    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(net["head"](net["embedding"](words)), words).backward()
        optimizer.step()

    return step


@mistake("R2", "train mode")
def batchnorm_left_in_train_mode() -> Any:
    net = two_layers(nn.BatchNorm1d(6))
    net[:2].requires_grad_(False)
    return net, stepper(net, torch.optim.SGD(net[3].parameters(), 0.1))


@mistake("R2", "train mode")
def train_undoes_eval() -> Any:
    net = two_layers(nn.BatchNorm1d(6))
    net[:2].requires_grad_(False)
    net[:2].eval()
    inner = stepper(net, torch.optim.SGD(net[3].parameters(), 0.1))

    def step() -> Any:
        net.train()
        return inner()

    return net, step


@mistake("R1", "weight decay")
def weight_decay_with_zeroed_gradients() -> Any:
    net = two_layers()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, weight_decay=0.1)
    step = stepper(net, optimizer, set_to_none=False)
    step()
    net[0].requires_grad_(False)
    return net, step


@mistake("R1", "momentum")
def frozen_after_momentum() -> Any:
    net = two_layers()
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    step = stepper(net, optimizer, set_to_none=False)
    step()
    net[0].requires_grad_(False)
    return net, step


@mistake("R1", "stale gradient")
def stale_gradients() -> Any:
    net = two_layers()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    inputs = data()
    net(inputs).sum().backward()
    net[0].requires_grad_(False)

    def step() -> None:
        for parameter in net[2].parameters():
            parameter.grad = None
        net(inputs).square().mean().backward()
        optimizer.step()

    return net, step


@mistake("R1", "LBFGS")
def lbfgs_moves_what_it_knew() -> Any:
    net = two_layers()
    optimizer = torch.optim.LBFGS(net.parameters(), lr=0.1, max_iter=4)
    inputs = data()

    def closure() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = net(inputs).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    net[0].requires_grad_(False)
    return net, lambda: optimizer.step(closure)


@mistake("R4", "shared storage")
def best_weights_without_clone() -> Any:
    net = two_layers()
    best = net.state_dict()
    return net, stepper(net, torch.optim.Adam(net.parameters())), {"best": best}


@mistake("R3", "re-created after the optimizer")
def head_replaced_after_the_optimizer() -> Any:
    net = two_layers()
    net[0].requires_grad_(False)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    net[2] = nn.Linear(6, 2)
    inputs = data()

    def step() -> None:
        net.zero_grad()
        net(inputs).square().mean().backward()
        optimizer.step()

    return net, step


@mistake("R1", "shared storage")
def tied_by_data() -> Any:
    net: Any = nn.ModuleDict({"embedding": nn.Embedding(5, 4), "head": nn.Linear(4, 5, bias=False)})
    net["embedding"].requires_grad_(False)
    net["head"].weight = nn.Parameter(net["embedding"].weight.data)
    optimizer = torch.optim.SGD(net["head"].parameters(), 0.1)
    return net, word_stepper(net, optimizer)


@mistake("R4", "forgotten detach")
def target_network_without_detach() -> Any:
    net = two_layers()
    target = copy.deepcopy(net)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    inputs = data()

    def step() -> None:
        optimizer.zero_grad()
        wanted = 1 + 0.9 * target(inputs).amax(1)
        functional.mse_loss(net(inputs).amax(1), wanted).backward()
        optimizer.step()

    return net, step, {"target": target}


@mistake("R3", "detach()")
def detach_starves_the_encoder() -> Any:
    encoder, head = nn.Linear(4, 6), nn.Linear(6, 2)
    net = nn.Sequential(encoder, head)
    optimizer = torch.optim.Adam(net.parameters())
    inputs = data()

    def step() -> None:
        optimizer.zero_grad()
        head(torch.tanh(encoder(inputs)).detach()).square().mean().backward()
        optimizer.step()

    return net, step


@mistake("R1", "average (EMA)")
def ema_over_its_own_memory() -> Any:
    net = two_layers()
    net[0].requires_grad_(False)
    average = net.state_dict()
    inner = stepper(net, torch.optim.SGD(net[2].parameters(), 0.1))

    def step() -> None:
        inner()
        with torch.no_grad():
            for name, value in net.state_dict().items():
                average[name].mul_(0.9).add_(value * 0.1 / 0.9)

    return net, step


@mistake("R5", "requires_grad_(...)")
def requires_grad_as_an_attribute_of_the_module() -> Any:
    net = two_layers()
    net[0].requires_grad = False
    return net, stepper(net, torch.optim.SGD(net.parameters(), 0.1))


@mistake("R3", "no optimizer holds it")
def filter_used_twice() -> Any:
    net = two_layers()
    net[0].bias.requires_grad = False
    trainable = filter(lambda p: p.requires_grad, net[2].parameters())
    assert sum(p.numel() for p in trainable) > 0
    groups: List[Any] = [{"params": net[0].parameters()}, {"params": list(trainable)}]
    return net, stepper(net, torch.optim.SGD(groups, 0.1))


@mistake("R1", "in-place write")
def initialised_again() -> Any:
    net = two_layers()
    net[0].requires_grad_(False)
    inner = stepper(net, torch.optim.SGD(net[2].parameters(), 0.1))

    def step() -> None:
        for layer in net:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
        inner()

    return net, step


@mistake("R5", "weight_norm")
def weight_norm_after_freezing() -> Any:
    net = two_layers()
    net[0].requires_grad_(False)
    if hasattr(nn.utils, "parametrizations") and hasattr(nn.utils.parametrizations, "weight_norm"):
        nn.utils.parametrizations.weight_norm(net[0])
        for name, parameter in net[0].named_parameters():
            if "original" in name:
                parameter.requires_grad_(True)
    else:
        nn.utils.weight_norm(net[0])
    return net, stepper(net, torch.optim.SGD(net.parameters(), 0.1))


@mistake("R3", "unused in forward")
def a_layer_that_is_never_used() -> Any:
    net = two_layers()
    net.add_module("spare", nn.Linear(3, 3))
    body = nn.Sequential(*list(net)[:3])
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    return net, stepper(body, optimizer)


@mistake("R3", "learning rate is 0")
def learning_rate_zero() -> Any:
    net = two_layers()
    groups: List[Any] = [{"params": net[0].parameters(), "lr": 0.0}, {"params": net[2].parameters()}]
    return net, stepper(net, torch.optim.SGD(groups, 0.1))


@mistake("R3", "optimizer.step() is never called")
def step_forgotten() -> Any:
    net = two_layers()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    inputs = data()

    def step() -> None:
        optimizer.zero_grad()
        net(inputs).square().mean().backward()

    return net, step


@mistake("R6", "NaN")
def a_rate_that_explodes() -> Any:
    net = two_layers()
    optimizer = torch.optim.SGD(net.parameters(), 1e30)
    inputs = data()

    def step() -> None:
        optimizer.zero_grad()
        net(inputs).pow(4).mean().backward()
        optimizer.step()

    return net, step


@mistake("R3", "smaller than the spacing")
def bfloat16_swallows_the_update() -> Any:
    torch.manual_seed(0)
    net = nn.Linear(4, 2).to(torch.bfloat16)
    inputs = data().to(torch.bfloat16)
    optimizer = torch.optim.SGD(net.parameters(), 1e-9)

    def step() -> None:
        optimizer.zero_grad()
        net(inputs).float().square().mean().backward()
        optimizer.step()

    return net, step


@mistake("R1", "replaced")
def reset_by_a_new_parameter() -> Any:
    net = two_layers()
    net[0].requires_grad_(False)
    inner = stepper(net, torch.optim.SGD(net[2].parameters(), 0.1))

    def step() -> None:
        net[0].weight = nn.Parameter(net[0].weight * 0.5, requires_grad=False)
        inner()

    return net, step


@mistake("R4", "not a copy")
def teacher_is_the_student() -> Any:
    net = two_layers()
    teacher: List[nn.Module] = [net]
    return net, stepper(net, torch.optim.SGD(net.parameters(), 0.1)), {"teacher": teacher[0]}


@mistake("R3", "nothing to train")
def everything_frozen() -> Any:
    net = two_layers()
    inputs = data()
    net.requires_grad_(False)
    return net, lambda: net(inputs).sum()


@mistake("R7", "does not require grad")
def backward_without_anything_to_train() -> Any:
    net = two_layers()
    net.requires_grad_(False)
    return net, lambda: net(data()).sum().backward()


@mistake("R4", "BatchNorm runs in train mode")
def teacher_in_train_mode() -> Any:
    net, teacher = two_layers(), two_layers(nn.BatchNorm1d(6))
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    inputs = data()

    def step() -> None:
        optimizer.zero_grad()
        with torch.no_grad():
            wanted = teacher(inputs)
        functional.mse_loss(net(inputs), wanted).backward()
        optimizer.step()

    return net, step, {"teacher": teacher}


NET = two_layers()
OPTIMIZER = torch.optim.SGD(NET.parameters(), 0.1, weight_decay=0.1)


@mistake("R1", "weight decay")
def everything_made_at_import() -> Any:
    step = stepper(NET, OPTIMIZER, set_to_none=False)
    NET.requires_grad_(True)
    step()
    NET[0].requires_grad_(False)
    return NET, step
