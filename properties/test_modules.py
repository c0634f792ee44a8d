"""Module.requires_grad_, tied parameters, buffers: freezing whole modules."""

import dataclasses
from typing import Tuple

import torch
from hypothesis import given
from hypothesis import strategies as st

from properties.harness import oracle
from properties.harness.checks import (
    check,
    check_close,
    check_equal,
    check_moved,
    check_same_bits,
    snapshot,
)
from properties.harness.law import FLOATING, PRECISE, law
from properties.harness.trainer import Trainer
from strategies import MLP, Layer, TrainingRun, freeze_masks, mlps

DOCUMENT = "torch.nn.Module.requires_grad_ documentation"


@law("F8", DOCUMENT, FLOATING)
@given(network=mlps(), place=st.integers(0, 5))
def test_requires_grad_recurses(device: str, dtype: torch.dtype, network: MLP, place: int) -> None:
    """F8: Module.requires_grad_ returns the module, sets every flag below it, and nothing else."""
    built = network.build(device, dtype)
    modules = [module for module in built.modules() if list(module.parameters())]
    module = modules[place % len(modules)]
    inside = {id(parameter) for parameter in module.parameters()}
    before = snapshot(dict(built.named_parameters()))
    for parameter in built.parameters():
        parameter.grad = torch.ones(tuple(parameter.shape), dtype=dtype, device=device)
    for flag in (False, True, False):
        check(module.requires_grad_(flag) is module, "requires_grad_ returned another object")
        for name, parameter in built.named_parameters():
            wanted = flag if id(parameter) in inside else True
            check_equal(parameter.requires_grad, wanted, f"requires_grad of {name}")
            check_same_bits(parameter, before[name], name)
            check(parameter.grad is not None, f"the gradient of {name} is gone")
        for name, buffer in built.named_buffers():
            check(not buffer.requires_grad, f"the buffer {name} requires grad")
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
    values = oracle.as_float64(trainer.inputs) @ weight.t() + bias
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
    frozen = data.draw(freeze_masks(network))
    trainer = Trainer(TrainingRun(network, frozen, seed=network.seed), device, dtype)
    source = with_other_weights(network).build(device, dtype)
    wanted = snapshot(dict(source.named_parameters()))
    places = {name: parameter.data_ptr() for name, parameter in trainer.named.items()}
    trainer.network.load_state_dict(source.state_dict())
    for name, parameter in trainer.network.named_parameters():
        check(parameter is trainer.named[name], f"{name} is another object after loading")
        check_equal(parameter.data_ptr(), places[name], f"the memory of {name} after loading")
        check_equal(parameter.requires_grad, name not in frozen, f"requires_grad of {name}")
        check_same_bits(parameter, wanted[name], f"{name} after loading")
