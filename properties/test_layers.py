"""Layers of every kind of torch.nn: what is frozen of them, and what their gradients are."""

import dataclasses
import math
from typing import Dict, List, Tuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from frostproof.properties.harness.core.checks import (
    check,
    check_close,
    check_equal,
    check_same_bits,
    check_unchanged,
    check_within,
    fail,
    snapshot,
)
from frostproof.properties.harness.core.law import EXACT, PRECISE, cells, law, part
from frostproof.properties.harness.reference import oracle
from frostproof.strategies import LayerCase, layer_cases
from frostproof.strategies.layer_kinds import EVERY_KIND, FUNCTION_KINDS, LAYER_KINDS, NEEDS

# How far a central difference looks to both sides. Where a kink (of PReLU, a pooling's maximum)
# lies between them it is wrong: then it looks closer.
SHIFTS = (1e-5, 1e-7)
# What a value, and a slope, may be off by, relative to their size: seen at most 4e-8 and 2e-6.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
TF32 = 100  # times as much in float32 on CUDA, whose convolutions use TF32 unless told not to


def tolerance_of(device: str, dtype: torch.dtype) -> float:
    """The relative error that is allowed on a device, in a dtype."""
    rough = dtype is torch.float32 and torch.device(device).type == "cuda"
    return TOLERANCE[dtype] * (TF32 if rough else 1)


def apply(case: LayerCase, layer: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The layer's output."""
    scope = {"torch": torch, "nn": torch.nn, "layer": layer, "x": x}
    output: torch.Tensor = eval(EVERY_KIND[case.kind].call, scope)
    return output


def waves(shape: torch.Size) -> torch.Tensor:
    """Numbers from -1 to 1, no two alike: float64, on the CPU."""
    count = torch.Size(shape).numel()
    return torch.arange(1, count + 1, dtype=torch.float64).mul(2.4).sin().reshape(tuple(shape))


def leaves_of(layer: torch.nn.Module, x: torch.Tensor) -> Dict[str, torch.Tensor]:
    """Parameters by name, and the input where it requires grad."""
    return {**dict(layer.named_parameters()), **({"input": x} if x.requires_grad else {})}


@law("F2 F3", "central differences; PyTorch notes, Autograd mechanics", PRECISE)
@part(4, least=10)
@pytest.mark.parametrize("kind", cells(LAYER_KINDS, NEEDS))
@given(data=st.data())
def test_layers_of_every_kind(device: str, dtype: torch.dtype, kind: str, data: st.DataObject) -> None:
    """F2: what is frozen of a layer gets no gradient; all else gets the slope of the output."""
    check_layer(data.draw(layer_cases(kind, device)), device, dtype)


@law("F3 F2", "central differences; torch.nn.functional documentation", EXACT)
@part(6, least=10)
@pytest.mark.parametrize("kind", cells(FUNCTION_KINDS, NEEDS))
@given(data=st.data())
def test_functions_of_every_kind(
    device: str, dtype: torch.dtype, kind: str, data: st.DataObject
) -> None:
    """F3: through losses, activations, pooling and attention every gradient is the output's slope."""
    check_layer(data.draw(layer_cases(kind, device)), device, dtype)


def check_layer(case: LayerCase, device: str, dtype: torch.dtype) -> None:
    """Forward and backward of one case: who gets a gradient, and which."""
    __tracebackhide__ = True
    layer, x = case.build(device, dtype)
    leaves = leaves_of(layer, x)
    before = snapshot(leaves)
    output = apply(case, layer, x)
    live = [name for name in leaves if name not in case.frozen]
    check_equal(output.requires_grad, bool(live), "whether the output requires grad")
    if live:
        output.backward(waves(output.shape).to(device, dtype))
    check_unchanged(leaves, before, "forward and backward changed")
    for name, leaf in leaves.items():
        check_equal(leaf.grad is not None, name in live, f"whether {name} has a gradient")
    check_slopes(case, output, {name: leaves[name] for name in live})


def check_slopes(case: LayerCase, output: torch.Tensor, live: Dict[str, torch.Tensor]) -> None:
    """Output and gradients are those of the layer in float64 with nothing frozen."""
    __tracebackhide__ = True
    tolerance = tolerance_of(str(output.device), output.dtype)
    gradients = {n: oracle.as_float64(leaf.grad) for n, leaf in live.items() if leaf.grad is not None}
    twin, x = dataclasses.replace(case, frozen=()).build("cpu", torch.float64)
    leaves = leaves_of(twin, x)
    check_close(output, apply(case, twin, x), f"output of {case.kind}", tolerance, tolerance)

    def slope(names: List[str], shift: float) -> float:
        """The slope of the output, weighted, where all of these leaves move along their waves."""
        sides = []
        with torch.no_grad():
            for step in (shift, -2 * shift):
                move(names, step)
                value = apply(case, twin, x)
                sides.append(float((value * waves(value.shape)).sum()))
            move(names, shift)  # back
        return (sides[0] - sides[1]) / (2 * shift)

    def move(names: List[str], step: float) -> None:
        for name in names:
            leaves[name].add_(directions[name], alpha=step)

    directions = {name: waves(leaves[name].shape) for name in gradients}
    padding = getattr(twin, "padding_idx", None)
    if padding is not None and "weight" in gradients:
        directions["weight"][padding] = 0  # its value counts, and yet it never gets a gradient
        check(not gradients["weight"][padding].any(), "the gradient of the padding is not zero")
    found, size = {}, 1.0
    for name, gradient in gradients.items():
        found[name] = float((gradient * directions[name]).sum())
        size += float(gradient.abs().sum())

    def off(names: List[str]) -> float:
        """How far the slope along these leaves is from what their gradients say."""
        total, gap = sum(found[name] for name in names), math.inf
        for shift in SHIFTS:
            gap = min(gap, abs(total - slope(names, shift)) / (tolerance * size))
            if gap <= 1:
                break
        return gap

    if off(list(gradients)) <= 1:  # each alone only where together they are wrong
        return
    wrong = {name: off([name]) for name in gradients}
    worst = max(wrong, key=lambda name: wrong[name])
    along = (gradients[worst] * directions[worst]).sum()
    wanted = torch.tensor(slope([worst], SHIFTS[0]), dtype=torch.float64)
    allowed = torch.tensor(tolerance * size, dtype=torch.float64)
    check_within(along, wanted, allowed, f"the slope along the gradient of {worst} of {case.kind}")
    fail(f"the gradients of {case.kind} are each the slope of the output, but not together")


@law("F1", "torch.nn.Embedding documentation, max_norm", PRECISE)
@given(
    rows=st.integers(1, 6),
    tokens=st.lists(st.integers(0, 5), min_size=1, max_size=5),
    frozen=st.booleans(),
    seed=st.integers(0, 255),
)
def test_max_norm_moves_frozen(
    device: str, dtype: torch.dtype, rows: int, tokens: List[int], frozen: bool, seed: int
) -> None:
    """F1: a trap: looking up an Embedding with max_norm shortens those rows, frozen or not."""
    layer, used = bounded_embedding(rows, tokens, frozen, seed, device, dtype)
    before = snapshot({str(row): layer.weight[row] for row in range(rows)})
    old = oracle.as_float64(layer.weight)
    output = layer(torch.tensor(used, device=device))
    check_equal(output.requires_grad, not frozen, "whether the output requires grad")
    for row in range(rows):
        length = float((old[row] ** 2).sum()) ** 0.5
        if row in used and length > 1.001:
            wanted = old[row] / length
            check_close(layer.weight[row], wanted, f"row {row}, looked up", 1e-5, 1e-5)
        elif row not in used or length < 0.999:
            check_same_bits(layer.weight[row], before[str(row)], f"row {row}, short or not looked up")
    for place, row in enumerate(used):
        check_same_bits(output[place], layer.weight[row], f"what is looked up of row {row}")


def bounded_embedding(
    rows: int, tokens: List[int], frozen: bool, seed: int, device: str, dtype: torch.dtype
) -> Tuple[torch.nn.Embedding, List[int]]:
    """An embedding of rows of 3 values, no longer than 1 once looked up; the rows to look up."""
    layer = torch.nn.Embedding(rows, 3, max_norm=1.0).to(device, dtype).requires_grad_(not frozen)
    generator = torch.Generator()
    generator.manual_seed(seed)
    with torch.no_grad():
        layer.weight.copy_(torch.rand(rows, 3, generator=generator, dtype=torch.float64) * 2 - 1)
    return layer, [token % rows for token in tokens]
