"""The source article's worked examples, with their exact numbers.

x = 1, a = 1, b = 2; y = a**2 * x + b * x = 3; z = y**2 + 2 * y; SGD, lr 0.01.
dz/da = (2y + 2) * 2ax = 16 and dz/db = (2y + 2) * x = 8.
"""

from functools import reduce
from typing import Any, List, Tuple

import pytest
import torch

from frostproof.properties.harness.core.checks import (
    check,
    check_close,
    check_equal,
    check_moved,
    check_raises,
    check_same_bits,
    check_unchanged,
    snapshot,
)
from frostproof.properties.harness.core.law import PRECISE, law

SOURCE = "the source article's worked example"


def _graph(device: str, dtype: torch.dtype) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(a, b, z): two leaves and the result that depends on them."""
    x = torch.tensor(1.0, device=device, dtype=dtype)
    a = torch.tensor(1.0, device=device, dtype=dtype, requires_grad=True)
    b = torch.nn.Parameter(torch.tensor(2.0, device=device, dtype=dtype))
    y = a**2 * x + b * x
    return a, b, y**2 + 2 * y


def _step(leaves: List[torch.Tensor], result: torch.Tensor) -> None:
    optimizer = torch.optim.SGD(leaves, lr=0.01)
    optimizer.zero_grad()
    result.backward()
    optimizer.step()


def _check_value(tensor: torch.Tensor, value: float, what: str) -> None:
    __tracebackhide__ = True
    check_close(tensor, torch.tensor(value, dtype=torch.float64), what, rtol=1e-6, atol=0)


@law("A1 D1 D3 F3", SOURCE, PRECISE)
def test_detached_values_follow(device: str, dtype: torch.dtype) -> None:
    """A1: after one step a and a.detach() are both 0.84, b and b.detach() both 1.92."""
    a, b, z = _graph(device, dtype)
    ta, tb = a.detach(), b.detach()
    _step([a, b], z)
    for tensor, value, name in ((a, 0.84, "a"), (ta, 0.84, "ta"), (b, 1.92, "b"), (tb, 1.92, "tb")):
        _check_value(tensor, value, name)
    check("grad_fn" not in repr(ta), f"a detached tensor prints without grad_fn: {ta!r}")
    check("requires_grad" not in repr(tb), f"a detached tensor does not require grad: {tb!r}")


@law("A2 C1 C4 F3", SOURCE, PRECISE)
def test_cloned_values_stay(device: str, dtype: torch.dtype) -> None:
    """A2: after one step the clones still are 1 and 2, and print grad_fn=<CloneBackward...>."""
    a, b, z = _graph(device, dtype)
    ta, tb = a.clone(), b.clone()
    _step([a, b], z)
    for tensor, value, name in ((a, 0.84, "a"), (ta, 1.0, "ta"), (b, 1.92, "b"), (tb, 2.0, "tb")):
        _check_value(tensor, value, name)
    for tensor in (ta, tb):
        check("grad_fn=<CloneBackward" in repr(tensor), f"a clone prints its node: {tensor!r}")


@law("A3 C2 C3 F3", SOURCE, PRECISE)
def test_backward_through_a_clone(device: str, dtype: torch.dtype) -> None:
    """A3: backward from z.clone() trains a and b as backward from z does: 0.84 and 1.92."""
    a, b, z = _graph(device, dtype)
    _step([a, b], z.clone())
    _check_value(a, 0.84, "a")
    _check_value(b, 1.92, "b")
    _check_value(a.grad, 16.0, "dz/da")  # type: ignore[arg-type]
    _check_value(b.grad, 8.0, "dz/db")  # type: ignore[arg-type]


@law("A4", SOURCE)
def test_lambda_examples() -> None:
    """A4: filter, map and reduce give the article's numbers, the first two lazily and once."""
    numbers = [2, 18, 9, 22, 17, 24, 8, 12, 27]
    kept = filter(lambda n: n % 3 == 0, numbers)
    mapped = map(lambda n: n * 2 + 10, numbers)
    check(iter(kept) is kept and iter(mapped) is mapped, "filter and map are their own iterators")
    check_equal(list(kept), [18, 9, 24, 12, 27], "multiples of 3")
    check_equal(list(mapped), [14, 46, 28, 54, 44, 58, 26, 34, 64], "x * 2 + 10")
    check_equal(reduce(lambda left, right: left + right, numbers), 139, "the sum")
    check_equal((list(kept), list(mapped)), ([], []), "a second pass over filter and map")


class Net(torch.nn.Module):
    """10 -> 5 -> 3, relu last, with an optional detach between the layers."""

    def __init__(self, cut: bool) -> None:
        super().__init__()
        self.layer1 = torch.nn.Linear(10, 5)
        self.layer2 = torch.nn.Linear(5, 3)
        self.cut = cut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.layer1(x)
        if self.cut:
            out = out.detach()
        return torch.nn.functional.relu(self.layer2(out))


def _trained(device: str, dtype: torch.dtype, cut: bool, frozen: Tuple[str, ...] = ()) -> Any:
    """The net after 100 steps, and its parameters' bits before."""
    generator = torch.Generator()
    generator.manual_seed(5)
    net = Net(cut).to(device=device, dtype=dtype)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator) * 0.6 - 0.2)
    for name in frozen:
        dict(net.named_parameters())[name].requires_grad = False
    before = snapshot(dict(net.named_parameters()))
    inputs = torch.randn(8, 10, generator=generator).to(device=device, dtype=dtype)
    zeros = torch.zeros(8, 3, device=device, dtype=dtype)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for _ in range(100):
        loss = torch.nn.functional.mse_loss(net(inputs), zeros)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net, before


def _check_unmoved(net: torch.nn.Module, before: Any, unmoved: Tuple[str, ...]) -> None:
    __tracebackhide__ = True
    for name, parameter in net.named_parameters():
        if name in unmoved:
            check_same_bits(parameter, before[name], name)
        else:
            check_moved(parameter, before[name], name)


@law("A5 K1", SOURCE, PRECISE)
@pytest.mark.parametrize("cut", [True, False], ids=["detached", "whole"])
def test_detach_between_layers(device: str, dtype: torch.dtype, cut: bool) -> None:
    """A5: with out.detach() between the layers layer1 stays; without, all four change."""
    net, before = _trained(device, dtype, cut)
    _check_unmoved(net, before, ("layer1.weight", "layer1.bias") if cut else ())


@law("A6 F1", SOURCE, PRECISE)
def test_freeze_one_weight(device: str, dtype: torch.dtype) -> None:
    """A6: layer1.weight.requires_grad = False: that one stays, the other three change."""
    net, before = _trained(device, dtype, False, frozen=("layer1.weight",))
    _check_unmoved(net, before, ("layer1.weight",))


@law("A7 F5", SOURCE, PRECISE)
def test_requires_grad_false(device: str, dtype: torch.dtype) -> None:
    """A7: no backward without requires_grad; a cut stops all before it; a frozen leaf gets none."""
    constant = torch.tensor(3.0, device=device, dtype=dtype)
    check_raises(RuntimeError, (constant * 2).backward, "backward without requires_grad", "grad")
    early = torch.tensor(2.0, device=device, dtype=dtype, requires_grad=True)
    late = torch.tensor(5.0, device=device, dtype=dtype, requires_grad=True)
    leaf = torch.tensor(7.0, device=device, dtype=dtype)
    before = snapshot({"early": early, "leaf": leaf})
    middle = (early * 3).detach()
    _step([early, late, leaf], middle * late * leaf)
    check(early.grad is None, f"before the cut no gradient arrives, got {early.grad}")
    check(leaf.grad is None, f"a leaf that does not require grad gets none, got {leaf.grad}")
    check_unchanged({"early": early, "leaf": leaf}, before, "unmoved")
    _check_value(late, 5.0 - 0.01 * 42.0, "late")
