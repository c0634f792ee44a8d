"""What is right, though a mistake that people report looks like it: no alarm."""

import copy
from typing import Any, List

import pytest
import torch
from torch import nn
from torch.nn import functional

from frostproof.properties.selftest.recipes.mistakes import data, stepper, two_layers
from frostproof.properties.selftest.recipes.reported_wrong import learner, pair
from frostproof.properties.selftest.recipes.right import right


@right
def target_loaded_from_its_leader() -> Any:
    net = pair()
    learn, count = learner(net, torch.optim.RMSprop(net["online"].parameters(), 0.01)), [0]

    def step() -> None:
        learn()
        count[0] += 1
        if count[0] % 2 == 0:
            net["target"].load_state_dict(net["online"].state_dict())

    return net, step


@right
def fixed_reference_loaded_again_from_its_checkpoint() -> Any:
    net = pair()
    learn = learner(net, torch.optim.Adam(net["online"].parameters(), 0.01))
    checkpoint = copy.deepcopy(net["target"].state_dict())

    def step() -> None:
        learn()
        net["target"].load_state_dict(checkpoint)

    return net, step


@right
def fixed_reference_that_never_moves() -> Any:
    net = pair()
    return net, learner(net, torch.optim.AdamW(net["online"].parameters(), 0.01))


@right
def average_with_its_statistics() -> Any:
    net = pair(batchnorm=True)
    net["target"].eval()
    learn = learner(net, torch.optim.SGD(net["online"].parameters(), 0.1))

    def step() -> None:
        learn()
        with torch.no_grad():
            for slow, fast in zip(net["target"].parameters(), net["online"].parameters()):
                slow.lerp_(fast, 0.1)
            for slow, fast in zip(net["target"].buffers(), net["online"].buffers()):
                slow.copy_(fast)

    return net, step


@right
def average_whose_rate_warms_up() -> Any:
    net = pair()
    learn, count = learner(net, torch.optim.Adam(net["online"].parameters(), 0.01)), [0]

    def step() -> None:
        learn()
        count[0] += 1
        keep = min(0.999, (1 + count[0]) / (10 + count[0]))
        with torch.no_grad():
            for slow, fast in zip(net["target"].parameters(), net["online"].parameters()):
                slow.mul_(keep).add_(fast, alpha=1 - keep)

    return net, step


@right
def rows_put_back_after_each_step() -> Any:
    torch.manual_seed(0)
    net: Any = nn.Sequential(nn.Embedding(12, 6), nn.Linear(6, 6).requires_grad_(False))
    table, words = net[0].weight, torch.tensor([[11, 3, 5], [2, 11, 7]])
    optimizer, first = torch.optim.AdamW([table], 0.01), table.detach().clone()

    def step() -> None:
        optimizer.zero_grad()
        net(words).square().mean().backward()
        table.grad[:11] = 0
        optimizer.step()
        with torch.no_grad():
            table[:11] = first[:11]

    return net, step, {"old": table[:11]}


@right
def pruned_rows_stay_zero() -> Any:
    net = two_layers()
    with torch.no_grad():
        net[0].weight[:2] = 0
    net[0].weight.register_hook(lambda g: g * torch.tensor([[0.0]] * 2 + [[1.0]] * 4))
    return net, stepper(net, torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=0.1))


@right
def padding_row_of_an_embedding() -> Any:
    torch.manual_seed(0)
    net: Any = nn.Sequential(nn.Embedding(9, 4, padding_idx=0), nn.Flatten(), nn.Linear(12, 2))
    words = torch.tensor([[1, 2, 0], [3, 0, 0], [4, 5, 6]])
    return net, stepper(net, torch.optim.AdamW(net.parameters(), 0.01), inputs=words)


@right
def last_layer_waits_by_cancelled_gradients() -> Any:
    net = two_layers()
    optimizer = torch.optim.AdamW(net.parameters(), 0.01, weight_decay=0.1)

    def step() -> None:
        optimizer.zero_grad()
        net(data()).square().mean().backward()
        for parameter in net[2].parameters():
            parameter.grad = None
        optimizer.step()

    return net, step


@right
def frozen_between_forward_and_backward() -> Any:
    net = two_layers()
    optimizer, count = torch.optim.SGD(net.parameters(), 0.1), [0]

    def step() -> None:
        count[0] += 1
        optimizer.zero_grad(set_to_none=True)
        loss = net(data()).square().mean()
        if count[0] == 2:
            net[0].requires_grad_(False)
        loss.backward()
        optimizer.step()

    return net, step


@right
def frozen_within_an_epoch_with_cleared_gradients() -> Any:
    net = two_layers()
    optimizer, batches = torch.optim.Adam(net.parameters(), 0.01, weight_decay=0.1), data(24).split(3)

    def epoch() -> None:
        for number, batch in enumerate(batches):
            net[0].requires_grad_(number < 3)
            optimizer.zero_grad(set_to_none=True)
            net(batch).square().mean().backward()
            optimizer.step()

    return net, epoch


@right
def unfrozen_and_frozen_again_within_an_epoch() -> Any:
    net = two_layers()
    net[0].requires_grad_(False)
    optimizer, batches = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9), data(24).split(3)

    def epoch() -> None:
        for number, batch in enumerate(batches):
            net[0].requires_grad_(2 <= number < 5)
            optimizer.zero_grad(set_to_none=True)
            net(batch).square().mean().backward()
            optimizer.step()
        net[0].requires_grad_(False)

    return net, epoch


@right
def data_of_one_epoch_alone() -> Any:
    net = two_layers()
    inner, batches = stepper(net, torch.optim.SGD(net.parameters(), 0.1)), iter(range(5))

    def epoch() -> None:
        for _ in batches:
            inner()

    return net, epoch


def adversaries() -> Any:
    torch.manual_seed(0)
    net: Any = nn.ModuleDict({"maker": nn.Linear(4, 4), "judge": nn.Linear(4, 1)})
    return net, *(torch.optim.Adam(net[part].parameters(), 0.01) for part in ("maker", "judge"))


@right
def judge_trained_five_times_and_clipped() -> Any:
    net, makes, judges = adversaries()

    def step() -> None:
        net["judge"].requires_grad_(True)
        for _ in range(5):
            judges.zero_grad()
            real, made = net["judge"](data() + 1), net["judge"](net["maker"](data()).detach())
            (made.mean() - real.mean()).backward()
            judges.step()
            with torch.no_grad():
                for parameter in net["judge"].parameters():
                    parameter.clamp_(-0.1, 0.1)
        net["judge"].requires_grad_(False)
        makes.zero_grad()
        net["judge"](net["maker"](data())).mean().neg().backward()
        makes.step()

    return net, step


@right
def both_backward_before_both_steps() -> Any:
    net, makes, judges = adversaries()

    def step() -> None:
        judges.zero_grad()
        makes.zero_grad()
        net["judge"].requires_grad_(True)
        functional.softplus(net["judge"](net["maker"](data()).detach())).mean().backward()
        net["judge"].requires_grad_(False)
        functional.softplus(-net["judge"](net["maker"](data()))).mean().backward()
        judges.step()
        makes.step()

    return net, step


@right
def observer_switched_off() -> Any:
    quantization: Any = pytest.importorskip("torch.ao.quantization")
    net = two_layers()
    watches = quantization.FakeQuantize(
        quantization.MovingAverageMinMaxObserver, quant_min=0, quant_max=255, dtype=torch.quint8
    )
    body: Any = nn.ModuleDict({"body": nn.Sequential(net[0], watches), "head": net[2]})
    body["body"](data())
    body["body"].requires_grad_(False).eval()
    watches.disable_observer()
    optimizer = torch.optim.SGD(body["head"].parameters(), 0.1)

    def step() -> None:
        optimizer.zero_grad()
        body["head"](body["body"](data() * 3)).square().mean().backward()
        optimizer.step()

    return body, step


class Masked(nn.Module):
    """Attention behind a frozen mask of -inf, beside a frozen table that holds NaN."""

    mask: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Linear(4, 8)
        above = torch.full((8, 8), float("-inf")).triu(1)
        self.mask = nn.Parameter(above, requires_grad=False)
        self.missing = nn.Parameter(torch.full((3,), float("nan")), requires_grad=False)
        self.register_buffer("beyond", torch.full((2,), float("inf")))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        chances: torch.Tensor = (self.scores(inputs) + self.mask).softmax(1)
        return chances.pow(2)


@right
def mask_of_minus_infinity() -> Any:
    torch.manual_seed(0)
    net = Masked()
    return net, stepper(net, torch.optim.Adam(net.parameters()))


@right
def rate_annealed_to_zero() -> Any:
    net = two_layers()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: max(0.0, 1 - epoch / 2))
    inner = stepper(net, optimizer)

    def step() -> None:
        inner()
        scheduler.step()

    return net, step


@right
def layers_left_out_by_chance() -> Any:
    torch.manual_seed(0)
    layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))
    optimizer, count = torch.optim.SGD(layers.parameters(), 0.1), [0]

    def step() -> None:
        count[0] += 1
        optimizer.zero_grad(set_to_none=True)
        hidden = data()
        for index, layer in enumerate(layers):
            if index != count[0] % 4:
                hidden = hidden + torch.tanh(layer(hidden))
        hidden.square().mean().backward()
        optimizer.step()

    return layers, step


@right
def two_optimizers_for_one_loss() -> Any:
    net = two_layers()
    one = torch.optim.SGD([p for p in net.parameters() if p.dim() > 1], 0.1, momentum=0.9)
    two = torch.optim.AdamW([p for p in net.parameters() if p.dim() < 2], 0.01)

    def step() -> None:
        net(data()).square().mean().backward()
        one.step()
        two.step()
        one.zero_grad()
        two.zero_grad()

    return net, step


@right
def grown_on_the_way_with_a_new_optimizer() -> Any:
    net = two_layers()
    held: List[Any] = [stepper(net, torch.optim.SGD(net.parameters(), 0.1)), 0]

    def step() -> None:
        held[1] += 1
        if held[1] == 3:
            net[2].weight = nn.Parameter(torch.cat([net[2].weight.detach(), torch.ones(1, 6)]))
            net[2].bias = nn.Parameter(torch.zeros(3))
            held[0] = stepper(net, torch.optim.SGD(net.parameters(), 0.1))
        held[0]()

    return net, step


@right
def trained_weights_perturbed_and_put_back() -> Any:
    net = two_layers()
    inner = stepper(net, torch.optim.SGD(net.parameters(), 0.1))

    def step() -> None:
        before = [parameter.detach().clone() for parameter in net.parameters()]
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.1)
            net(data())
            for parameter, was in zip(net.parameters(), before):
                parameter.copy_(was)
        inner()

    return net, step


@right
def expanded_buffer_and_a_count() -> Any:
    class Net(nn.Module):
        seen: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.register_buffer("scale", torch.ones(1).expand(4))
            self.register_buffer("seen", torch.zeros((), dtype=torch.long))

        def forward(self, inputs: torch.Tensor) -> Any:
            self.seen += len(inputs)
            return self.layer(inputs) * self.scale

    torch.manual_seed(0)
    net = Net()
    return net, stepper(net, torch.optim.Adam(net.parameters()))


@right
def parameters_interleaved_in_one_storage() -> Any:
    torch.manual_seed(0)
    memory = torch.randn(2, 12)
    net: Any = nn.Module()
    net.one = nn.Parameter(memory[:, ::2])
    net.two = nn.Parameter(memory[:, 1::2])
    optimizer = torch.optim.SGD([net.one, net.two], 0.1)

    def step() -> None:
        optimizer.zero_grad()
        (net.one * net.two).sum(1).square().mean().backward()
        optimizer.step()

    return net, step
