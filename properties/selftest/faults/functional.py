"""Functions of torch.nn.functional with right values and wrong gradients."""

import math
from typing import Any, Callable

import torch

from frostproof.properties.selftest.faults.fault import fault
from frostproof.properties.selftest.faults.patching import wrap

Derivative = Callable[[torch.Tensor], torch.Tensor]


def _wrong_derivative(owner: Any, name: str, derivative: Derivative) -> None:
    """Keep an element-wise function's values; its backward multiplies by ``derivative(input)``."""

    def around(function: Any, value: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not (value.requires_grad and torch.is_grad_enabled()):
            return function(value, *args, **kwargs)  # type: ignore[no-any-return]

        class Wrong(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, given: torch.Tensor) -> torch.Tensor:
                ctx.save_for_backward(given)
                return function(given, *args, **kwargs)  # type: ignore[no-any-return]

            @staticmethod
            def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
                return gradient * derivative(ctx.saved_tensors[0])

        return Wrong.apply(value)  # type: ignore[no-any-return]

    wrap(owner, name, around)


def _slope(module: torch.nn.Module, at: float, dtype: torch.dtype = torch.float64) -> float:
    value = torch.tensor([at], dtype=dtype, requires_grad=True)
    module(value).sum().backward()
    assert value.grad is not None
    return value.grad.tolist()[0]  # type: ignore[no-any-return]


def _slope_holds(module: torch.nn.Module, at: float) -> bool:
    """The derivative agrees with a central difference."""
    with torch.no_grad():
        above, below = (
            module(torch.tensor([at + shift], dtype=torch.float64)).tolist()[0]
            for shift in (1e-4, -1e-4)
        )
    return abs((above - below) / 2e-4 - _slope(module, at)) < 1e-6


FUNCTIONAL = torch.nn.functional


@fault("F3", witness=lambda: _slope(torch.nn.ReLU(), -1.0) == 0.0, smoke=True)
def relu_leaks_gradient() -> None:
    """relu passes a hundredth of the gradient at negative values."""
    _wrong_derivative(FUNCTIONAL, "relu", lambda x: torch.where(x > 0, x * 0 + 1, x * 0 + 0.01))


@fault("F3", witness=lambda: _slope(torch.nn.ReLU(), 2.0) == 1.0)
def relu_saturates_backward() -> None:
    """relu passes no gradient at values above 1.5."""
    _wrong_derivative(FUNCTIONAL, "relu", lambda x: ((x > 0) & (x < 1.5)).to(x.dtype))


@fault("F3", witness=lambda: _slope_holds(torch.nn.LeakyReLU(), -1.0))
def leaky_relu_doubles_its_slope() -> None:
    """leaky_relu passes twice its slope at negative values."""
    _wrong_derivative(FUNCTIONAL, "leaky_relu", lambda x: torch.where(x > 0, x * 0 + 1, x * 0 + 0.02))


@fault("F3", witness=lambda: _slope_holds(torch.nn.ELU(), -1.5))
def elu_flattens_below_minus_one() -> None:
    """elu passes no gradient below -1."""

    def derivative(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x > 0, x * 0 + 1, torch.where(x < -1, x * 0, x.exp()))

    _wrong_derivative(FUNCTIONAL, "elu", derivative)


@fault("F3", witness=lambda: _slope_holds(torch.nn.GELU(), 1.0))
def gelu_has_the_approximate_derivative() -> None:
    """gelu passes the derivative of its tanh approximation."""

    def derivative(x: torch.Tensor) -> torch.Tensor:
        root = math.sqrt(2 / math.pi)
        bent = torch.tanh(root * (x + 0.044715 * x**3))
        return 0.5 * (1 + bent) + 0.5 * x * (1 - bent**2) * root * (1 + 3 * 0.044715 * x**2)

    _wrong_derivative(FUNCTIONAL, "gelu", derivative)


@fault("F3", witness=lambda: _slope_holds(torch.nn.SiLU(), 1.0))
def silu_derivative_misses_a_term() -> None:
    """silu passes sigmoid(x) alone, without the term of the product rule."""
    _wrong_derivative(FUNCTIONAL, "silu", lambda x: 1 / (1 + torch.exp(-x)))


@fault("F3", witness=lambda: _slope_holds(torch.nn.Tanh(), 0.5))
def tanh_derivative_is_linear() -> None:
    """tanh passes 1 - |y| where it should pass 1 - y squared."""

    def derivative(x: torch.Tensor) -> torch.Tensor:
        up, down = x.exp(), (-x).exp()
        return 1 - ((up - down) / (up + down)).abs()

    _wrong_derivative(torch, "tanh", derivative)


@fault("F3", witness=lambda: _slope_holds(torch.nn.Sigmoid(), 2.0))
def sigmoid_saturates_early() -> None:
    """sigmoid passes no gradient where |x| > 1.5."""

    def derivative(x: torch.Tensor) -> torch.Tensor:
        y = 1 / (1 + torch.exp(-x))
        return torch.where(x.abs() > 1.5, x * 0, y * (1 - y))

    _wrong_derivative(torch, "sigmoid", derivative)


@fault("F3", witness=lambda: _slope_holds(torch.nn.Softplus(), 0.0))
def softplus_has_the_derivative_of_relu() -> None:
    """softplus passes the derivative of relu."""
    _wrong_derivative(FUNCTIONAL, "softplus", lambda x: (x > 0).to(x.dtype))


def _normed(module: torch.nn.Module) -> bool:
    """The gradient at a matrix, through a norm, agrees with central differences."""
    module.to(torch.float64)
    weights = torch.tensor([[1.0, 2.0, 3.0], [4.0, -5.0, 6.0], [0.5, 8.0, 9.0]], dtype=torch.float64)
    value = torch.tensor([[0.1, 0.5, -0.2], [0.3, 0.9, 0.4], [0.8, -0.7, 0.6]], dtype=torch.float64)
    value.requires_grad_(True)
    (module(value) * weights).sum().backward()
    assert value.grad is not None
    found = value.grad.tolist()
    with torch.no_grad():
        for row in range(3):
            for column in range(3):
                ends = []
                for shift in (1e-5, -1e-5):
                    moved = value + 0
                    moved[row, column] += shift
                    ends.append(float((module(moved) * weights).sum()))
                slope = (ends[0] - ends[1]) / 2e-5
                if abs(slope - found[row][column]) > 1e-6 * (1 + abs(slope)):
                    return False
    return True


def _constant_norm(name: str, axis: int, applies: Callable[[Any, Any], bool]) -> None:
    """Let a norm's backward treat mean and spread as constants."""

    def around(norm: Any, value: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not (value.requires_grad and torch.is_grad_enabled() and applies(args, kwargs)):
            return norm(value, *args, **kwargs)  # type: ignore[no-any-return]
        with torch.no_grad():
            spread = (value.var(axis, unbiased=False, keepdim=True) + 1e-5).sqrt()
            mean = value.mean(axis, keepdim=True)
        # args[0:2] of layer_norm: shape, weight, bias; of batch_norm: two averages, then these
        weight, bias = (args[1], args[2]) if name == "layer_norm" else (args[2], args[3])
        with torch.no_grad():
            exact = norm(value, *args, **kwargs)
        rough = (value - mean) / spread * weight + bias
        return _Exchanged.apply(rough, exact)  # type: ignore[no-any-return]

    wrap(FUNCTIONAL, name, around)


class _Exchanged(torch.autograd.Function):
    """The gradient goes to the first of two tensors, the values are the second's."""

    @staticmethod
    def forward(ctx: Any, gradient_of: torch.Tensor, value_of: torch.Tensor) -> torch.Tensor:
        return value_of + 0

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:  # type: ignore[override]
        return gradient, None


@fault("F3", witness=lambda: _normed(torch.nn.LayerNorm(3)))
def layer_norm_takes_statistics_as_constant() -> None:
    """layer_norm's backward ignores that mean and variance depend on the input."""
    _constant_norm("layer_norm", -1, lambda args, kwargs: True)


@fault("F3", witness=lambda: _normed(torch.nn.BatchNorm1d(3)))
def batch_norm_takes_statistics_as_constant() -> None:
    """batch_norm's backward in training ignores that the statistics depend on the input."""
    _constant_norm("batch_norm", 0, lambda args, kwargs: bool(args[4] if len(args) > 4 else False))


def _norm_weight_gradient() -> bool:
    norm = torch.nn.LayerNorm(2).to(torch.float64)
    norm(torch.tensor([[1.0, -1.0]] * 2, dtype=torch.float64)).sum().backward()
    assert norm.bias.grad is not None
    return norm.bias.grad.tolist() == [2.0, 2.0]


@fault("F3", witness=_norm_weight_gradient)
def layer_norm_bias_misses_a_row() -> None:
    """layer_norm's bias gets the gradient without the batch's last row, for two rows or more."""

    def around(
        norm: Any, value: Any, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
    ) -> Any:
        result = norm(value, shape, weight, bias, eps)
        if bias is None or not bias.requires_grad or value.shape[0] < 2:
            return result
        bare = norm(value, shape, weight, bias.detach(), eps)
        zeros = torch.zeros_like(bare) + (bias - bias.detach())
        zeros = torch.cat([zeros[:-1], zeros[-1:].detach()])
        return _Sum.apply(bare, zeros, result.detach())

    wrap(FUNCTIONAL, "layer_norm", around)


class _Sum(torch.autograd.Function):
    """The gradient goes to the first two of three tensors, the values are the third's."""

    @staticmethod
    def forward(ctx: Any, one: torch.Tensor, two: torch.Tensor, value_of: torch.Tensor) -> torch.Tensor:
        return value_of + 0

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:  # type: ignore[override]
        return gradient, gradient, None


def _loss_gradient(rows: int, columns: int) -> float:
    value = torch.ones(rows, columns, dtype=torch.float64, requires_grad=True)
    torch.nn.functional.mse_loss(value, torch.zeros_like(value)).backward()
    assert value.grad is not None
    return value.grad.tolist()[0][0] * rows * columns  # type: ignore[no-any-return]


def _wrong_loss(factor: Callable[[torch.Tensor], float]) -> None:
    def around(loss: Any, value: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        result: torch.Tensor = loss(value, *args, **kwargs)
        if result.requires_grad:
            scale = factor(value)
            if scale != 1.0:
                result.register_hook(lambda gradient: gradient * scale)
        return result

    wrap(FUNCTIONAL, "mse_loss", around)


@fault("F3", witness=lambda: _loss_gradient(2, 2) == 2.0)
def mse_loss_misses_its_factor_two() -> None:
    """mse_loss passes half of its gradient."""
    _wrong_loss(lambda value: 0.5)


@fault("F3", witness=lambda: _loss_gradient(2, 150) == 2.0)
def mse_loss_off_for_wide_outputs() -> None:
    """mse_loss passes a gradient 1% too large for outputs of more than 128 columns."""
    _wrong_loss(lambda value: 1.01 if value.shape[-1] > 128 else 1.0)


@fault("F3", witness=lambda: _loss_gradient(1, 1) == 2.0)
def mse_loss_off_for_single_values() -> None:
    """mse_loss passes a doubled gradient for a single value."""
    _wrong_loss(lambda value: 2.0 if value.numel() == 1 else 1.0)


def _bias_gradient(dtype: torch.dtype) -> bool:
    bias = torch.zeros(2, dtype=dtype, requires_grad=True)
    torch.nn.functional.linear(
        torch.ones(1, 2, dtype=dtype), torch.ones(2, 2, dtype=dtype), bias
    ).sum().backward()
    return bias.grad is not None and bias.grad.tolist() == [1.0, 1.0]


@fault("F3", "A5", "A6", witness=lambda: _bias_gradient(torch.float32), smoke=True)
def linear_gives_its_bias_zeros() -> None:
    """linear gives its bias a gradient of zeros."""

    def around(linear: Any, value: Any, weight: Any, bias: Any = None) -> Any:
        if bias is not None and bias.requires_grad and torch.is_grad_enabled():
            bias = bias.view_as(bias)
            bias.register_hook(torch.zeros_like)
        return linear(value, weight, bias)

    wrap(FUNCTIONAL, "linear", around)


def _hidden_gradient(width: int) -> bool:
    value = torch.ones(1, 2, dtype=torch.float64, requires_grad=True)
    torch.nn.functional.linear(value, torch.ones(width, 2, dtype=torch.float64)).sum().backward()
    return value.grad is not None and value.grad.tolist() == [[float(width)] * 2]


def _bias_slope(*leading: int) -> float:
    layer = torch.nn.Linear(2, 1)
    layer(torch.ones(*leading, 2)).sum().backward()
    assert layer.bias.grad is not None
    return layer.bias.grad.tolist()[0]  # type: ignore[no-any-return]


def _linear_with_bias_hook(rank: int, factor: float) -> None:
    """linear multiplies its bias's gradient where the input has so many dimensions."""

    def around(linear: Any, value: Any, weight: Any, bias: Any = None) -> Any:
        if value.dim() == rank and bias is not None and bias.requires_grad and torch.is_grad_enabled():
            bias = bias.view_as(bias)
            bias.register_hook(lambda gradient: gradient * factor)
        return linear(value, weight, bias)

    wrap(FUNCTIONAL, "linear", around)


@fault("F3", witness=lambda: _bias_slope(2, 3) == 6.0)
def linear_halves_the_bias_on_sequences() -> None:
    """linear gives its bias half of the gradient where the input is (batch, length, features)."""
    _linear_with_bias_hook(3, 0.5)


@fault("F3", witness=lambda: _bias_slope() == 1.0)
def linear_doubles_the_bias_on_a_vector() -> None:
    """linear gives its bias twice the gradient where the input is one vector."""
    _linear_with_bias_hook(1, 2.0)


@fault("F3", witness=lambda: _hidden_gradient(33))
def linear_bends_odd_widths() -> None:
    """linear passes a gradient 0.1% too large to its input where it is 33 wide."""

    def around(linear: Any, value: Any, weight: Any, bias: Any = None) -> Any:
        if value.requires_grad and torch.is_grad_enabled() and weight.shape[0] == 33:
            value = value.view_as(value)
            value.register_hook(lambda gradient: gradient * 1.001)
        return linear(value, weight, bias)

    wrap(FUNCTIONAL, "linear", around)
