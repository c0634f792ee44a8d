"""Shared memory, replaced and odd tensors, flags that are set in the wrong place."""

import copy
from typing import Any, Dict, List

import torch
from torch import nn
from torch.nn import functional

from frostproof.properties.selftest.recipes.machinery import TORCH
from frostproof.properties.selftest.recipes.mistakes import (
    data,
    mistake,
    stepper,
    two_layers,
    word_stepper,
)
from frostproof.properties.selftest.recipes.right import right


def words_and_head() -> Any:
    torch.manual_seed(0)
    return nn.ModuleDict({"embedding": nn.Embedding(5, 4), "head": nn.Linear(4, 5, bias=False)})


@mistake("R1", "shared storage")
def tied_by_data_with_all_in_the_optimizer() -> Any:
    net = words_and_head()
    net["embedding"].requires_grad_(False)
    net["head"].weight = nn.Parameter(net["embedding"].weight.data)
    return net, word_stepper(net, torch.optim.AdamW(net.parameters(), 0.1))


@mistake("R1", "shared storage")
def frozen_rows_are_a_view_of_what_trains() -> Any:
    net = words_and_head()
    net.register_parameter("special", nn.Parameter(net["head"].weight.data[:2], requires_grad=False))
    return net, word_stepper(net, torch.optim.SGD(net.parameters(), 0.1))


@mistake("R3", "nothing to train")
def head_tied_to_a_frozen_embedding() -> Any:
    net = words_and_head()
    net["head"].weight = net["embedding"].weight
    net["embedding"].requires_grad_(False)
    words = torch.tensor([0, 1])
    return net, lambda: net["head"](net["embedding"](words)).sum().item()


@mistake("R1", "max_norm")
def frozen_embedding_with_a_largest_norm() -> Any:
    torch.manual_seed(0)
    net: Any = nn.ModuleDict({"embedding": nn.Embedding(5, 4, max_norm=0.5), "head": nn.Linear(4, 5)})
    net["embedding"].requires_grad_(False)
    return net, word_stepper(net, torch.optim.SGD(net["head"].parameters(), 0.1))


@mistake("R5", "misspelt")
def flag_misspelt_on_the_parameters() -> Any:
    net = two_layers()
    for parameter in net[0].parameters():
        parameter.require_grad = False
    return net, stepper(net, torch.optim.SGD(net.parameters(), 0.1))


@mistake("R5", "misspelt")
def method_overwritten_by_a_flag() -> Any:
    net = two_layers()
    for parameter in net[0].parameters():
        parameter.requires_grad_ = False
    return net, stepper(net, torch.optim.SGD(net.parameters(), 0.1))


@right
def flag_of_its_own_that_agrees() -> Any:
    net = two_layers()
    net[0].requires_grad_(False)
    net[0].requires_grad = False
    net[2].requires_grad = True
    return net, stepper(net, torch.optim.SGD(net.parameters(), 0.1))


@mistake("R1", "in-place write through .data")
def frozen_weights_swapped_through_data() -> Any:
    net = two_layers()
    net[0].requires_grad_(False)
    inner = stepper(net, torch.optim.SGD(net.parameters(), 0.1))

    def step() -> None:
        net[0].weight.data = net[0].weight.data * 0.99
        inner()

    return net, step


@right
def weights_moved_out_and_in_again() -> Any:
    net = two_layers()
    net[0].requires_grad_(False)
    inner = stepper(net, torch.optim.SGD(net.parameters(), 0.1))

    def step() -> None:
        for parameter in net.parameters():
            parameter.data = parameter.data.double().float()
        inner()

    return net, step


@mistake("R1", "another shape")
def frozen_table_that_grows() -> Any:
    net = words_and_head()
    net["embedding"].requires_grad_(False)
    inner = word_stepper(net, torch.optim.SGD(net["head"].parameters(), 0.1))

    def step() -> None:
        weight = net["embedding"].weight
        net["embedding"].weight = nn.Parameter(torch.cat([weight, weight[:1]]), requires_grad=False)
        inner()

    return net, step


class Rotary(nn.Module):
    """A table that grows with the longest input, and is not saved."""

    table: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4), requires_grad=False)
        if TORCH >= (1, 9):
            self.register_buffer("table", torch.zeros(0, 4), persistent=False)

    def forward(self, inputs: torch.Tensor) -> Any:
        if len(inputs) > len(self.table):
            self.table = torch.arange(len(inputs) * 4.0).reshape(-1, 4).sin()
        return inputs * self.scale + self.table[: len(inputs)]


@right
def cached_table_of_a_frozen_module() -> Any:
    torch.manual_seed(0)
    net = nn.Sequential(Rotary(), nn.Linear(4, 2))
    net[0].table = torch.zeros(0, 4)
    return net, stepper(net, torch.optim.SGD(net.parameters(), 0.1))


@mistake("R2", "train mode")
def spectral_norm_of_a_frozen_layer() -> Any:
    net = two_layers()
    nn.utils.spectral_norm(net[0])
    net[0].requires_grad_(False)
    return net, stepper(net, torch.optim.SGD(net[2].parameters(), 0.1))


@right
def spectral_norm_of_a_frozen_layer_in_eval_mode() -> Any:
    net = two_layers()
    nn.utils.spectral_norm(net[0])
    net[0].requires_grad_(False).eval()
    return net, stepper(net, torch.optim.SGD(net[2].parameters(), 0.1))


@right
def batchnorm_without_statistics() -> Any:
    net = two_layers(nn.BatchNorm1d(6, track_running_stats=False), nn.BatchNorm1d(6, affine=False))
    net[:2].requires_grad_(False)
    return net, stepper(net, torch.optim.SGD(net[4].parameters(), 0.1))


@right
def padded_embedding() -> Any:
    torch.manual_seed(0)
    net: Any = nn.ModuleDict(
        {"embedding": nn.Embedding(5, 4, padding_idx=0, sparse=True), "head": nn.Linear(4, 5)}
    )
    return net, word_stepper(net, torch.optim.SGD(net.parameters(), 0.1))


class Odd(nn.Module):
    """Complex, integer, bool, half and empty parameters and buffers beside a plain one."""

    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.wave = nn.Parameter(torch.randn(4, dtype=torch.complex64))
        self.fixed = nn.Parameter(torch.randn(4, dtype=torch.complex128), requires_grad=False)
        self.codes = nn.Parameter(torch.arange(3), requires_grad=False)
        self.mask = nn.Parameter(torch.tensor([True, False]), requires_grad=False)
        self.short = nn.Parameter(torch.randn(3).half(), requires_grad=False)
        self.empty = nn.Parameter(torch.zeros(0, 3))
        self.extra = nn.ParameterList([nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(()))])
        for name in ("float8_e4m3fn", "float8_e5m2"):
            if hasattr(torch, name):
                value = torch.zeros(4).to(getattr(torch, name))
                setattr(self, name, nn.Parameter(value, requires_grad=False))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int32))
        self.register_buffer("quantized", torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8))
        self.register_buffer("sparse", torch.eye(3).to_sparse())

    def forward(self, inputs: torch.Tensor) -> Any:
        self.seen += 1
        return torch.view_as_real(inputs * self.wave).sum(2) * self.extra[0] + self.extra[1]


@right
def odd_parameters() -> Any:
    torch.manual_seed(0)
    net: Any = Odd()
    live = [p for p in net.parameters() if p.requires_grad and p.numel()]
    return net, stepper(net, torch.optim.SGD(live, 0.01))


@mistake("R1", "in-place write")
def odd_parameters_that_are_written() -> Any:
    torch.manual_seed(0)
    net: Any = Odd()
    live = [p for p in net.parameters() if p.requires_grad and p.numel()]
    inner = stepper(net, torch.optim.SGD(live, 0.01))

    def step() -> None:
        inner()
        with torch.no_grad():
            net.codes += 1
            net.fixed += 1
            net.mask.logical_not_()
            if hasattr(net, "float8_e5m2"):
                net.float8_e5m2.copy_(torch.ones(4))

    return net, step


@mistake("R6", "NaN")
def odd_parameters_with_a_nan() -> Any:
    net, inner = odd_parameters()

    def step() -> None:
        inner()
        with torch.no_grad():
            net.extra[0][1] = float("nan")

    return net, step


@right
def a_sparse_parameter() -> Any:
    torch.manual_seed(0)
    net: Any = nn.Module()
    net.weight = nn.Parameter(torch.randn(4, 2))
    net.table = nn.Parameter(torch.eye(4).to_sparse(), requires_grad=False)
    optimizer = torch.optim.SGD([net.weight], 0.1)

    def step() -> None:
        optimizer.zero_grad()
        torch.sparse.mm(net.table, net.weight).square().mean().backward()
        optimizer.step()

    return net, step


@right
def norms_trained_alone() -> Any:
    net = two_layers(nn.LayerNorm(6))
    for module in net.modules():
        if not isinstance(module, nn.LayerNorm):
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
    return net, stepper(net, torch.optim.AdamW(net.parameters(), 0.01, weight_decay=0.1))


@right
def prompt_before_a_frozen_body() -> Any:
    class Prompted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.prompt = nn.Parameter(torch.zeros(2, 4))
            self.body: nn.Module = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1)
            self.body.requires_grad_(False)

        def forward(self, inputs: torch.Tensor) -> Any:
            return self.body(torch.cat([self.prompt, inputs]).unsqueeze(1)).pow(3)

    torch.manual_seed(0)
    net = Prompted()
    return net, stepper(net, torch.optim.SGD(net.parameters(), 0.1))


@right
def pruned_layer() -> Any:
    from torch.nn.utils import prune

    net = two_layers()
    prune.random_unstructured(net[0], "weight", amount=0.5)
    net[2].requires_grad_(False)
    return net, stepper(net, torch.optim.SGD(net.parameters(), 0.1))


@mistake("R3", "gets gradients")
def layers_in_a_list_not_in_the_optimizer() -> Any:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.rest: List[nn.Module] = [nn.Linear(4, 4), nn.Linear(4, 2)]

        def forward(self, inputs: torch.Tensor) -> Any:
            for layer in (self.first, *self.rest):
                inputs = torch.tanh(layer(inputs))
            return inputs

    torch.manual_seed(0)
    net = Net()
    return net, stepper(net, torch.optim.SGD(net.parameters(), 0.1))


@mistake("R3", "no optimizer holds it")
def head_given_after_the_optimizer() -> Any:
    net = two_layers()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    net.add_module("extra", nn.Linear(2, 3))
    inputs = data()

    def step() -> None:
        net.zero_grad()
        net(inputs).square().mean().backward()
        optimizer.step()

    return net, step


@mistake("R3", "holds another tensor of its shape")
def copy_trained_instead() -> Any:
    net = two_layers()
    optimizer = torch.optim.SGD(copy.deepcopy(net).parameters(), 0.1)
    inputs = data()

    def step() -> None:
        net.zero_grad()
        net(inputs).square().mean().backward()
        optimizer.step()

    return net, step


@mistake("R3", "dead unit")
def dead_rectifiers() -> Any:
    torch.manual_seed(0)
    net: Any = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    with torch.no_grad():
        net[0].bias.fill_(-100.0)
    return net, stepper(net, torch.optim.Adam(net.parameters()))


@mistake("R1", "replaced")
def load_with_assign() -> Any:
    net = two_layers()
    net[0].requires_grad_(False)
    saved: Dict[str, torch.Tensor] = {k: v * 0.9 for k, v in net[0].state_dict().items()}
    inner = stepper(net, torch.optim.SGD(net.parameters(), 0.1))

    def step() -> None:
        if TORCH >= (2, 1):
            net[0].load_state_dict(saved, assign=True)
        else:
            net[0].weight = nn.Parameter(saved["weight"], requires_grad=False)
        inner()

    return net, step


@right
def gumbel_and_noise() -> Any:
    net = two_layers()
    net[0].bias.requires_grad_(False)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)

    def step() -> Any:
        optimizer.zero_grad()
        picked = functional.gumbel_softmax(net(data()), hard=True)
        (picked * torch.rand(8, 2)).sum().backward()
        optimizer.step()

    return net, step
