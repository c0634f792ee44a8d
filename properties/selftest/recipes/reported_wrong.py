"""Mistakes that people have reported in public, each of another mechanism."""

import copy
from typing import Any, Dict

import pytest
import torch
from torch import nn
from torch.nn import functional

from frostproof.properties.selftest.recipes.mistakes import data, mistake, stepper, two_layers


def pair(batchnorm: bool = False) -> Any:
    """An online network, and a frozen copy of it."""
    online = two_layers(nn.BatchNorm1d(6)) if batchnorm else two_layers()
    return nn.ModuleDict({"online": online, "target": copy.deepcopy(online).requires_grad_(False)})


def learner(net: Any, optimizer: torch.optim.Optimizer) -> Any:
    """Online learns towards 1 plus what the target says."""
    inputs = data()

    def learn() -> None:
        optimizer.zero_grad()
        with torch.no_grad():
            aim = 1 + 0.9 * net["target"](inputs)
        functional.mse_loss(net["online"](inputs), aim).backward()
        optimizer.step()

    return learn


@mistake("R8", "loaded or copied from itself")
def target_loaded_with_its_own_weights() -> Any:
    net = pair()
    learn, count = learner(net, torch.optim.RMSprop(net["online"].parameters(), 0.01)), [0]

    def step() -> None:
        learn()
        count[0] += 1
        if count[0] % 2 == 0:
            net["target"].load_state_dict(net["target"].state_dict())

    return net, step


@mistake("R8", "loaded or copied from itself")
def target_copied_from_itself_in_a_loop() -> Any:
    net = pair()
    learn = learner(net, torch.optim.Adam(net["online"].parameters(), 0.01))

    def step() -> None:
        learn()
        with torch.no_grad():
            for slow in net["target"].parameters():
                slow.copy_(slow.clone())

    return net, step


@mistake("R1", "the network that trains")
def target_bound_to_the_online_network() -> Any:
    net = pair()
    learn, count = learner(net, torch.optim.Adam(net["online"].parameters(), 0.01)), [0]

    def step() -> None:
        learn()
        count[0] += 1
        if count[0] == 2:
            net["target"] = net["online"]

    return net, step


@mistake("R1", "shared storage")
def target_that_shares_the_storage_after_a_copy() -> Any:
    net = pair()
    learn, count = learner(net, torch.optim.Adam(net["online"].parameters(), 0.01)), [0]

    def step() -> None:
        learn()
        count[0] += 1
        if count[0] == 2:
            for slow, fast in zip(net["target"].parameters(), net["online"].parameters()):
                slow.data = fast.data

    return net, step


@mistake("R8", "leaves out buffers")
def average_whose_statistics_stay_at_birth() -> Any:
    net = pair(batchnorm=True)
    net["target"].eval()
    learn = learner(net, torch.optim.SGD(net["online"].parameters(), 0.1))

    def step() -> None:
        learn()
        with torch.no_grad():
            for slow, fast in zip(net["target"].parameters(), net["online"].parameters()):
                slow.lerp_(fast, 0.1)

    return net, step


@mistake("R8", "zip ends with the shorter list")
def average_that_ends_with_the_shorter_list() -> Any:
    net = pair()
    learn = learner(net, torch.optim.Adam(net["online"].parameters(), 0.05))

    def step() -> None:
        learn()
        with torch.no_grad():
            for slow, fast in zip(net["target"].parameters(), net["online"][0].parameters()):
                slow.lerp_(fast, 0.1)

    return net, step


def words_of(optimizer: Any, how: str) -> Any:
    """An embedding of which one row alone is to train."""
    torch.manual_seed(0)
    net: Any = nn.Sequential(nn.Embedding(12, 6), nn.Linear(6, 6).requires_grad_(False))
    table, words = net[0].weight, torch.tensor([[11, 3, 5], [2, 11, 7]])
    steps = optimizer([table])
    mask = torch.zeros(12, 1)
    mask[11] = 1.0
    if how == "hook":
        table.register_hook(lambda gradient: gradient * mask)

    def step() -> None:
        steps.zero_grad()
        net(words).square().mean().backward()
        if how == "hand":
            table.grad[:11] = 0
        steps.step()

    return net, step


@mistake("R1", "takes a gradient of zeros as a gradient")
def rows_with_zeroed_gradients_decay() -> Any:
    return words_of(lambda params: torch.optim.AdamW(params, 0.01, weight_decay=0.1), "hand")


@mistake("R1", "weight decay 0.1 moves what is to stand")
def rows_masked_by_a_hook_decay() -> Any:
    return words_of(lambda params: torch.optim.SGD(params, 0.1, weight_decay=0.1), "hook")


@mistake("R4", "momentum")
def kept_rows_moved_by_old_momentum() -> Any:
    torch.manual_seed(0)
    net: Any = nn.Sequential(nn.Embedding(12, 6), nn.Linear(6, 6).requires_grad_(False))
    words = torch.tensor([[11, 3, 5], [2, 11, 7]])
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)

    def train(mask: bool) -> None:
        optimizer.zero_grad()
        net(words).square().mean().backward()
        if mask:
            net[0].weight.grad[:11] = 0
        optimizer.step()

    train(False)
    return net, lambda: train(True), {"old": net[0].weight.detach()[:11]}


@mistake("R4", "nothing has cancelled its gradient")
def gradients_of_the_wrong_head_cancelled() -> Any:
    net = pair()
    optimizer = torch.optim.AdamW(net["online"].parameters(), 0.01)
    inputs = data()

    def step() -> None:
        optimizer.zero_grad()
        functional.mse_loss(net["online"](inputs), 1 + net["target"](inputs)).backward()
        for parameter in net["target"][2].parameters():
            parameter.grad = None
        optimizer.step()

    return net, step, {"last": net["online"][2]}


@mistake("R1", "takes a gradient of zeros as a gradient")
def layer_with_a_zeroed_gradient_decays() -> Any:
    net = two_layers()
    optimizer = torch.optim.AdamW(net.parameters(), 0.01, weight_decay=0.5)

    def step() -> None:
        optimizer.zero_grad()
        net(data()).square().mean().backward()
        for parameter in net[0].parameters():
            parameter.grad.zero_()
        optimizer.step()

    return net, step


@mistake("R1", "frozen in step 3, after backward), but moved in step 3,")
def frozen_between_backward_and_the_step() -> Any:
    net = two_layers()
    optimizer, count = torch.optim.SGD(net.parameters(), 0.1), [0]

    def step() -> None:
        count[0] += 1
        optimizer.zero_grad(set_to_none=True)
        net(data()).square().mean().backward()
        net[0].requires_grad_(count[0] < 3)
        optimizer.step()

    return net, step


@mistake("R1", "moved in steps 4 to 8")
def frozen_within_an_epoch_with_zeroed_gradients() -> Any:
    net = two_layers()
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    batches, done = data(24).split(3), [0]

    def epoch() -> None:
        if done[0]:
            return
        for number, batch in enumerate(batches):
            if number == 3:
                net[0].requires_grad_(False)
            optimizer.zero_grad(set_to_none=False)
            net(batch).square().mean().backward()
            optimizer.step()
        done[0] = 1

    return net, epoch


@mistake("R2", "goes on observing")
def observer_of_a_frozen_part_in_eval_mode() -> Any:
    quantization: Any = pytest.importorskip("torch.ao.quantization")
    net = two_layers()
    watches = quantization.FakeQuantize(
        quantization.MovingAverageMinMaxObserver, quant_min=0, quant_max=255, dtype=torch.quint8
    )
    net[1] = nn.Sequential(nn.Tanh(), watches)
    net[0].requires_grad_(False)
    body: Any = nn.ModuleDict({"body": net[:2], "head": net[2]})
    body["body"](data())
    body["body"].eval()
    optimizer, count = torch.optim.SGD(body["head"].parameters(), 0.1), [0]

    def step() -> None:
        count[0] += 1
        optimizer.zero_grad()
        body["head"](body["body"](data() * (1 + count[0]))).square().mean().backward()
        optimizer.step()

    return body, step


class Codebook(nn.Module):
    """Its codes follow the data as an average, in whatever mode."""

    codes: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(4, 4)
        self.register_buffer("codes", torch.randn(5, 4))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.project(inputs)
        nearest = torch.cdist(hidden, self.codes).argmin(1)
        with torch.no_grad():
            self.codes[nearest] += 0.1 * (hidden - self.codes[nearest])
        return self.codes[nearest]


@mistake("R2", "writes into codes in eval mode too")
def codebook_that_learns_in_eval_mode() -> Any:
    torch.manual_seed(0)
    net = nn.Sequential(Codebook().requires_grad_(False).eval(), nn.Linear(4, 2))
    return net, stepper(net, torch.optim.Adam(net[1].parameters()))


@mistake("R2", "train mode")
def spectral_norm_goes_on_under_a_frozen_weight() -> Any:
    net = two_layers()
    nn.utils.spectral_norm(net[0])
    net[0].requires_grad_(False)
    return net, stepper(net, torch.optim.SGD(net[2].parameters(), 0.1))


@mistake("R3", "the parameter that was there before")
def head_replaced_on_the_way() -> Any:
    net = two_layers()
    inner, count = stepper(net, torch.optim.SGD(net.parameters(), 0.1)), [0]

    def step() -> None:
        count[0] += 1
        if count[0] == 3:
            net[2].weight = nn.Parameter(torch.cat([net[2].weight.detach(), torch.ones(1, 6)]))
            net[2].bias = nn.Parameter(torch.zeros(3))
        inner()

    return net, step


@mistake("R3", "writes the old value back")
def backup_restored_after_every_step() -> Any:
    net = two_layers()
    inner = stepper(net, torch.optim.SGD(net.parameters(), 0.1))
    backup = copy.deepcopy(net[0].state_dict())

    def step() -> None:
        inner()
        net[0].load_state_dict(backup)

    return net, step


class Fading(torch.optim.Optimizer):
    """Its step shrinks a thousandfold each time."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1})
        self.scale = 1.0

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(p.grad, alpha=group["lr"] * self.scale)
        self.scale *= 1e-5


@mistake("R3", "moved until step")
def movement_that_dies_out() -> Any:
    net = two_layers()
    return net, stepper(net, Fading(net.parameters()))


@mistake("R3", "another optimizer's backward flowed too")
def gradients_of_the_maker_in_the_judge() -> Any:
    torch.manual_seed(0)
    net: Any = nn.ModuleDict({"maker": nn.Linear(4, 4), "judge": nn.Linear(4, 1)})
    makes = torch.optim.Adam(net["maker"].parameters())
    judges = torch.optim.Adam(net["judge"].parameters())

    def step() -> None:
        functional.softplus(net["judge"](net["maker"](data()).detach())).mean().backward()
        judges.step()
        makes.zero_grad()
        functional.softplus(-net["judge"](net["maker"](data()))).mean().backward()
        makes.step()

    return net, step


class Home(torch.optim.Optimizer):
    """Written without torch's constructor, so that torch's hooks do not see it."""

    def __init__(self, params: Any) -> None:
        self.param_groups = [{"params": list(params), "lr": 0.1}]
        self.state: Any = {}
        self.defaults: Dict[str, Any] = {}

    def zero_grad(self, set_to_none: bool = True) -> None:
        for p in self.param_groups[0]["params"]:
            p.grad = None

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        for p in self.param_groups[0]["params"]:
            p.mul_(0.99)
            if p.grad is not None:
                p.sub_(p.grad, alpha=0.1)


@mistake("R1", "Home moves parameters that have no gradient")
def an_optimizer_without_torchs_constructor() -> Any:
    net = two_layers()
    net[0].requires_grad_(False)
    return net, stepper(net, Home(net.parameters()))


@mistake("R1", "shared storage")
def head_made_of_some_rows_of_a_frozen_table() -> Any:
    torch.manual_seed(0)
    net: Any = nn.ModuleDict({"table": nn.Embedding(8, 4), "head": nn.Linear(4, 3, bias=False)})
    net["table"].requires_grad_(False)
    net["head"].weight = nn.Parameter(net["table"].weight.data[2:5])
    optimizer = torch.optim.SGD(net["head"].parameters(), 0.1)
    words = torch.tensor([0, 1, 2])

    def step() -> None:
        optimizer.zero_grad()
        net["head"](net["table"](words)).square().mean().backward()
        optimizer.step()

    return net, step


@mistake("R1", "only rounds")
def frozen_weights_through_half_precision() -> Any:
    net = two_layers()
    net[0].requires_grad_(False)
    inner = stepper(net, torch.optim.SGD(net[2].parameters(), 0.1))
    with torch.no_grad():
        net[0].weight.mul_(1 + 1e-6)

    def step() -> None:
        inner()
        scale = 1 + net[2].bias.detach().abs().sum()
        net[0].weight.data.mul_(scale).div_(scale)

    return net, step


@mistake("R1", "in-place write")
def noise_on_all_weights_as_one_vector() -> Any:
    net = two_layers()
    net[0].requires_grad_(False)
    inner = stepper(net, torch.optim.SGD(net[2].parameters(), 0.1))

    def step() -> None:
        inner()
        with torch.no_grad():
            vector = nn.utils.parameters_to_vector(net.parameters())
            place = 0
            for parameter in net.parameters():
                part = vector[place : place + parameter.numel()].view_as(parameter)
                parameter.copy_(part + 0.01 * torch.randn_like(part))
                place += parameter.numel()

    return net, step
