"""Tools that take a layer's weight apart, or build another layer: flags, names and values stay."""

import copy
import warnings
from typing import Any, Callable, Dict, List, Tuple

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from frostproof.properties.harness.core.checks import (
    check,
    check_close,
    check_equal,
    check_same_bits,
    count_cases,
)
from frostproof.properties.harness.core.law import cells, law
from frostproof.properties.harness.running.attempts import attempt

SOURCE = "torch.nn.utils documentation: parametrize, parametrizations, prune, fusion"
parametrize: Any = getattr(nn.utils, "parametrize", None)
parametrizations: Any = getattr(nn.utils, "parametrizations", None)


class Same(nn.Module):
    """A parametrization that changes nothing."""

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return value * 1

    def right_inverse(self, value: torch.Tensor) -> torch.Tensor:
        return value


def _remove(layer: nn.Module) -> None:
    parametrize.remove_parametrizations(layer, "weight")


def _prune_back(layer: nn.Module) -> None:
    prune.remove(layer, "weight")


# Each tool: how it is put on a layer's weight, and how it is taken off.
TOOLS: Dict[str, Tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "l1_unstructured": (lambda layer: prune.l1_unstructured(layer, "weight", 1), _prune_back),
    "ln_structured": (lambda layer: prune.ln_structured(layer, "weight", 1, 2, 0), _prune_back),
    "prune-identity": (lambda layer: prune.identity(layer, "weight"), _prune_back),
    "old-spectral_norm": (nn.utils.spectral_norm, lambda layer: nn.utils.remove_spectral_norm(layer)),
    "own": (lambda layer: parametrize.register_parametrization(layer, "weight", Same()), _remove),
    "spectral_norm": (lambda layer: parametrizations.spectral_norm(layer), _remove),
    "orthogonal": (lambda layer: parametrizations.orthogonal(layer), _remove),
    "weight_norm": (lambda layer: parametrizations.weight_norm(layer), _remove),
}
NEEDS = {
    "own": "torch.nn.utils.parametrize.register_parametrization",
    "spectral_norm": "torch.nn.utils.parametrizations.spectral_norm",
    "orthogonal": "torch.nn.utils.parametrizations.orthogonal",
    "weight_norm": "torch.nn.utils.parametrizations.weight_norm",
}
REGISTERED = [name for name, ways in TOOLS.items() if ways[1] is _remove]


def layer_of(frozen: bool) -> nn.Linear:
    """A linear layer, 3 to 3, of known values, its weight frozen or not."""
    layer = nn.Linear(3, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 0.5, -0.25], [0.3, -1.2, 0.7], [0.1, 0.9, 1.5]]))
        layer.bias.copy_(torch.tensor([0.1, -0.2, 0.3]))
    layer.weight.requires_grad_(not frozen)
    return layer


def described(layer: nn.Module) -> Dict[str, bool]:
    """requires_grad of each parameter, by name."""
    return {name: parameter.requires_grad for name, parameter in layer.named_parameters()}


@law("T1 F8", SOURCE, "float32")
@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trainable"])
@pytest.mark.parametrize("tool", cells(TOOLS, NEEDS))
def test_tools_come_off_again(device: str, dtype: torch.dtype, tool: str, frozen: bool) -> None:
    """T1: put on and off, twice, a tool leaves a layer's parameters, their flags and the output."""
    layer = layer_of(frozen).eval()
    before, inputs = described(layer), torch.tensor([[1.0, -2.0, 0.5]])

    def on_and_off() -> Tuple[torch.Tensor, torch.Tensor]:
        TOOLS[tool][0](layer)
        seen = layer(inputs).detach()
        TOOLS[tool][1](layer)
        return seen, layer(inputs).detach()

    for time in ("", ", for the second time,"):
        one, two = attempt(on_and_off, f"{tool} put on and taken off{time}")
        check_close(two, one, f"the output after {tool}{time} is taken off", 1e-5, 1e-6)
        found = described(layer)
        check_equal(
            dict(sorted(found.items())), dict(sorted(before.items())), f"parameters after {tool}{time}"
        )
    count_cases(1)


@law("T1 C5", "copy.deepcopy and torch.nn.utils documentation", "float32")
@pytest.mark.parametrize("tool", cells([*TOOLS, "old-weight_norm"], NEEDS))
def test_layers_with_tools_are_copied(device: str, dtype: torch.dtype, tool: str) -> None:
    """T1: a layer that a tool is on can be copied, and the copy trains by itself."""
    layer = layer_of(False)
    put_on = nn.utils.weight_norm if tool == "old-weight_norm" else TOOLS[tool][0]
    attempt(lambda: put_on(layer), tool)
    made = attempt(lambda: copy.deepcopy(layer), f"deepcopy of a layer with {tool}")
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    made.eval()(torch.ones(1, 3)).sum().backward()
    check(all(each.grad is None for each in layer.parameters()), "the original got a gradient")
    check(all(each.grad is not None for each in made.parameters()), "the copy got no gradient")
    torch.optim.SGD(made.parameters(), lr=0.1).step()
    for name, value in layer.state_dict().items():
        check_same_bits(value, before[name], f"{name} of the original after its copy was trained")


@law("T1 C5", SOURCE, "float32")
@pytest.mark.parametrize("tool", cells(REGISTERED, NEEDS))
def test_copies_lose_tools_alone(device: str, dtype: torch.dtype, tool: str) -> None:
    """T1: a tool that is taken off a copy stays on the original, which works as before."""
    layer = layer_of(False).eval()
    TOOLS[tool][0](layer)
    inputs = torch.ones(1, 3)
    expected = layer(inputs)
    _remove(copy.deepcopy(layer))
    found = attempt(lambda: layer(inputs), f"the original, after {tool} was taken off its copy,")
    check_same_bits(found, expected, "the original's output")


@law(
    "T2 F3",
    "torch.nn.utils.parametrize.cached documentation",
    "float32",
    needs="torch.nn.utils.parametrize",
)
def test_cached_weights_still_train(device: str, dtype: torch.dtype) -> None:
    """T2: within parametrize.cached a call under no_grad does not starve the calls after it."""
    layer: Any = layer_of(False)
    parametrize.register_parametrization(layer, "weight", Same())
    with parametrize.cached():
        with torch.no_grad():
            layer(torch.ones(1, 3))
        layer(torch.ones(1, 3)).sum().backward()
    check(layer.bias.grad is not None, "the bias got no gradient")
    weight = layer.parametrizations.weight.original
    check(weight.grad is not None, "the weight got no gradient")


@law("T2 F1", SOURCE, "float32")
@pytest.mark.parametrize("tool", cells(TOOLS, NEEDS))
def test_frozen_originals_stay(device: str, dtype: torch.dtype, tool: str) -> None:
    """T2: what a tool keeps of a frozen weight stays, without a gradient; the bias trains."""
    layer = layer_of(True).eval()
    TOOLS[tool][0](layer)
    kept = {name: each for name, each in layer.named_parameters() if name != "bias"}
    before = {name: each.detach().clone() for name, each in kept.items()}
    bias = layer.bias.detach().clone()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(2):
        layer(torch.ones(2, 3)).pow(2).sum().backward()
        optimizer.step()
    for name, each in kept.items():
        check(each.grad is None, f"{tool}: frozen {name} got a gradient")
        check_same_bits(each, before[name], f"{tool}: frozen {name}")
    check(not torch.equal(bias, layer.bias), f"{tool}: the bias has not moved")


def pairs() -> Dict[str, Callable[[], Tuple[nn.Module, nn.Module, Any, torch.Tensor]]]:
    """Pairs of layers to fuse, with the function and an input."""
    conv, norm = nn.utils.fuse_conv_bn_eval if hasattr(nn.utils, "fuse_conv_bn_eval") else None, None
    fusion: Any = getattr(nn.utils, "fusion", None)
    conv = conv or getattr(fusion, "fuse_conv_bn_eval", None)
    linear = getattr(fusion, "fuse_linear_bn_eval", norm)
    picture, rows = torch.ones(2, 2, 3, 3), torch.ones(2, 2)
    found: Dict[str, Callable[[], Tuple[nn.Module, nn.Module, Any, torch.Tensor]]] = {}
    for bias in (True, False):
        name = "bias" if bias else "no bias"
        if conv is not None:
            found[f"conv, {name}"] = lambda b=bias: (  # type: ignore[misc]
                nn.Conv2d(2, 3, 1, bias=b),
                nn.BatchNorm2d(3),
                conv,
                picture,
            )
        if linear is not None:
            found[f"linear, {name}"] = lambda b=bias: (  # type: ignore[misc]
                nn.Linear(2, 3, bias=b),
                nn.BatchNorm1d(3),
                linear,
                rows,
            )
    return found


PAIRS = pairs()


@law("T3 F8", SOURCE, "float32")
@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trainable"])
@pytest.mark.parametrize("pair", list(PAIRS))
def test_fused_layers_keep_flags(device: str, dtype: torch.dtype, pair: str, frozen: bool) -> None:
    """T3: fused, two frozen layers are frozen, two trainable ones trainable; the output is theirs."""
    layer, norm, fuse, inputs = PAIRS[pair]()
    layer.eval().requires_grad_(not frozen)
    norm.eval().requires_grad_(not frozen)
    with torch.no_grad():
        norm.running_mean.fill_(0.3)  # type: ignore[union-attr, operator]
    made = fuse(layer, norm)
    check_close(made(inputs), norm(layer(inputs)), "the fused output", 1e-4, 1e-5)
    for name, flag in described(made).items():
        check_equal(flag, not frozen, f"requires_grad of the fused {name}")
    check_equal({*described(layer).values()}, {not frozen}, "requires_grad of the layer that was fused")


def _quantization() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torch.ao.nn.quantizable
            import torch.ao.quantization

            return torch.ao
    except (ImportError, AttributeError):
        return None


def quantizes() -> str:
    """What is said where there is no quantization to train for; else ""."""
    return "" if _quantization() is not None else "torch.ao.quantization: this torch has none"


QUANTIZABLE: Dict[str, Callable[[], nn.Module]] = {
    "MultiheadAttention": lambda: nn.MultiheadAttention(4, 2),
    "LSTM": lambda: nn.LSTM(4, 2),
}
PREPARED: Dict[str, Callable[[], List[nn.Module]]] = {
    "Linear": lambda: [nn.Linear(2, 2)],
    "Conv2d": lambda: [nn.Conv2d(2, 2, 1)],
    "Conv2d-BatchNorm2d": lambda: [nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)],
    "Conv2d-BatchNorm2d-ReLU": lambda: [nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.ReLU()],
}


@law("T3 F8", "torch.ao.quantization documentation", "float32", needs=quantizes)
@pytest.mark.parametrize("kind", list(QUANTIZABLE))
def test_quantizable_layers_keep_flags(device: str, dtype: torch.dtype, kind: str) -> None:
    """T3: the quantizable twin of a frozen layer is frozen."""
    layer = QUANTIZABLE[kind]().requires_grad_(False)
    ao = _quantization()
    layer.qconfig = ao.quantization.default_qconfig  # type: ignore[assignment]
    twin = getattr(ao.nn.quantizable, kind)
    made = attempt(lambda: twin.from_float(layer), f"quantizable.{kind}.from_float")
    live = sorted(name for name, flag in described(made).items() if flag)
    check_equal(live, [], f"what requires grad in the twin of a frozen {kind}")


@law("T3 F8", "torch.ao.quantization.prepare_qat documentation", "float32", needs=quantizes)
@pytest.mark.parametrize("kind", list(PREPARED))
def test_prepared_layers_keep_flags(device: str, dtype: torch.dtype, kind: str) -> None:
    """T3: prepared for quantization-aware training, what is frozen is frozen, the rest is not."""
    ao: Any = _quantization()

    def prepared(frozen: bool) -> nn.Module:
        net: Any = nn.Sequential(*PREPARED[kind]()).train().requires_grad_(not frozen)
        net.qconfig = ao.quantization.get_default_qat_qconfig("fbgemm")
        if len(net) > 1:
            names = [str(place) for place in range(len(net))]
            net = ao.quantization.fuse_modules_qat(net, [names])
        made: nn.Module = ao.quantization.prepare_qat(net)
        return made

    for frozen in (True, False):
        made = attempt(lambda: prepared(frozen), f"prepare_qat of {kind}")  # noqa: B023
        check_equal(
            {*described(made).values()}, {not frozen}, f"requires_grad after prepare_qat of {kind}"
        )


@law("T3 F8", "torch.nn.SyncBatchNorm.convert_sync_batchnorm documentation", "float32")
def test_synchronized_norms_keep_flags_and_modes(device: str, dtype: torch.dtype) -> None:
    """T3: convert_sync_batchnorm keeps each norm's flags, mode and statistics."""
    for frozen in (True, False):
        net = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))
        net[0].train(not frozen).requires_grad_(not frozen)
        made = nn.SyncBatchNorm.convert_sync_batchnorm(net)
        check_equal(made[0].training, not frozen, "the mode of the norm")
        flags = [flag for name, flag in described(made).items() if name.startswith("0.")]
        check_equal(flags, [not frozen] * 2, "requires_grad of the norm's parameters")
        count_cases(1)
