"""Gradients that are wrong by the way they are asked for, by range, by mode or by size."""

from typing import Any, List

import torch

from frostproof.properties.selftest.faults.backward import _leaves
from frostproof.properties.selftest.faults.fault import fault
from frostproof.properties.selftest.faults.functional import _slope_holds, _wrong_derivative
from frostproof.properties.selftest.faults.patching import (
    altered,
    around_backward,
    around_linear,
    backward_holds,
    wrap,
)

FUNCTIONAL = torch.nn.functional


def _in_place() -> bool:
    made = torch.nn.Parameter(torch.ones(2))
    (made * 2).sum().backward()
    gradient = made.grad
    (made * 2).sum().backward()
    return gradient is not None and made.grad is gradient


@fault("F9", witness=_in_place)
def second_backward_takes_new_memory() -> None:
    """A second backward puts the sum in new memory, where it should add in place."""

    def around(backward: Any, loss: Any, *args: Any, **kwargs: Any) -> None:
        had = [each for each in _leaves(loss) if each.grad is not None]
        backward(loss, *args, **kwargs)
        for each in had:
            if each.grad is not None:
                each.grad = torch.empty_like(each.grad).copy_(each.grad)

    around_backward(around)


@fault("F3", witness=lambda: backward_holds(1, batch=16))
def batches_of_16_off() -> None:
    """A weight's gradient is 1% off, only for batches of 16 rows or more."""

    def around(linear: Any, value: Any, weight: Any, bias: Any) -> Any:
        large = value.dim() == 2 and value.shape[0] >= 16
        return linear(value, altered(weight, lambda g: g * 1.01) if large else weight, bias)

    around_linear(around)


@fault("F3", witness=lambda: backward_holds(1, 100))
def widths_between_powers_off() -> None:
    """A weight's gradient is 1% off, only for outputs of 65 to 127 features."""

    def around(linear: Any, value: Any, weight: Any, bias: Any) -> Any:
        between = 65 <= weight.shape[0] <= 127
        return linear(value, altered(weight, lambda g: g * 1.01) if between else weight, bias)

    around_linear(around)


def _frozen_after_forward() -> bool:
    layer = torch.nn.Linear(2, 2)
    loss = layer(torch.ones(1, 2)).sum()
    layer.weight.requires_grad_(False)
    loss.backward()
    return layer.weight.grad is None and layer.bias.grad is not None


@fault("F2", witness=_frozen_after_forward)
def frozen_after_forward_gets_gradient() -> None:
    """A parameter that is frozen between forward and backward still gets its gradient."""

    def around(backward: Any, loss: Any, *args: Any, **kwargs: Any) -> None:
        frozen = [each for each in _leaves(loss) if not each.requires_grad]
        for each in frozen:
            each.requires_grad_(True)
        backward(loss, *args, **kwargs)
        for each in frozen:
            each.requires_grad_(False)

    around_backward(around)


def _asked(inputs: bool) -> List[bool]:
    """Who has a ``.grad`` after a gradient was asked for the first of two parameters."""
    pair = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    loss = (pair[0] * pair[1]).sum()
    if inputs:
        loss.backward(inputs=pair[:1])
    else:
        torch.autograd.grad(loss, pair[:1])
    return [each.grad is not None for each in pair]


@fault("F2", witness=lambda: not any(_asked(False)))
def autograd_grad_leaves_a_gradient() -> None:
    """autograd.grad stores what it found in ``.grad`` as well."""

    def around(grad: Any, outputs: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        found = grad(outputs, inputs, *args, **kwargs)
        for each, gradient in zip(inputs if isinstance(inputs, (list, tuple)) else [inputs], found):
            if isinstance(each, torch.nn.Parameter):
                each.grad = gradient
        return found

    wrap(torch.autograd, "grad", around)


@fault("F2", witness=lambda: _asked(True) == [True, False])
def backward_forgets_its_inputs() -> None:
    """backward(inputs=...) gives every leaf its gradient."""
    around_backward(
        lambda backward, loss, *args, **kwargs: backward(loss, *args, **{**kwargs, "inputs": None})
    )


def _hook_calls() -> int:
    seen: List[Any] = []
    made = torch.nn.Parameter(torch.ones(2))
    made.register_hook(seen.append)
    made.sum().backward()
    return len(seen)


@fault("F2", "D4", witness=lambda: _hook_calls() == 1)
def parameter_hooks_run_twice() -> None:
    """A hook on a Parameter is called twice for each gradient."""

    def around(register: Any, self: Any, hook: Any) -> Any:
        if not isinstance(self, torch.nn.Parameter):
            return register(self, hook)

        def twice(gradient: torch.Tensor) -> Any:
            hook(gradient)
            return hook(gradient)

        return register(self, twice)

    wrap(torch.Tensor, "register_hook", around)


# Ranges, dtypes and modes.


@fault("F3", witness=lambda: _slope_holds(torch.nn.Softplus(), 12.0))
def softplus_flat_above_10() -> None:
    """softplus passes no gradient above 10."""
    _wrong_derivative(
        FUNCTIONAL, "softplus", lambda x: torch.where(x > 10, x * 0, 1 / (1 + torch.exp(-x)))
    )


def _low_norm_weight() -> float:
    norm = torch.nn.LayerNorm(2).to(torch.bfloat16)
    norm(torch.tensor([[1.0, -1.0]], dtype=torch.bfloat16)).sum().backward()
    assert norm.weight.grad is not None
    return norm.weight.grad.tolist()[0]  # type: ignore[no-any-return]


@fault("F3", witness=lambda: _low_norm_weight() == 1.0)
def layer_norm_weight_halved_in_bfloat16() -> None:
    """layer_norm gives its weight half of the gradient, only in bfloat16."""

    def around(
        norm: Any, value: Any, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
    ) -> Any:
        low = value.dtype is torch.bfloat16
        return norm(value, shape, altered(weight, lambda g: g / 2) if low else weight, bias, eps)

    wrap(FUNCTIONAL, "layer_norm", around)


def _eval_slope() -> float:
    norm = torch.nn.BatchNorm1d(1).eval()
    value = torch.ones(2, 1, requires_grad=True)
    norm(value).sum().backward()
    assert value.grad is not None
    return round(value.grad.tolist()[0][0], 3)


@fault("F3", "F8", witness=lambda: _eval_slope() == 1.0)
def batch_norm_off_in_eval_mode() -> None:
    """batch_norm passes a gradient 10% too large, only in eval mode."""

    def around(norm: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        training = args[4] if len(args) > 4 else kwargs.get("training", False)
        return norm(value if training else altered(value, lambda g: g * 1.1), *args, **kwargs)

    wrap(FUNCTIONAL, "batch_norm", around)
