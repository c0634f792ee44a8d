"""Averages of weights: SWA, EMA and update_bn over frozen parts."""

import copy
from typing import Any, Callable, Dict

import pytest
import torch
from torch.optim import swa_utils

from frostproof.properties.harness.core.checks import (
    check,
    check_equal,
    check_same_bits,
    check_unchanged,
    count_cases,
    snapshot,
)
from frostproof.properties.harness.core.law import FLOATING, cells, law
from frostproof.properties.harness.core.layout import storage_address
from frostproof.properties.harness.running.attempts import attempt

SOURCE = "torch.optim.swa_utils documentation"


AVERAGES: Dict[str, Callable[[float], Dict[str, Any]]] = {
    "swa": lambda decay: {},
    # the formula that the documentation gave before there were functions for it
    "lambda": lambda decay: {"avg_fn": lambda old, new, count: old + (new - old) * (1 - decay)},
    "get_ema_avg_fn": lambda decay: {"avg_fn": swa_utils.get_ema_avg_fn(decay)},
    "get_ema_multi_avg_fn": lambda decay: {"multi_avg_fn": swa_utils.get_ema_multi_avg_fn(decay)},
    "get_swa_multi_avg_fn": lambda decay: {"multi_avg_fn": swa_utils.get_swa_multi_avg_fn()},
}
NEEDS = {name: f"torch.optim.swa_utils.{name}" for name in AVERAGES if name.startswith("get_")}


def net_of(device: str, dtype: torch.dtype) -> torch.nn.Sequential:
    """Two layers and a norm; the first layer frozen; values from a generator of their own."""
    parts = (torch.nn.Linear(9, 20), torch.nn.BatchNorm1d(20), torch.nn.Linear(20, 2))
    net = torch.nn.Sequential(*parts).to(device, dtype)
    generator = torch.Generator()
    generator.manual_seed(7)
    with torch.no_grad():
        for each in net.parameters():
            each.copy_(torch.rand(each.shape, generator=generator, dtype=torch.float64) * 2 - 1)
    net[0].requires_grad_(False)
    return net


@law("V1", SOURCE, FLOATING)
@pytest.mark.parametrize("kind", cells(AVERAGES, NEEDS))
def test_average_of_the_frozen_is_that_value(device: str, dtype: torch.dtype, kind: str) -> None:
    """V1: however often it is updated, the average of what stands still is that value, bit for bit."""
    for decay in (0.9, 0.99, 0.999):
        net = net_of(device, dtype)
        average = swa_utils.AveragedModel(net, **AVERAGES[kind](decay))
        for _ in range(10):
            average.update_parameters(net)
        found = dict(average.module.named_parameters())
        for name, parameter in net.named_parameters():
            check_same_bits(found[name], parameter, f"the average ({kind}, {decay}) of {name}")
        count_cases(1)


@law("V1", SOURCE, "float32")
@pytest.mark.parametrize("kind", cells(AVERAGES, NEEDS))
def test_average_is_apart_from_the_net(device: str, dtype: torch.dtype, kind: str) -> None:
    """V1: an average shares no memory with its net, leaves it alone, and has its flags."""
    net = net_of(device, dtype)
    average = swa_utils.AveragedModel(net, **AVERAGES[kind](0.9))
    before = snapshot(dict(net.named_parameters()))
    versions = [each._version for each in net.parameters()]
    for _ in range(3):
        average.update_parameters(net)
    check_unchanged(dict(net.named_parameters()), before, "after an update of its average,")
    check_equal([each._version for each in net.parameters()], versions, "versions of the net")
    ours = {storage_address(each) for each in net.parameters()}
    for (name, one), two in zip(average.module.named_parameters(), net.parameters()):
        check(storage_address(one) not in ours, f"{name} of the average is in the net's memory")
        check_equal(one.requires_grad, two.requires_grad, f"requires_grad of {name} of the average")
        check(one.grad is None and one.is_leaf, f"{name} of the average is no leaf or has a gradient")


@law("V1", SOURCE, "float32")
@pytest.mark.parametrize("kind", cells([k for k in AVERAGES if "ema" in k], NEEDS))
def test_averaged_counts_arrive(device: str, dtype: torch.dtype, kind: str) -> None:
    """V1: with use_buffers=True the average of a count that stands still arrives at it."""
    net: Any = net_of(device, dtype)
    average: Any = swa_utils.AveragedModel(net, use_buffers=True, **AVERAGES[kind](0.5))
    average.update_parameters(net)
    net[1].num_batches_tracked.fill_(8)
    for _ in range(40):
        attempt(lambda: average.update_parameters(net), "update_parameters")
    check_equal(int(average.module[1].num_batches_tracked), 8, "the average of a count of 8")


def modes(net: torch.nn.Module) -> Dict[str, bool]:
    """train or eval of each module."""
    return {name: module.training for name, module in net.named_modules()}


@law("V2", SOURCE, "float32")
@pytest.mark.parametrize("case", ["train", "eval", "frozen norm in eval"])
def test_update_bn_keeps_modes(device: str, dtype: torch.dtype, case: str) -> None:
    """V2: update_bn leaves every module in its mode, and every parameter with its bits and flag."""
    net = net_of(device, dtype).train(case != "eval")
    if case == "frozen norm in eval":
        net[1].eval().requires_grad_(False)
    before, kept = snapshot(dict(net.named_parameters())), modes(net)
    flags = [each.requires_grad for each in net.parameters()]
    swa_utils.update_bn([torch.ones(4, 9, device=device)], net)
    check_equal(modes(net), kept, "the modes after update_bn")
    check_unchanged(dict(net.named_parameters()), before, "after update_bn")
    check_equal([each.requires_grad for each in net.parameters()], flags, "requires_grad")
    check_equal(net[1].momentum, 0.1, "the norm's momentum after update_bn")


@law("V2", SOURCE, "float32")
def test_update_bn_that_fails_changes_no_settings(device: str, dtype: torch.dtype) -> None:
    """V2: where the net refuses a batch, update_bn leaves modes and momenta as they were."""
    net = net_of(device, dtype).eval()
    before = copy.deepcopy(modes(net))
    try:
        swa_utils.update_bn([torch.ones(4, 5, device=device)], net)
    except RuntimeError:
        pass
    check_equal(net[1].momentum, 0.1, "the norm's momentum after an update_bn that failed")
    check_equal(modes(net), before, "the modes after an update_bn that failed")
