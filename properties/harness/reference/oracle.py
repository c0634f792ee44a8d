"""What a described net must compute: output, loss and gradients, without autograd.

Forward and backward are written out by hand in float64 plain arithmetic on the
CPU: no ``torch.nn``, no ``torch.nn.functional``, no autograd, no detach or clone, and
no kernel of matrix products, which the nets under test share.
Beside every gradient goes its magnitude: the same sums with every term taken
absolutely. Rounding is bounded by a small multiple of it, so the tolerance is
tight where nothing cancels and no wider than it must be where much does.
"""

import math
from dataclasses import dataclass
from typing import Dict, FrozenSet, List, Mapping, Optional, Tuple

import torch

from frostproof.properties.harness.core.bits import from_bits, read_bits
from frostproof.strategies import MLP

Pair = Tuple[torch.Tensor, torch.Tensor]  # a gradient and its magnitude
INPUTS = "the input"

MANY = 2**18  # numbers that a product may hold at once

LAYER_NORM_EPS = BATCH_NORM_EPS = 1e-5
LEAKY_SLOPE = 0.01


REAL = {torch.complex64: torch.float32, torch.complex128: torch.float64}


def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The matrix product of (n, m) and (m, k), by element-wise products and sums: (n, k)."""
    rows, inner = left.shape
    if rows * inner * right.shape[1] <= MANY:
        return (left.unsqueeze(2) * right.unsqueeze(0)).sum(1)
    if rows < inner:
        return torch.stack([(right.t() * row).sum(1) for row in left])
    total = torch.zeros(rows, right.shape[1], dtype=left.dtype)
    for column, row in zip(left.t(), right):
        total += column.unsqueeze(1) * row
    return total


def as_float64(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor's values on the CPU in float64, copied without detach or clone.

    A complex one gets a last axis of two: real and imaginary parts.
    """
    shape = (*tensor.shape, 2) if tensor.dtype in REAL else tuple(tensor.shape)
    with torch.no_grad():
        plain = from_bits(read_bits(tensor), shape, REAL.get(tensor.dtype, tensor.dtype))
        if plain.dtype is torch.float64:
            return plain
        return torch.empty(shape, dtype=torch.float64).copy_(plain)


def _sigmoid(z: torch.Tensor) -> torch.Tensor:
    return 1 / (1 + torch.exp(-z))


def _softplus(z: torch.Tensor) -> torch.Tensor:
    return torch.where(z > 20, z, torch.log1p(torch.exp(torch.where(z > 20, 20 - z * 0, z))))


def activate(kind: str, z: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
    """(value, derivative) of an activation, elementwise."""
    one = torch.ones_like(z)
    if kind == "identity":
        return z, one
    if kind == "relu":
        return torch.where(z > 0, z, z * 0), torch.where(z > 0, one, z * 0)
    if kind == "leaky_relu":
        slope = torch.where(z > 0, one, one * LEAKY_SLOPE)
        return z * slope, slope
    if kind == "elu":
        low = torch.exp(torch.where(z > 0, z * 0, z))
        return torch.where(z > 0, z, low - 1), torch.where(z > 0, one, low)
    if kind == "gelu":
        cumulative = (1 + torch.erf(z / math.sqrt(2))) / 2
        density = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        return z * cumulative, cumulative + z * density
    if kind == "silu":
        s = _sigmoid(z)
        return z * s, s * (1 + z * (1 - s))
    if kind == "tanh":
        grown = torch.exp(-2 * z.abs())
        value = torch.sign(z) * (1 - grown) / (1 + grown)
        return value, 1 - value * value
    if kind == "sigmoid":
        s = _sigmoid(z)
        return s, s * (1 - s)
    if kind == "softplus":  # documented: the identity above 20
        return _softplus(z), torch.where(z > 20, one, _sigmoid(z))
    raise ValueError(f"no such activation: {kind}")


# Their derivatives are differences of terms of size 1: next to zero, little of them is exact.
CANCELLING = frozenset(("tanh", "sigmoid", "silu", "gelu"))
KINKED = frozenset(("relu", "leaky_relu"))  # the derivative jumps at zero


@dataclass
class Expected:
    """What the oracle expects of one forward and backward.

    output (batch, width) and loss: float64; gradients: by name, float64, only of
    parameters that must get one; magnitudes: beside each gradient; both also hold
    INPUTS, where the input would get a gradient if it required one; condition: how
    much the norms may amplify rounding (>= 1); margin: the smallest distance of a
    kinked unit's input from its kink, relative to the size of its terms.
    """

    output: torch.Tensor
    loss: float
    gradients: Dict[str, torch.Tensor]
    magnitudes: Dict[str, torch.Tensor]
    condition: float
    margin: float


@dataclass
class _Step:
    """What backward needs of one layer's forward."""

    taken: torch.Tensor
    taken_size: torch.Tensor
    derivative: torch.Tensor
    derivative_size: torch.Tensor
    normalized: Optional[torch.Tensor] = None
    spread: Optional[torch.Tensor] = None
    fixed: bool = False  # the statistics are no function of the input


def expect(
    mlp: MLP,
    values: Mapping[str, torch.Tensor],
    inputs: torch.Tensor,
    targets: torch.Tensor,
    *,
    frozen: FrozenSet[str] = frozenset(),
    cuts: Tuple[int, ...] = (),
    cut_by: str = "detach",
    statistics: Optional[Mapping[str, torch.Tensor]] = None,
) -> Expected:
    """The output, loss and gradients of the mean squared error.

    values: the parameters' current values by name; inputs (batch, inputs) and
    targets (batch, last width): any real dtype, taken to float64; statistics: the
    buffers by name, in eval mode; None: train mode.
    """
    with torch.no_grad():
        weights = {name: as_float64(value) for name, value in values.items()}
        kept = None if statistics is None else {n: as_float64(v) for n, v in statistics.items()}
        data = as_float64(inputs), as_float64(targets)
        return _expect(mlp, weights, *data, frozen, frozenset(cuts), cut_by, kept)


def _expect(
    mlp: MLP,
    weights: Mapping[str, torch.Tensor],
    inputs: torch.Tensor,
    targets: torch.Tensor,
    frozen: FrozenSet[str],
    cuts: FrozenSet[int],
    cut_by: str,
    statistics: Optional[Mapping[str, torch.Tensor]],
) -> Expected:
    names = mlp.parameters_by_layer()
    steps: List[_Step] = []
    at = [inputs]
    sizes = [inputs.abs()]  # of what each position was summed from: its rounding errors go by that
    condition, margin = 1.0, math.inf
    for index, layer in enumerate(mlp.layers):
        own = list(names[index])
        weight = weights[own.pop(0)]
        terms = product(at[-1].abs(), weight.abs().t())
        z = product(at[-1], weight.t())
        if layer.bias:
            bias = weights[own.pop(0)]
            z = z + bias
            terms = terms + bias.abs()
        normalized = spread = None
        fixed = False
        if layer.norm != "none":
            axis = 1 if layer.norm == "layer" else 0
            fixed = statistics is not None and layer.norm == "batch"
            if fixed:
                assert statistics is not None
                norm = f"{mlp.prefix(index)}.norm"
                centred = z - statistics[f"{norm}.running_mean"]
                spread = (statistics[f"{norm}.running_var"] + BATCH_NORM_EPS).sqrt().view(1, -1)
                terms = terms + statistics[f"{norm}.running_mean"].abs()
            else:
                centred = z - z.mean(axis, keepdim=True)
                spread = (centred.pow(2).mean(axis, keepdim=True) + LAYER_NORM_EPS).sqrt()
            condition *= max(1.0, float((terms.mean(axis, keepdim=True) / spread).max()))
            normalized = centred / spread
            terms = normalized.abs() * weights[own[0]].abs() + weights[own[1]].abs()
            z = normalized * weights[own[0]] + weights[own[1]]
        if layer.activation in KINKED:
            # a sum of nothing but zeros is exact, however near its kink
            nearness = torch.where(terms > 0, z.abs() / terms, terms + math.inf)
            margin = min(margin, float(nearness.min()))
        value, derivative = activate(layer.activation, z)
        steep = derivative.abs() + (1 / 16 if layer.activation in CANCELLING else 0)
        steps.append(_Step(at[-1], sizes[-1], derivative, steep, normalized, spread, fixed))
        size = torch.maximum(value.abs(), terms * derivative.abs())
        sizes.append(size + at[-layer.skip].abs() if layer.skip else size)
        at.append(value + at[-layer.skip] if layer.skip else value)
    error = at[-1] - targets
    loss = float(error.pow(2).mean())
    magnitude = (sizes[-1] + targets.abs()) * (2 / error.numel())
    gradients, magnitudes = _backward(
        mlp, weights, steps, (error * (2 / error.numel()), magnitude), cuts, cut_by
    )
    wanted = (mlp.reached(cuts, cut_by) - frozen) | ({INPUTS} & gradients.keys())
    return Expected(
        output=at[-1],
        loss=loss,
        gradients={name: gradients[name] for name in wanted},
        magnitudes={name: magnitudes[name] for name in wanted},
        condition=condition,
        margin=margin,
    )


def _backward(
    mlp: MLP,
    weights: Mapping[str, torch.Tensor],
    steps: List[_Step],
    start: Pair,
    cuts: FrozenSet[int],
    cut_by: str,
) -> Tuple[Dict[str, torch.Tensor], Dict[str, torch.Tensor]]:
    names = mlp.parameters_by_layer()
    exact: Dict[str, torch.Tensor] = {}
    sizes: Dict[str, torch.Tensor] = {}

    def give(name: str, gradient: torch.Tensor, size: torch.Tensor) -> None:
        exact[name] = exact[name] + gradient if name in exact else gradient
        sizes[name] = sizes[name] + size if name in sizes else size

    arriving: List[Optional[Pair]] = [None] * (mlp.depth + 1)

    def arrive(position: int, pair: Pair) -> None:
        old = arriving[position]
        arriving[position] = pair if old is None else (old[0] + pair[0], old[1] + pair[1])

    blocked = max(cuts, default=0) if cut_by == "no_grad" else 0
    if mlp.depth not in cuts:
        arrive(mlp.depth, start)
    for index in reversed(range(blocked, mlp.depth)):
        pair = arriving[index + 1]
        if pair is None:
            continue
        layer, step = mlp.layers[index], steps[index]
        own = list(names[index])
        weight_name = own.pop(0)
        bias_name = own.pop(0) if layer.bias else None
        if layer.skip:
            arrive(index + 1 - layer.skip, pair)
        g, m = pair[0] * step.derivative, pair[1] * step.derivative_size
        if step.normalized is not None and step.spread is not None:
            axis = 1 if layer.norm == "layer" else 0
            hat, gamma = step.normalized, weights[own[0]]
            give(own[0], (g * hat).sum(0), (m * (hat.abs() + 1)).sum(0))
            give(own[1], g.sum(0), m.sum(0))
            g, m = g * gamma, m * gamma.abs()
            if not step.fixed:
                g = g - g.mean(axis, keepdim=True) - hat * (g * hat).mean(axis, keepdim=True)
                m = (
                    m
                    + m.mean(axis, keepdim=True)
                    + (hat.abs() + 1) * (m * (hat.abs() + 1)).mean(axis, keepdim=True)
                )
            g, m = g / step.spread, m / step.spread
        give(weight_name, product(g.t(), step.taken), product(m.t(), step.taken_size))
        if bias_name is not None:
            give(bias_name, g.sum(0), m.sum(0))
        if index not in cuts:
            weight = weights[weight_name]
            arrive(index, (product(g, weight), product(m, weight.abs())))
    at_inputs = arriving[0]
    if at_inputs is not None:
        give(INPUTS, *at_inputs)
    return exact, sizes


def normalize(
    kind: str, value: torch.Tensor, upstream: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> Dict[str, Pair]:
    """A norm alone, in train mode: output and gradients, each beside its magnitude.

    kind: "layer" or "batch"; value, upstream: (rows, width); weight, bias: (width,); float64.
    """
    axis = 1 if kind == "layer" else 0
    centred = value - value.mean(axis, keepdim=True)
    spread = (centred.pow(2).mean(axis, keepdim=True) + LAYER_NORM_EPS).sqrt()
    hat, slope = centred / spread, upstream * weight
    # torch 1.8 takes the variance as a difference of two means, which may all but cancel
    lost = (value.pow(2).mean(axis, keepdim=True) / spread.pow(2)).clamp(min=1)
    size = slope.abs() + slope.abs().mean(axis, keepdim=True)
    size = size + hat.abs() * (slope * hat).abs().mean(axis, keepdim=True)
    inner = slope - slope.mean(axis, keepdim=True) - hat * (slope * hat).mean(axis, keepdim=True)
    each = upstream * hat
    return {
        "output": (hat * weight + bias, lost * (hat.abs() * weight.abs() + bias.abs())),
        "input": (inner / spread, lost * size / spread),
        "weight": (each.sum(0), (lost * (each.abs() + upstream.abs())).sum(0)),
        "bias": (upstream.sum(0), upstream.abs().sum(0)),
    }


# Rounding of the run under test, as a multiple of the magnitude: unit roundoff
# times a generous count of roundings on the longest path. Seen in random nets: at most
# a twenty-fifth of it in float32 and float64, a seventh in bfloat16 and float16.
ROUNDINGS = {torch.float64: 4000.0, torch.float32: 1000.0, torch.bfloat16: 16.0, torch.float16: 40.0}


def gradient_tolerance(dtype: torch.dtype, expected: Expected, name: str) -> Optional[torch.Tensor]:
    """The largest error allowed in each element; None where no bound says anything.

    No bound: a kinked unit sits so close to its kink that rounding decides its side.
    """
    unit = torch.finfo(dtype).eps * ROUNDINGS[dtype] * expected.condition
    if expected.margin < unit:
        return None
    size = expected.magnitudes[name]
    # a thousandth of the largest: errors of other elements' inputs, amplified;
    # and what vanishes below the smallest number (in float16 that is soon)
    info = torch.finfo(dtype)
    return unit * (size + 1e-3 * size.max()) + 64 * info.eps * info.tiny
