"""Backward passes that starve, block, repeat or bend gradients."""

from typing import Any, Dict, List, Optional

import torch

from frostproof.properties.selftest.faults.fault import fault
from frostproof.properties.selftest.faults.patching import (
    altered,
    around_backward,
    around_linear,
    backward_holds,
    is_frozen,
    linear_maps,
    parameter,
    wrap,
)

WIDE = 200


def _copy(tensor: Optional[torch.Tensor]) -> Optional[torch.Tensor]:
    if tensor is None:
        return None
    with torch.no_grad():
        return torch.empty_like(tensor).copy_(tensor)


# A layer is starved or blocked.


@fault("F3", "F2", witness=lambda: backward_holds(5), smoke=True)
def first_layer_starved_at_depth_5() -> None:
    """The first layer's gradient is lost (zeros), only in nets of five linear layers."""

    def around(backward: Any, loss: Any, *args: Any, **kwargs: Any) -> None:
        maps = linear_maps(loss)
        first = maps[-1] if len(maps) == 5 else []
        before = [_copy(each.grad) for each in first]
        backward(loss, *args, **kwargs)
        for each, kept in zip(first, before):
            if each.grad is not None:
                each.grad.zero_() if kept is None else each.grad.copy_(kept)

    around_backward(around)


@fault("F1", "F2", "F3", "A6", witness=lambda: backward_holds(frozen=["0.weight"]), smoke=True)
def frozen_weight_starves_its_bias() -> None:
    """A layer whose weight is frozen gives its bias no gradient."""

    def around(linear: Any, value: Any, weight: Any, bias: Any) -> Any:
        return linear(value, weight, bias.detach() if is_frozen(weight) and bias is not None else bias)

    around_linear(around)


@fault("F1", "F2", "F3", witness=lambda: backward_holds(3, frozen=["1.weight", "1.bias"]), smoke=True)
def frozen_layer_blocks_gradients() -> None:
    """A layer with everything frozen passes no gradient on to the layers before it."""

    def around(linear: Any, value: Any, weight: Any, bias: Any) -> Any:
        blocked = is_frozen(weight) and (bias is None or is_frozen(bias))
        return linear(value.detach() if blocked else value, weight, bias)

    around_linear(around)


@fault("F1", "F2", "F3", witness=lambda: backward_holds(2, frozen=["1.bias"]))
def frozen_bias_blocks_gradients() -> None:
    """A layer of which only the bias is frozen passes no gradient on."""

    def around(linear: Any, value: Any, weight: Any, bias: Any) -> Any:
        blocked = bias is not None and is_frozen(bias) and weight.requires_grad
        return linear(value.detach() if blocked else value, weight, bias)

    around_linear(around)


@fault("F1", "F2", "F3", witness=lambda: backward_holds(4, frozen=["1.weight", "2.weight", "3.weight"]))
def three_frozen_weights_block_gradients() -> None:
    """Three layers with frozen weights in a row pass no gradient on."""
    row = [0]

    def around(linear: Any, value: Any, weight: Any, bias: Any) -> Any:
        row[0] = row[0] + 1 if is_frozen(weight) and value.requires_grad else 0
        return linear(value.detach() if row[0] >= 3 else value, weight, bias)

    around_linear(around)


def _resumes() -> bool:
    layer = torch.nn.Linear(2, 2)
    layer.weight.requires_grad_(False)
    layer(torch.ones(1, 2)).sum().backward()
    layer.weight.requires_grad_(True)
    layer(torch.ones(1, 2)).sum().backward()
    return layer.weight.grad is not None


@fault("F1", "F7", witness=_resumes, smoke=True)
def unfrozen_weight_stays_starved() -> None:
    """A weight that was frozen in an earlier pass gets no gradient after unfreezing."""

    def around(linear: Any, value: Any, weight: Any, bias: Any) -> Any:
        if is_frozen(weight):
            weight.was_frozen = True
        return linear(value, weight.detach() if hasattr(weight, "was_frozen") else weight, bias)

    around_linear(around)


def _skip_gets_gradient() -> bool:
    made = torch.nn.Parameter(torch.ones(2, 2))
    other = made * 1.0
    (other * 2.0 + other).sum().backward()
    return made.grad is not None and bool((made.grad == 3).all())


@fault("F3", "K3", witness=_skip_gets_gradient)
def skip_connection_starved() -> None:
    """The sum of two matrices passes its gradient to the first only."""

    def around(add: Any, left: Any, right: Any) -> Any:
        both = isinstance(right, torch.Tensor) and right.requires_grad and left.requires_grad
        return add(left, right.detach() if both and right.dim() == 2 else right)

    wrap(torch.Tensor, "__add__", around)


@fault("F3", witness=lambda: backward_holds(1, 300))
def columns_beyond_200_starved() -> None:
    """A weight's columns beyond the two hundredth get a gradient of zero."""

    def lose(gradient: torch.Tensor) -> torch.Tensor:
        kept = gradient + 0
        kept[:, WIDE:] = 0
        return kept

    def around(linear: Any, value: Any, weight: Any, bias: Any) -> Any:
        return linear(value, altered(weight, lose) if weight.shape[1] > WIDE else weight, bias)

    around_linear(around)


def _input_gets_gradient() -> bool:
    value = torch.ones(1, 2, requires_grad=True)
    layer = torch.nn.Linear(2, 1)
    layer.weight.requires_grad_(False)
    layer(value).sum().backward()
    return value.grad is not None


@fault("F2", "F3", witness=_input_gets_gradient)
def leaf_input_starved_by_frozen_weight() -> None:
    """An input that requires grad gets no gradient through a frozen weight."""

    def around(linear: Any, value: Any, weight: Any, bias: Any) -> Any:
        return linear(value.detach() if value.is_leaf and is_frozen(weight) else value, weight, bias)

    around_linear(around)


# A gradient has a wrong value.


def _bend_one_layer(dtype: torch.dtype, relative: float) -> None:
    def around(backward: Any, loss: Any, *args: Any, **kwargs: Any) -> None:
        maps = [found for found in linear_maps(loss) if found and found[-1].dtype is dtype]
        sizes = sum(each.numel() for found in maps for each in found)
        backward(loss, *args, **kwargs)
        for each in maps[sizes % len(maps)] if maps else []:
            if each.grad is not None:
                each.grad.mul_(1 + relative)

    around_backward(around)


@fault("F3", witness=lambda: backward_holds(1, dtype=torch.float32, relative=1e-5), smoke=True)
def one_layer_off_in_float32() -> None:
    """The gradients of one layer, whichever, are off by a relative 1e-3 in float32."""
    _bend_one_layer(torch.float32, 1e-3)


@fault("F3", witness=lambda: backward_holds(1))
def one_layer_off_in_float64() -> None:
    """The gradients of one layer, whichever, are off by a relative 1e-9 in float64."""
    _bend_one_layer(torch.float64, 1e-9)


@fault("F3", witness=lambda: backward_holds(2, 3))
def float64_gradients_rounded() -> None:
    """The gradient of a float64 weight is computed in float32."""

    def rounded(gradient: torch.Tensor) -> torch.Tensor:
        return gradient.to(torch.float32).to(gradient.dtype)

    def around(linear: Any, value: Any, weight: Any, bias: Any) -> Any:
        wide = weight.dtype is torch.float64
        return linear(value, altered(weight, rounded) if wide else weight, bias)

    around_linear(around)


@fault("F3", witness=lambda: backward_holds(1, dtype=torch.bfloat16, relative=0.05))
def bfloat16_gradients_halved() -> None:
    """The gradient of a bfloat16 weight is half of what it should be."""

    def around(linear: Any, value: Any, weight: Any, bias: Any) -> Any:
        narrow = weight.dtype is torch.bfloat16
        return linear(value, altered(weight, lambda g: g * 0.5) if narrow else weight, bias)

    around_linear(around)


@fault("F3", witness=lambda: backward_holds(1, 3))
def square_weights_get_transposed_gradients() -> None:
    """A square weight gets its gradient transposed."""

    def around(linear: Any, value: Any, weight: Any, bias: Any) -> Any:
        square = weight.shape[0] == weight.shape[1] > 1
        return linear(value, altered(weight, lambda g: g.t()) if square else weight, bias)

    around_linear(around)


@fault("F3", witness=lambda: backward_holds(1, batch=3))
def bias_gradient_is_the_mean() -> None:
    """A bias gets the mean over the batch where it should get the sum."""

    def around(linear: Any, value: Any, weight: Any, bias: Any) -> Any:
        return linear(value, weight, altered(bias, lambda g: g / value.shape[0]))

    around_linear(around)


@fault("F3", witness=lambda: backward_holds(1, batch=1))
def single_rows_off() -> None:
    """A weight's gradient is 1% off, only for batches of one row."""

    def around(linear: Any, value: Any, weight: Any, bias: Any) -> Any:
        single = value.dim() == 2 and value.shape[0] == 1
        return linear(value, altered(weight, lambda g: g * 1.01) if single else weight, bias)

    around_linear(around)


@fault("F3", witness=lambda: backward_holds(1, bias=False))
def weights_without_bias_off() -> None:
    """A weight's gradient is off by a relative 1e-3, only in layers without a bias."""

    def around(linear: Any, value: Any, weight: Any, bias: Any) -> Any:
        return linear(value, altered(weight, lambda g: g * 1.001) if bias is None else weight, bias)

    around_linear(around)


@fault("F3", witness=lambda: backward_holds(1, 1))
def single_weights_off() -> None:
    """A weight of one element gets its gradient with the sign flipped."""

    def around(linear: Any, value: Any, weight: Any, bias: Any) -> Any:
        return linear(value, altered(weight, lambda g: -g) if weight.numel() == 1 else weight, bias)

    around_linear(around)


@fault("F2", "F3", witness=lambda: backward_holds(2, frozen=["1.weight"], relative=1e-9))
def mask_bends_gradients() -> None:
    """A gradient that passes a frozen weight is off by a relative 1e-6."""

    def around(linear: Any, value: Any, weight: Any, bias: Any) -> Any:
        return linear(
            altered(value, lambda g: g * (1 + 1e-6)) if is_frozen(weight) else value, weight, bias
        )

    around_linear(around)


def _tied_gradient() -> bool:
    weight = torch.nn.Parameter(torch.tensor([[2.0]]))
    value = torch.ones(1, 1)
    for _ in range(2):
        value = torch.nn.functional.linear(value, weight)
    value.sum().backward()
    return weight.grad is not None and weight.grad.tolist() == [[4.0]]


@fault("F3", "F8", witness=_tied_gradient)
def tied_weight_counted_once() -> None:
    """A weight that two layers share gets the gradient of its first use only."""
    seen: Dict[str, Any] = {"weight": None}

    def around(linear: Any, value: Any, weight: Any, bias: Any) -> Any:
        again = weight is seen["weight"] and weight.requires_grad and value.grad_fn is not None
        seen["weight"] = weight
        return linear(value, weight.detach() if again else weight, bias)

    around_linear(around)


def _gradients_are_apart() -> bool:
    one, two = parameter(1.0), parameter(2.0)
    (one * two).sum().backward()
    return one.grad is not None and two.grad is not None and one.grad.tolist() == [2.0]


@fault("F3", witness=_gradients_are_apart)
def equal_shapes_share_a_gradient() -> None:
    """Two vectors of one shape are given the same gradient tensor: the second's."""

    def around(backward: Any, loss: Any, *args: Any, **kwargs: Any) -> None:
        leaves = _leaves(loss)
        backward(loss, *args, **kwargs)
        last: Dict[Any, Any] = {}
        for each in leaves:
            if each.dim() == 1 and each.grad is not None:
                each.grad = last.setdefault(each.shape, each.grad)

    around_backward(around)


def _leaves(loss: Any) -> List[torch.Tensor]:
    """Every leaf below a loss."""
    found, seen, waiting = [], set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        waiting += [after for after, _ in node.next_functions]
    return found


# Repeated backward passes.


def _at_second(change: Any, number: int) -> None:
    """At the backward that follows ``number`` others, a gradient is ``change(before, after)``."""

    def around(backward: Any, loss: Any, *args: Any, **kwargs: Any) -> None:
        leaves = [each for each in _leaves(loss) if isinstance(each, torch.nn.Parameter)]
        before = [_copy(each.grad) for each in leaves]
        backward(loss, *args, **kwargs)
        with torch.no_grad():
            for each, kept in zip(leaves, before):
                if each.grad is None or kept is None:
                    each.backwards = 1  # type: ignore[attr-defined]
                    continue
                each.backwards = getattr(each, "backwards", 1) + 1  # type: ignore[attr-defined]
                if each.backwards > number:  # type: ignore[attr-defined]
                    each.grad.copy_(change(kept, each.grad))

    around_backward(around)


@fault("F2", "F9", witness=lambda: backward_holds(times=2))
def second_backward_overwrites() -> None:
    """A second backward overwrites gradients where it should add to them."""
    _at_second(lambda before, after: after - before, 1)


@fault("F2", "F9", witness=lambda: backward_holds(times=2))
def second_backward_counts_twice() -> None:
    """A second backward adds its gradients twice."""
    _at_second(lambda before, after: after + (after - before), 1)


@fault("F9", "F3", witness=lambda: backward_holds(times=3))
def third_backward_overwrites() -> None:
    """A third backward overwrites gradients where it should add to them."""
    _at_second(lambda before, after: after - before, 2)


# Too many gradients, or none where there must be an error.


@fault("F1", "F2", "F3", witness=lambda: backward_holds(frozen=["0.weight"]))
def frozen_gets_zero_gradient() -> None:
    """A frozen weight gets a gradient of zeros instead of None."""

    def around(linear: Any, value: Any, weight: Any, bias: Any) -> Any:
        if is_frozen(weight) and weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        return linear(value, weight, bias)

    around_linear(around)


def _cut_off_has_none() -> bool:
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    net[1](net[0](torch.ones(1, 2)).detach()).sum().backward()
    return net[0].weight.grad is None


@fault("F1", "F3", "K1", witness=_cut_off_has_none)
def cut_off_gets_zero_gradient() -> None:
    """A live weight that a cut keeps from the loss gets zeros instead of None."""
    used: List[torch.Tensor] = []

    def forward(linear: Any, value: Any, weight: Any, bias: Any) -> Any:
        if isinstance(weight, torch.nn.Parameter) and weight.requires_grad:
            used.append(weight)
        return linear(value, weight, bias)

    def around(backward: Any, *args: Any, **kwargs: Any) -> None:
        backward(*args, **kwargs)
        for weight in used:
            if weight.grad is None and weight.requires_grad:
                weight.grad = torch.zeros_like(weight)
        used.clear()

    around_linear(forward)
    around_backward(around)


def _refuses() -> bool:
    try:
        torch.ones(1).sum().backward()
    except RuntimeError:
        return True
    return False


@fault("F5", "A7", witness=_refuses, smoke=True)
def silent_backward() -> None:
    """backward returns without a word where nothing requires grad."""

    def around(backward: Any, loss: Any, *args: Any, **kwargs: Any) -> None:
        if not isinstance(loss, torch.Tensor) or loss.requires_grad:
            backward(loss, *args, **kwargs)

    around_backward(around)


# A pass that changes parameters.


def _forward_keeps_frozen() -> bool:
    layer = torch.nn.Linear(1, 1)
    layer.weight.requires_grad_(False)
    before = layer.weight.tolist()
    layer(torch.ones(1, 1))
    return layer.weight.tolist() == before


@fault("F1", "F2", "A6", witness=_forward_keeps_frozen)
def forward_moves_frozen() -> None:
    """Each forward pass moves a frozen weight by a relative 1e-6."""

    def around(linear: Any, value: Any, weight: Any, bias: Any) -> Any:
        if is_frozen(weight):
            with torch.no_grad():
                weight.mul_(1 + 1e-6)
        return linear(value, weight, bias)

    around_linear(around)


def _stays_frozen() -> bool:
    layer = torch.nn.Linear(2, 2)
    layer.weight.requires_grad_(False)
    for _ in range(3):
        layer(torch.ones(1, 2)).sum().backward()
    return not layer.weight.requires_grad


@fault("F1", "A6", witness=_stays_frozen)
def third_pass_unfreezes() -> None:
    """After its third forward pass a frozen weight requires grad again."""

    def around(linear: Any, value: Any, weight: Any, bias: Any) -> Any:
        result = linear(value, weight, bias)
        if is_frozen(weight):
            weight.passes = getattr(weight, "passes", 0) + 1
            if weight.passes == 3:
                weight.requires_grad_(True)
        return result

    around_linear(around)
