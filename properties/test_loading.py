"""Loading, copying, materializing and sharing modules: flags, ties, sources and what hangs on them."""

import copy
import pickle
from multiprocessing.reduction import ForkingPickler
from typing import Any, Callable, Dict

import pytest
import torch
from torch import nn

from frostproof.properties.harness.core.checks import (
    check,
    check_equal,
    check_raises,
    check_same_bits,
    check_unchanged,
    count_cases,
    snapshot,
)
from frostproof.properties.harness.core.law import Needs, cells, law
from frostproof.properties.harness.core.layout import storage_address
from frostproof.properties.harness.running.attempts import attempt
from frostproof.strategies.capabilities import assigns

SOURCE = "torch.nn.Module.load_state_dict documentation"


def net_of(first: bool, rest: bool) -> nn.Sequential:
    """Two layers, whose flags are as given."""
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[0].requires_grad_(first)
    net[1].requires_grad_(rest)
    return net


def flags(net: nn.Module) -> Dict[str, bool]:
    """requires_grad of each parameter, by name."""
    return {name: parameter.requires_grad for name, parameter in net.named_parameters()}


def _load(keep_vars: bool = False, **options: Any) -> Callable[[nn.Module, nn.Module], None]:
    def load(net: nn.Module, source: nn.Module) -> None:
        net.load_state_dict(source.state_dict(keep_vars=keep_vars), **options)

    return load


def _swapping(load: Callable[[nn.Module, nn.Module], None]) -> Callable[[nn.Module, nn.Module], None]:
    def swapped(net: nn.Module, source: nn.Module) -> None:
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            load(net, source)
        finally:
            torch.__future__.set_swap_module_params_on_conversion(False)

    return swapped


LOADS = {
    "plain": _load(),
    "not strict": _load(strict=False),
    "live": _load(keep_vars=True),
    "assign": _load(assign=True),
    "assign, live": _load(keep_vars=True, assign=True),
    "swap": _swapping(_load()),
    "swap, assign": _swapping(_load(assign=True)),
}
SWAP = "torch.__future__.set_swap_module_params_on_conversion"
NEEDS: Dict[str, Needs] = {
    "assign": assigns,
    "assign, live": assigns,
    "swap": SWAP,
    "swap, assign": SWAP,
    "to_empty": "torch.nn.Module.to_empty",
    "to meta": "torch.nn.Module.to_empty",
    "LazyLinear": "torch.nn.LazyLinear",
    "LazyConv1d": "torch.nn.LazyConv1d",
    "LazyBatchNorm1d": "torch.nn.LazyBatchNorm1d",
}


@law("L3 F9", SOURCE, "float32")
@pytest.mark.parametrize("way", cells(LOADS, NEEDS))
def test_loading_keeps_flags_here_and_there(device: str, dtype: torch.dtype, way: str) -> None:
    """L3: loaded in any way, a net has its flags and the values; the source is as it was."""
    net, source = net_of(False, True), net_of(True, False)
    ours, theirs, values = flags(net), flags(source), snapshot(dict(source.named_parameters()))
    LOADS[way](net, source)
    check_equal(flags(net), ours, f"{way}: the flags of the net that was loaded into")
    check_equal(flags(source), theirs, f"{way}: the flags of the net that was loaded from")
    for name, parameter in net.named_parameters():
        check_same_bits(parameter, values[name], f"{way}: {name}")
        check(parameter.is_leaf, f"{way}: {name} is no leaf")
    check_unchanged(dict(source.named_parameters()), values, f"{way}: after loading from it")


@law("L3", SOURCE, "float32")
def test_failed_load_has_loaded_the_rest(device: str, dtype: torch.dtype) -> None:
    """L3: load_state_dict raises after it has loaded what fits: a trap, frozen or not."""
    for frozen in (True, False):
        net: Any = net_of(not frozen, True)
        source = net_of(True, True).state_dict()
        source["1.bias"] = torch.ones(3)
        check_raises(RuntimeError, lambda: net.load_state_dict(source), "a bias too long", "size")  # noqa: B023
        check_same_bits(net[0].weight, source["0.weight"], "what fits, after a load that failed")
        check_equal(net[0].weight.requires_grad, not frozen, "its flag")
        count_cases(1)


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        options: Dict[str, Any] = {} if device == "cpu" else {"device": device}
        self.a = nn.Linear(2, 2, bias=False, **options)
        self.b = nn.Linear(2, 2, bias=False, **options)
        self.b.weight = self.a.weight

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.b(self.a(value))
        return made


CONVERSIONS: Dict[str, Callable[[], nn.Module]] = {
    "double": lambda: Tied().double(),
    "deepcopy": lambda: copy.deepcopy(Tied()),
    "pickle": lambda: pickle.loads(pickle.dumps(Tied())),
    "queue": lambda: pickle.loads(bytes(ForkingPickler.dumps(Tied()))),
    "to_empty": lambda: Tied("meta").to_empty(device="cpu"),
    "to meta": lambda: Tied().to("meta"),
}


@law("L4 F8", "torch.nn.Module documentation: tied weights", "float32")
@pytest.mark.parametrize("way", cells(CONVERSIONS, NEEDS))
def test_tied_weights_stay_tied(device: str, dtype: torch.dtype, way: str) -> None:
    """L4: converted, copied, materialized or sent, one weight under two names is still one."""
    net: Any = attempt(CONVERSIONS[way], way)
    check(net.a.weight is net.b.weight, f"{way}: the tied weights are two")
    check_equal(len(list(net.parameters())), 1, f"{way}: the number of parameters")


@law("L4", "copy.deepcopy documentation; torch.Tensor.__deepcopy__ keeps both", "float32")
@pytest.mark.parametrize("what", ["attribute", "memory"])
def test_copied_parameters_are_like_copied_tensors(device: str, dtype: torch.dtype, what: str) -> None:
    """L4: deepcopy keeps a parameter's attributes and shared memory, as it keeps a tensor's."""
    whole = torch.arange(4.0)
    pairs: Dict[str, Any] = {
        "tensors": (whole[:2], whole[2:]),
        "parameters": (nn.Parameter(whole[:2]), nn.Parameter(whole[2:])),
    }
    for kind, pair in pairs.items():
        for each in pair:
            each.no_decay = True
        one, two = copy.deepcopy(pair)
        if what == "attribute":
            check(getattr(one, "no_decay", False), f"copied {kind} have lost their attribute")
        else:
            check(
                storage_address(one) == storage_address(two), f"copied {kind} share no memory any more"
            )


@law("L4 G2", "torch.nn.utils.vector_to_parameters documentation", "float32")
@pytest.mark.parametrize("what", ["memory", "dtype"])
def test_vectors_are_copied_into_parameters(device: str, dtype: torch.dtype, what: str) -> None:
    """L4: vector_to_parameters gives values: parameters keep their own memory, and their dtype."""
    net = net_of(False, True)
    vector = torch.ones(12, dtype=torch.float64 if what == "dtype" else torch.float32)
    nn.utils.vector_to_parameters(vector, net.parameters())
    for name, parameter in net.named_parameters():
        if what == "dtype":
            check_equal(parameter.dtype, torch.float32, f"{name} after a vector in float64")
        else:
            shared = storage_address(parameter) == storage_address(vector)
            check(not shared, f"{name} lies in the caller's vector, and moves with it")


LAZY: Dict[str, Callable[[], nn.Module]] = {
    "LazyLinear": lambda: nn.LazyLinear(3),
    "LazyConv1d": lambda: nn.LazyConv1d(3, 1),
    "LazyBatchNorm1d": lambda: nn.LazyBatchNorm1d(),
}
FEED = torch.ones(2, 4, 4)


@law("L5 F8", "torch.nn.Module.requires_grad_ documentation", "float32")
@pytest.mark.parametrize("kind", cells(LAZY, NEEDS))
def test_lazy_modules_freeze(device: str, dtype: torch.dtype, kind: str) -> None:
    """L5: requires_grad_ freezes a module that has no shape yet."""
    layer: Any = attempt(LAZY[kind], kind)
    attempt(lambda: layer.requires_grad_(False), f"{kind}.requires_grad_")
    attempt(lambda: layer(FEED), kind)
    check_equal({*flags(layer).values()}, {False}, f"requires_grad of {kind} after its first input")


@law("L5 F8", "torch.nn.parameter.UninitializedParameter documentation", "float32")
@pytest.mark.parametrize("way", ["as made", "deepcopy", "pickle"])
@pytest.mark.parametrize("kind", cells(LAZY, NEEDS))
def test_lazy_parameters_keep_flags(device: str, dtype: torch.dtype, kind: str, way: str) -> None:
    """L5: frozen before it has a shape, a parameter is frozen afterwards, copied or not."""
    layer: Any = attempt(LAZY[kind], kind)
    layer.weight.requires_grad = False
    if way == "deepcopy":
        layer = attempt(lambda: copy.deepcopy(layer), f"deepcopy of {kind}")
    elif way == "pickle":
        layer = attempt(lambda: pickle.loads(pickle.dumps(layer)), f"pickle of {kind}")
    attempt(lambda: layer(FEED), kind)
    found = flags(layer)
    check_equal(found["weight"], False, f"requires_grad of {kind}.weight, {way}")
    check_equal(found["bias"], True, f"requires_grad of {kind}.bias, {way}")


@law("L6 F8", "torch.multiprocessing documentation", "float32")
@pytest.mark.parametrize("way", ["share_memory", "queue"])
def test_shared_modules_keep_flags_and_memory(device: str, dtype: torch.dtype, way: str) -> None:
    """L6: shared between processes, each parameter keeps flag and bits, and frozen ones still stay."""
    net = net_of(False, True)
    before, kept = snapshot(dict(net.named_parameters())), flags(net)
    net.share_memory()
    other: Any = net if way == "share_memory" else pickle.loads(bytes(ForkingPickler.dumps(net)))
    check_equal(flags(other), kept, f"{way}: requires_grad")
    check_unchanged(dict(other.named_parameters()), before, way)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    other(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    ours, theirs = dict(net.named_parameters()), dict(other.named_parameters())
    for name, parameter in ours.items():
        moved = not torch.equal(parameter, theirs[name])
        check(not moved, f"{way}: {name} differs between those that share it")
    for name in ("0.weight", "0.bias"):
        check_same_bits(ours[name], before[name], f"{way}: frozen {name}")


@law(
    "L6 F8",
    "torch.func.stack_module_state documentation: the ensembling tutorial",
    "float32",
    needs="torch.func.stack_module_state",
)
@pytest.mark.parametrize("base", ["meta", "a copy"])
def test_ensembles_of_tied_nets(device: str, dtype: torch.dtype, base: str) -> None:
    """L6: an ensemble of nets with tied weights gives what each net gives."""
    nets = [Tied(), Tied()]
    values, buffers = torch.func.stack_module_state(nets)  # type: ignore[arg-type]
    called = copy.deepcopy(nets[0])
    if base == "meta":
        called = called.to("meta")
    inputs = torch.tensor([[1.0, -2.0]])

    def call(one: Any, other: Any) -> Any:
        return torch.func.functional_call(called, (one, other), (inputs,))

    found = attempt(lambda: torch.func.vmap(call)(values, buffers), "the ensemble")
    for place, net in enumerate(nets):
        check(
            torch.allclose(found[place], net(inputs)),
            f"net {place} gives another output in the ensemble",
        )
