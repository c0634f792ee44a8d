"""Module.requires_grad_, tied parameters, buffers: freezing whole modules."""

import copy
import dataclasses
from itertools import product
from typing import Dict, List, Optional, Sequence, Tuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from frostproof.properties.harness.core.checks import (
    check,
    check_close,
    check_equal,
    check_moved,
    check_same_bits,
    snapshot,
)
from frostproof.properties.harness.core.law import FLOATING, PRECISE, law
from frostproof.properties.harness.reference import oracle
from frostproof.properties.harness.running.trainer import Trainer
from frostproof.strategies import MLP, Layer, TrainingRun, freeze_masks, mlps

DOCUMENT = "torch.nn.Module.requires_grad_ documentation"


@law("F8", DOCUMENT, FLOATING)
@given(network=mlps(), place=st.integers(0, 63), train=st.booleans())
def test_requires_grad_recurses(
    device: str, dtype: torch.dtype, network: MLP, place: int, train: bool
) -> None:
    """F8: Module.requires_grad_ returns the module, sets every flag below it, and nothing else."""
    built = network.build(device, dtype).train(train)
    modules = [module for module in built.modules() if list(module.parameters())]
    module = modules[place % len(modules)]
    inside = {id(parameter) for parameter in module.parameters()}
    before = snapshot(dict(built.named_parameters()))
    for parameter in built.parameters():
        parameter.grad = torch.ones(tuple(parameter.shape), dtype=dtype, device=device)
    held = dict(built.named_parameters())
    for number, flag in enumerate((False, True, False, True, False)):
        if number < 2:
            returned = module.requires_grad_(flag)
        else:  # True is the default
            returned = module.requires_grad_() if flag else module.requires_grad_(requires_grad=False)
        check(returned is module, "requires_grad_ returned another object")
        for name, parameter in built.named_parameters():
            check(parameter is held[name], f"{name} is another object after requires_grad_")
            wanted = flag if id(parameter) in inside else True
            check_equal(parameter.requires_grad, wanted, f"requires_grad of {name}")
            check_same_bits(parameter, before[name], name)
            check(parameter.grad is not None, f"the gradient of {name} is gone")
        for name, buffer in built.named_buffers():
            check(not buffer.requires_grad, f"the buffer {name} requires grad")
        for name, each in built.named_modules():
            check_equal(each.training, train, f"training mode of {name or 'the net'}")
    built.requires_grad_(True)
    check(all(p.requires_grad for p in built.parameters()), "requires_grad_(True) missed some")


@law("F8", DOCUMENT, FLOATING)
@given(network=mlps(), place=st.integers(0, 5))
def test_frozen_module_stays(device: str, dtype: torch.dtype, network: MLP, place: int) -> None:
    """F8: a layer frozen by requires_grad_(False) keeps its bits; the others get gradients."""
    trainer = Trainer(TrainingRun(network, batch=4, steps=2, seed=network.seed), device, dtype)
    blocks = list(trainer.network.blocks())
    block = blocks[place % len(blocks)]
    frozen = {id(parameter) for parameter in block.requires_grad_(False).parameters()}
    names = tuple(name for name, p in trainer.named.items() if id(p) in frozen)
    trainer.run = TrainingRun(network, names, batch=4, steps=2, seed=network.seed)
    trainer.train()
    for name, parameter in trainer.named.items():
        if name in names:
            check_same_bits(parameter, trainer.before[name], f"frozen {name}")
            check(parameter.grad is None, f"frozen {name} has a gradient")
        else:
            check(parameter.grad is not None, f"live {name} has no gradient")


@law("F8", "torch.nn.Module.parameters documentation", FLOATING)
@given(width=st.integers(1, 40), seed=st.integers(0, 255), freeze_first=st.booleans())
def test_tied_freeze_together(
    device: str, dtype: torch.dtype, width: int, seed: int, freeze_first: bool
) -> None:
    """F8: freezing one of two tied layers' weights freezes the other: they are one Parameter."""
    layers = (Layer(width, activation="tanh"), Layer(width, tied=True))
    trainer = Trainer(TrainingRun(MLP(width, layers, seed=seed), batch=4, seed=seed), device, dtype)
    first, second = trainer.network.blocks()
    one, two = first.linear, second.linear  # type: ignore[union-attr]
    check(one.weight is two.weight, "tied weights are two objects")  # type: ignore[union-attr]
    (one if freeze_first else two).weight.requires_grad_(False)  # type: ignore[union-attr,operator]
    check(not two.weight.requires_grad, "freezing one left the other")  # type: ignore[union-attr]
    trainer.backward()
    trainer.apply()
    name = "layers.0.linear.weight"
    check_same_bits(trainer.named[name], trainer.before[name], "the tied weight")
    for bias in ("layers.0.linear.bias", "layers.1.linear.bias"):
        check(trainer.named[bias].grad is not None, f"{bias} got no gradient")


def _batch_statistics(trainer: Trainer) -> Tuple[torch.Tensor, torch.Tensor]:
    """Mean and unbiased variance over the batch of what the first, frozen, layer computes: float64."""
    weight = oracle.as_float64(trainer.named["layers.0.linear.weight"])
    bias = oracle.as_float64(trainer.named["layers.0.linear.bias"])
    values = oracle.product(oracle.as_float64(trainer.inputs), weight.t()) + bias
    mean = values.sum(0) / len(values)
    return mean, ((values - mean) ** 2).sum(0) / (len(values) - 1)


@law("F8", "torch.nn.BatchNorm1d documentation", PRECISE)
@given(width=st.integers(1, 40), seed=st.integers(0, 255), steps=st.integers(1, 3), train=st.booleans())
def test_batch_norm_statistics(
    device: str, dtype: torch.dtype, width: int, seed: int, steps: int, train: bool
) -> None:
    """F8: a frozen BatchNorm's statistics move in train mode, and stand still in eval mode."""
    network = MLP(3, (Layer(width, norm="batch"), Layer(2)), seed=seed)
    trainer = Trainer(TrainingRun(network, batch=4, steps=steps, seed=seed), device, dtype)
    block = next(iter(trainer.network.blocks()))
    block.requires_grad_(False)
    block.train(train)
    before = snapshot(dict(block.named_buffers()))
    check(len(before) >= 3, f"BatchNorm has only the buffers {sorted(before)}")
    trainer.train()
    for name, buffer in block.named_buffers():
        if train:
            check_moved(buffer, before[name], f"{name} of a frozen BatchNorm in train mode")
        else:
            check_same_bits(buffer, before[name], f"{name} of a BatchNorm in eval mode")
    if train:
        buffers = dict(block.named_buffers())
        check_equal(int(buffers["norm.num_batches_tracked"]), steps, "batches tracked")
        mean, var = _batch_statistics(trainer)
        kept, unit = 0.9**steps, 1e4 * torch.finfo(dtype).eps
        check_close(buffers["norm.running_mean"], (1 - kept) * mean, "running mean", unit, unit)
        check_close(buffers["norm.running_var"], kept + (1 - kept) * var, "running var", unit, unit)
    for name, parameter in block.named_parameters():
        check(parameter.grad is None, f"frozen {name} has a gradient")
        check_same_bits(parameter, trainer.before[f"layers.0.{name}"], f"frozen {name}")


@law("F8", "torch.nn.Module.train documentation", FLOATING)
@given(data=st.data())
def test_modes_leave_flags(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F8: train() and eval() change no flag, no gradient and no bit, and eval() still trains."""
    network = data.draw(mlps())
    frozen = data.draw(freeze_masks(network))
    trainer = Trainer(TrainingRun(network, frozen, batch=4, seed=network.seed), device, dtype)
    for mode in (False, True, False):
        trainer.network.train(mode) if mode else trainer.network.eval()
        for name, module in trainer.network.named_modules():
            check_equal(module.training, mode, f"training mode of {name or 'the net'}")
        for name, parameter in trainer.named.items():
            check_equal(parameter.requires_grad, name not in frozen, f"requires_grad of {name}")
            check_same_bits(parameter, trainer.before[name], f"{name} after train({mode})")
    trainer.backward()
    for name, parameter in trainer.named.items():
        live, got = name in trainer.run.gets_gradient(), parameter.grad is not None
        check_equal(got, live, f"whether {name} got a gradient in eval mode")


def with_other_weights(network: MLP) -> MLP:
    """The same net, drawn from the next seed."""
    return dataclasses.replace(network, seed=(network.seed + 1) % 256)


@law("C5 F9", "torch.nn.Module.load_state_dict documentation", FLOATING)
@given(data=st.data())
def test_loading_writes_in_place(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """C5: load_state_dict writes into the same memory, frozen or not, and leaves the flags."""
    network = data.draw(mlps())
    frozen, train = data.draw(freeze_masks(network)), data.draw(st.booleans())
    trainer = Trainer(TrainingRun(network, frozen, seed=network.seed), device, dtype)
    trainer.network.train(train)
    for parameter in trainer.network.parameters():
        parameter.grad = torch.ones(tuple(parameter.shape), dtype=dtype, device=device)
    source = with_other_weights(network).build(device, dtype)
    with torch.no_grad():
        for buffer in source.buffers():
            buffer.add_(1)
    wanted = snapshot({**dict(source.named_parameters()), **dict(source.named_buffers())})
    held = {**trainer.named, **dict(trainer.network.named_buffers())}
    places = {name: tensor.data_ptr() for name, tensor in held.items()}
    trainer.network.load_state_dict(source.state_dict())
    now = {**dict(trainer.network.named_parameters()), **dict(trainer.network.named_buffers())}
    for name, tensor in now.items():
        check(tensor is held[name], f"{name} is another object after loading")
        check_equal(tensor.data_ptr(), places[name], f"the memory of {name} after loading")
        live = name in trainer.named and name not in frozen
        check_equal(tensor.requires_grad, live, f"requires_grad of {name}")
        check(tensor.is_leaf, f"{name} is no longer a leaf")
        check_equal(tensor.grad is None, name not in trainer.named, f"whether {name} has no gradient")
        check_same_bits(tensor, wanted[name], f"{name} after loading")
    for name, tensor in {**dict(source.named_parameters()), **dict(source.named_buffers())}.items():
        check(tensor.data_ptr() != places[name], f"{name} shares the memory it was loaded from")


def batch_of(
    channels: int, rank: int, rows: int, seed: int, device: str, dtype: torch.dtype
) -> torch.Tensor:
    """Values in [-1, 1): rows, channels, and ``rank`` axes of two."""
    generator = torch.Generator()
    generator.manual_seed(seed)
    shape = (rows, channels, *(2,) * rank)
    return (torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1).to(
        device=device, dtype=dtype
    )


BATCH_NORMS = ("BatchNorm1d", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d")  # by rank, 0 to 3
# What is frozen ("without": no parameters), momentum, train mode, grad mode. One draw for
# all: each has its share of the examples.
NORMALIZING = tuple(
    product(
        ("none", "all", "weight", "bias", "without"),
        (0.1, 0.5, None),
        (True, False),
        ("enable_grad", "no_grad"),
    )
)


@law("F8", "torch.nn.BatchNorm2d documentation", PRECISE)
@pytest.mark.parametrize("rank", range(4))
@given(
    normalizing=st.sampled_from(NORMALIZING),
    channels=st.integers(1, 40),
    rows=st.integers(2, 12),
    seed=st.integers(0, 255),
)
def test_batch_norm_of_every_rank(
    device: str,
    dtype: torch.dtype,
    rank: int,
    normalizing: Tuple[str, Optional[float], bool, str],
    channels: int,
    rows: int,
    seed: int,
) -> None:
    """F8: BatchNorm's statistics go by train mode alone: not by what is frozen, nor by grad mode."""
    frozen, momentum, train, mode = normalizing
    kind = getattr(torch.nn, BATCH_NORMS[rank])
    norm = kind(channels, momentum=momentum, affine=frozen != "without").to(device, dtype)
    norm.train(train)
    for name, parameter in norm.named_parameters():
        parameter.requires_grad_(frozen not in ("all", name))
    mean = torch.zeros(channels, dtype=torch.float64)
    var = torch.ones(channels, dtype=torch.float64)
    unit = 1e4 * torch.finfo(dtype).eps
    for step in (1, 2):
        values = batch_of(channels, rank, rows, seed + step, device, dtype)
        before = snapshot(dict(norm.named_buffers()))
        with getattr(torch, mode)():
            result = norm(values)
        rates = oracle.as_float64(values).transpose(0, 1).reshape(channels, -1)
        centre = rates.mean(1)
        spread = ((rates - centre[:, None]) ** 2).mean(1)
        if train:
            share, count = momentum if momentum is not None else 1 / step, rates.shape[1]
            mean = (1 - share) * mean + share * centre
            var = (1 - share) * var + share * spread * count / (count - 1)
            check_close(norm.running_mean, mean, f"running mean, step {step}", unit, unit)
            check_close(norm.running_var, var, f"running var, step {step}", unit, unit)
            check_equal(int(norm.num_batches_tracked), step, "batches tracked")
        else:
            centre, spread = mean, var
            for name, buffer in norm.named_buffers():
                check_same_bits(buffer, before[name], f"{name} of a BatchNorm in eval mode")
        wanted = (rates - centre[:, None]) / (spread[:, None] + 1e-5).sqrt()
        got = oracle.as_float64(result).transpose(0, 1).reshape(channels, -1)
        check_close(got, wanted, "what BatchNorm gives", unit, unit)
        live = mode == "enable_grad" and frozen in ("none", "weight", "bias")
        check_equal(result.requires_grad, live, "requires_grad of the result")


# How a module may hold its parameters: each is code with ``torch`` and ``nn`` in its scope.
PIECES: Dict[str, str] = {
    "linear": "nn.Linear(2, 2)",
    "norm": "nn.BatchNorm1d(2)",
    "list": "nn.ParameterList([nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(()))])",
    "dict": "nn.ParameterDict({'one': nn.Parameter(torch.ones(2))})",
    "modules": "nn.ModuleList([nn.Linear(1, 2), nn.ModuleList([nn.Linear(2, 1, bias=False)])])",
    "named": "nn.ModuleDict({'one': nn.Linear(1, 2), 'two': nn.ParameterList()})",
    "deep": "nn.Sequential(nn.Sequential(nn.Sequential(nn.Sequential(nn.Linear(1, 1)))))",
    "direct": "nn.Parameter(torch.ones(2, 2, 2))",
    "none": "None",
}
TIED = "direct"  # the piece that is held twice
PARAMETRIZED = hasattr(torch.nn.utils, "parametrize")  # not on torch 1.8


class Holder(torch.nn.Module):
    """A module that holds pieces by number, and one parameter twice."""

    def __init__(self, pieces: Sequence[str]) -> None:
        super().__init__()
        for number, piece in enumerate(pieces):
            made = eval(PIECES[piece], {"torch": torch, "nn": torch.nn})
            if made is None:
                self.register_parameter(f"piece{number}", None)
            else:
                setattr(self, f"piece{number}", made)
            if piece == TIED:
                setattr(self, f"again{number}", made)
            if piece == "linear" and PARAMETRIZED:
                torch.nn.utils.parametrize.register_parametrization(made, "weight", torch.nn.Tanh())


def every_parameter(module: torch.nn.Module) -> List[torch.nn.Parameter]:
    """Each parameter once, found without asking ``parameters()``."""
    found: Dict[int, torch.nn.Parameter] = {}
    waiting = [module]
    while waiting:
        each = waiting.pop()
        found.update({id(p): p for p in each._parameters.values() if p is not None})
        waiting += [child for child in each._modules.values() if child is not None]
    return list(found.values())


@law("F8 C5 F6", "torch.nn.Module documentation", "float32")
@given(pieces=st.lists(st.sampled_from(list(PIECES)), min_size=1, max_size=5), train=st.booleans())
def test_every_container(device: str, dtype: torch.dtype, pieces: List[str], train: bool) -> None:
    """F8: however a module holds its parameters, freezing, clearing, saving and copying reach each."""
    module = Holder(pieces).to(device).train(train)
    held = every_parameter(module)
    listed = list(module.parameters())
    check_equal(sorted(map(id, listed)), sorted(map(id, held)), "the parameters that are listed")
    for flag in (False, True, False):
        module.requires_grad_(flag)
        for parameter in held:
            check_equal(parameter.requires_grad, flag, f"requires_grad of {tuple(parameter.shape)}")
        module.zero_grad(set_to_none=True)
        check(all(p.requires_grad is flag for p in held), "zero_grad changed requires_grad")
        total = sum((parameter * 2).sum() for parameter in held)
        if flag and held:
            total.backward()  # type: ignore[union-attr]
        for parameter in held:
            check_equal(parameter.grad is not None, flag, "whether a parameter has a gradient")
    for copied, what in ((copy.deepcopy(module), "a deepcopy"), (module.to(torch.float64), "to()")):
        others = every_parameter(copied)
        check_equal(len(others), len(held), f"parameters after {what}")
        for parameter in others:
            check(not parameter.requires_grad, f"{what} unfroze a parameter")
        for buffer in copied.buffers():
            check(not buffer.requires_grad, f"a buffer requires grad after {what}")
    saved = module.state_dict()
    places = {value.data_ptr() for value in saved.values()}
    for tensor in (*every_parameter(module), *module.buffers()):
        check(tensor.data_ptr() in places, f"state_dict() does not hold {tuple(tensor.shape)}")
    module.load_state_dict({name: value + 1 for name, value in saved.items()})
    for parameter in every_parameter(module):
        check(not parameter.requires_grad, "load_state_dict unfroze a parameter")
    for name, value in module.state_dict().items():
        check(value.data_ptr() in places, f"{name} has other memory after loading")
