"""Kernels of the dispatcher replaced: whoever calls the operation, from Python or C++, is hit."""

import math
import warnings
from typing import Any, Callable, List, Tuple

import torch

from frostproof.properties.selftest.faults.fault import fault
from frostproof.properties.selftest.faults.patching import backward_holds, near, trained, wrap

SINCE = (2, 0)  # kernels written in Python, for the dispatch keys used here
ATEN = torch.ops.aten
WIDE = 200

_LIBRARIES: List[Any] = []  # a library that is collected takes its kernels away


def _replace(operation: str, kernel: Callable[..., Any], key: str = "CPU") -> None:
    """Register another kernel for an operation, below autograd."""
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it overrides a kernel: it must
        library.impl(operation, kernel, key)
    _LIBRARIES.append(library)


def _fresh(tensor: torch.Tensor, memory_format: Any = torch.preserve_format) -> torch.Tensor:
    """New memory with the same values; neither detach nor clone is called."""
    return torch.empty_like(tensor, memory_format=memory_format).copy_(tensor)


# detach and clone.


def _replace_detach(kernel: Callable[..., Any]) -> None:
    """Another aten::detach. Parameter's constructor detaches, and refuses what Python has seen.

    Every result of a kernel in Python is such; so Parameters are made of an alias instead.
    """

    def new(original: Any, kind: Any, data: Any = None, requires_grad: bool = True) -> Any:
        if type(data) is not torch.Tensor:
            return original(kind, data, requires_grad)
        with torch._C._AutoDispatchBelowAutograd():
            made = data.as_subclass(kind)
        return made.requires_grad_(requires_grad)

    wrap(torch.nn.Parameter, "__new__", new)
    _replace("detach", kernel)


def _detached_shares(tensor: torch.Tensor) -> bool:
    found = tensor.detach()
    same = found.data_ptr() == tensor.data_ptr() and found.stride() == tensor.stride()
    return same and torch.detach(tensor).data_ptr() == tensor.data_ptr()


@fault("D1", "D3", "D6", witness=lambda: _detached_shares(torch.ones(300)), since=SINCE, smoke=True)
def detach_kernel_copies_wide() -> None:
    """aten::detach copies tensors of more than 200 elements."""
    _replace_detach(lambda self: _fresh(self) if self.numel() > WIDE else ATEN.alias(self))


@fault("D1", "D3", "D6", witness=lambda: _detached_shares(torch.tensor(1.0)), since=SINCE)
def detach_kernel_copies_0_dim() -> None:
    """aten::detach copies 0-dim tensors."""
    _replace_detach(lambda self: ATEN.alias(self) if self.dim() else _fresh(self))


@fault("D1", "D6", witness=lambda: _detached_shares(torch.ones(2, 3).t()), since=SINCE)
def detach_kernel_makes_contiguous() -> None:
    """aten::detach makes a contiguous copy of what is not contiguous."""

    def kernel(self: torch.Tensor) -> torch.Tensor:
        if self.layout is not torch.strided or self.is_contiguous():
            return ATEN.alias(self)  # type: ignore[no-any-return]
        return _fresh(self, torch.contiguous_format)

    _replace_detach(kernel)


@fault("D1", "D6", witness=lambda: _detached_shares(torch.ones(2, 3)[1:]), since=SINCE)
def detach_kernel_forgets_the_offset() -> None:
    """aten::detach of a view gives the start of the storage."""

    def kernel(self: torch.Tensor) -> torch.Tensor:
        if self.layout is not torch.strided or not self.storage_offset():
            return ATEN.alias(self)  # type: ignore[no-any-return]
        return torch.as_strided(self, self.shape, self.stride(), 0)

    _replace_detach(kernel)


def _clone_owns(tensor: torch.Tensor) -> bool:
    return tensor.clone().data_ptr() != tensor.data_ptr()


@fault("C1", "C4", witness=lambda: _clone_owns(torch.tensor(1.0)), since=SINCE)
def clone_kernel_aliases_0_dim() -> None:
    """aten::clone of a 0-dim tensor is an alias of it."""

    def kernel(self: torch.Tensor, *, memory_format: Any = None) -> torch.Tensor:
        if not self.dim():
            return ATEN.alias(self)  # type: ignore[no-any-return]
        return _fresh(self, memory_format or torch.preserve_format)

    _replace("clone", kernel)


@fault("C1", witness=lambda: torch.ones(2, 3).t().clone().stride() == (1, 3), since=SINCE, smoke=True)
def clone_kernel_makes_contiguous() -> None:
    """aten::clone makes everything contiguous where it was not told to."""
    _replace(
        "clone",
        lambda self, *, memory_format=None: _fresh(self, memory_format or torch.contiguous_format),
    )


def _clone_exact() -> bool:
    tensor = torch.tensor([1 / 3], dtype=torch.float64)
    return tensor.clone().tolist() == tensor.tolist()


@fault("C1", "D4", "F3", witness=_clone_exact, since=SINCE)
def clone_kernel_rounds_float64() -> None:
    """aten::clone rounds float64 to float32."""

    def kernel(self: torch.Tensor, *, memory_format: Any = None) -> torch.Tensor:
        made = _fresh(self, memory_format or torch.preserve_format)
        return made.copy_(made.to(torch.float32)) if made.dtype is torch.float64 else made

    _replace("clone", kernel)


# The backward of losses, activations and norms.


def _slope(function: Any, at: float, dtype: torch.dtype = torch.float64, size: int = 1) -> float:
    value = torch.full((size,), at, dtype=dtype, requires_grad=True)
    function(value).sum().backward()
    assert value.grad is not None
    return value.grad.tolist()[0]  # type: ignore[no-any-return]


def _loss_slope(size: int) -> float:
    return _slope(lambda value: torch.nn.functional.mse_loss(value, value.detach() * 0), 1.0, size=size)


@fault("F3", witness=lambda: near(_loss_slope(100), 2 / 100), since=SINCE)
def mse_loss_backward_kernel_off_for_many() -> None:
    """aten::mse_loss_backward is 1% off from 50 elements on."""

    def kernel(gradient: Any, value: Any, target: Any, reduction: int) -> torch.Tensor:
        factor = 2.0 / value.numel() if reduction == 1 else 2.0
        factor *= 1.01 if value.numel() >= 50 else 1.0
        return factor * (value - target) * gradient  # type: ignore[no-any-return]

    _replace("mse_loss_backward", kernel)


@fault("F3", witness=lambda: _slope(torch.relu, -1.0) == 0.0, since=SINCE, smoke=True)
def threshold_backward_kernel_leaks() -> None:
    """aten::threshold_backward, relu's backward, passes a thousandth below zero."""

    def kernel(gradient: Any, value: Any, threshold: Any) -> torch.Tensor:
        return torch.where(value > threshold, gradient, gradient * 1e-3)

    _replace("threshold_backward", kernel)


@fault("F3", witness=lambda: near(_slope(torch.tanh, 1.0), 0.41997434161402614, 1e-12), since=SINCE)
def tanh_backward_kernel_rounds_float64() -> None:
    """aten::tanh_backward computes float64 in float32."""

    def kernel(gradient: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        narrow = output.to(torch.float32) if output.dtype is torch.float64 else output
        return (gradient * (1 - narrow * narrow)).to(output.dtype)

    _replace("tanh_backward", kernel)


@fault("F3", witness=lambda: near(_slope(torch.sigmoid, 0.0, torch.float32), 0.25), since=SINCE)
def sigmoid_backward_kernel_off_in_float32() -> None:
    """aten::sigmoid_backward is off by a relative 1e-3 in float32."""

    def kernel(gradient: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        factor = 1.001 if output.dtype is torch.float32 else 1.0
        return gradient * output * (1 - output) * factor

    _replace("sigmoid_backward", kernel)


@fault(
    "F3",
    witness=lambda: near(_slope(torch.nn.functional.gelu, 2.0), 1.0852318),
    since=SINCE,
)
def gelu_backward_kernel_saturates() -> None:
    """aten::gelu_backward passes exactly 1 above 1.5, where the derivative is up to 1.13."""

    def kernel(gradient: Any, value: Any, *, approximate: str = "none") -> torch.Tensor:
        density = torch.exp(-0.5 * value * value) * 0.3989422804014327
        slope = 0.5 * (1 + torch.erf(value * 0.7071067811865476)) + value * density
        return gradient * torch.where(value > 1.5, torch.ones_like(slope), slope)

    _replace("gelu_backward", kernel)


def _layer_norm_weight() -> bool:
    norm = torch.nn.LayerNorm(2).to(torch.float64)
    norm(torch.tensor([[1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)).sum().backward()
    assert norm.weight.grad is not None
    return near(norm.weight.grad.tolist()[0], 1.0, 1e-4)


@fault("F3", witness=_layer_norm_weight, since=SINCE)
def layer_norm_backward_kernel_drops_a_row() -> None:
    """aten::native_layer_norm_backward leaves the last row of several out of the weight's gradient."""

    def kernel(
        gradient: Any,
        value: Any,
        shape: Any,
        mean: Any,
        inverse: Any,
        weight: Any,
        bias: Any,
        mask: Any,
    ) -> Tuple[Any, Any, Any]:
        unit = (value - mean) * inverse
        sloped = gradient if weight is None else gradient * weight
        centred = sloped - sloped.mean(-1, keepdim=True) - unit * (sloped * unit).mean(-1, keepdim=True)
        last = max(1, value.shape[0] - 1)
        return (
            centred * inverse if mask[0] else None,
            (gradient * unit)[:last].sum(0) if mask[1] else None,
            gradient.sum(0) if mask[2] else None,
        )

    _replace("native_layer_norm_backward", kernel)


# Products.


@fault("F3", witness=lambda: backward_holds(1, 150, 1), since=SINCE)
def mm_kernel_loses_rows() -> None:
    """aten::mm leaves rows beyond 128 at zero where the inner dimension is 1."""

    def kernel(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        made = torch.bmm(left.unsqueeze(0), right.unsqueeze(0)).squeeze(0)
        if left.shape[1] == 1:
            made[128:] = 0
        return made

    _replace("mm", kernel)


def _linear_adds_bias(rows: int, width: int) -> bool:
    value, weight = torch.ones(rows, 2), torch.ones(width, 2)
    return (
        torch.nn.functional.linear(value, weight, torch.ones(width)).tolist() == [[3.0] * width] * rows
    )


@fault("F3", witness=lambda: _linear_adds_bias(1, 3), since=SINCE)
def addmm_kernel_forgets_bias_of_one_row() -> None:
    """aten::addmm adds nothing to a product of one row and several columns."""

    def kernel(
        added: torch.Tensor, left: torch.Tensor, right: torch.Tensor, *, beta: Any = 1, alpha: Any = 1
    ) -> torch.Tensor:
        made = torch.bmm(left.unsqueeze(0), right.unsqueeze(0)).squeeze(0)
        made = made if alpha == 1 else made * alpha
        if made.shape[0] == 1 and made.shape[1] > 1:
            return made
        return made + (added if beta == 1 else added * beta)

    _replace("addmm", kernel)


# What optimizers call.


def _two_moved(optimizer: str, size: int = 1, **options: Any) -> bool:
    pair = [torch.nn.Parameter(torch.ones(size)) for _ in range(2)]
    for each in pair:
        each.grad = torch.ones(size)
    getattr(torch.optim, optimizer)(pair, lr=0.1, **options).step()
    return all(each.tolist()[0] != 1.0 for each in pair)


@fault("F3", "F4", witness=lambda: _two_moved("Adam", foreach=True), since=SINCE)
def foreach_addcdiv_kernel_skips_the_last() -> None:
    """aten::_foreach_addcdiv_ leaves the last of several tensors alone."""

    def kernel(selves: Any, ones: Any, twos: Any, scalars: Any) -> None:
        count = max(1, len(selves) - 1)
        for self, one, two, scalar in list(zip(selves, ones, twos, scalars))[:count]:
            self.add_(one / two, alpha=scalar)

    _replace("_foreach_addcdiv_.ScalarList", kernel)


@fault("F3", "F4", witness=lambda: _two_moved("SGD", 300, foreach=True), since=SINCE)
def foreach_add_kernel_skips_wide() -> None:
    """aten::_foreach_add_ leaves tensors of more than 200 elements alone."""

    def kernel(selves: Any, others: Any, *, alpha: Any = 1) -> None:
        for self, other in zip(selves, others):
            if self.numel() <= WIDE:
                self.add_(other, alpha=alpha)

    _replace("_foreach_add_.List", kernel)


@fault(
    "F3",
    "F4",
    witness=lambda: trained("AdamW", 1e-9, lr=0.1, weight_decay=0.5, eps=1.0, foreach=True)[0] < 0.96,
    since=SINCE,
)
def foreach_mul_kernel_skips_single_elements() -> None:
    """aten::_foreach_mul_ by a number leaves tensors of one element alone."""

    def kernel(selves: Any, scalar: Any) -> None:
        for self in selves:
            if self.numel() > 1:
                self.mul_(scalar)

    _replace("_foreach_mul_.Scalar", kernel)


def _zeroed() -> bool:
    pair = [torch.nn.Parameter(torch.ones(1)) for _ in range(2)]
    for each in pair:
        each.grad = torch.ones(1)
    torch.optim.SGD(pair, lr=0.1, foreach=True).zero_grad(set_to_none=False)
    return all(each.grad is not None and each.grad.tolist() == [0.0] for each in pair)


@fault("F3", "F4", "F9", witness=_zeroed, since=SINCE)
def foreach_zero_kernel_skips_the_last() -> None:
    """aten::_foreach_zero_ leaves the last of several tensors as it is."""

    def kernel(selves: Any) -> None:
        for self in selves[: max(1, len(selves) - 1)]:
            self.zero_()

    _replace("_foreach_zero_", kernel)


@fault(
    "F3",
    witness=lambda: near(
        trained("Adam", 1.0, 0.1, lr=0.1, weight_decay=0.5, fused=True)[1], 0.811464995872599
    ),
    since=(2, 4),
)
def fused_adam_kernel_decouples_decay() -> None:
    """aten::_fused_adam_ decays weights as _fused_adamw_ does."""

    def kernel(*args: Any, **kwargs: Any) -> None:
        ATEN._fused_adamw_(*args, **kwargs)

    _replace("_fused_adam_", kernel)


def _scaled(optimizer: str, gradient: float, **options: Any) -> float:
    """A value of 1.0 after a fused step of GradScaler with a scale of 4 and this scaled gradient."""
    made = torch.nn.Parameter(torch.ones(1))
    made.grad = torch.full_like(made, gradient)
    live = getattr(torch.optim, optimizer)([made], lr=0.1, fused=True, **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(torch.ones(1))
    scaler.step(live)
    return float(made.tolist()[0])


@fault("F9", witness=lambda: near(_scaled("AdamW", 4.0, eps=1.0), 0.949), since=(2, 4))
def fused_adamw_keeps_the_scale() -> None:
    """_fused_adamw_ steps with the gradient times GradScaler's scale."""

    def around(kernel: Any, *args: Any, grad_scale: Any = None, **options: Any) -> None:
        kernel(*args, grad_scale=None, **options)

    wrap(torch, "_fused_adamw_", around)


@fault("F9", witness=lambda: _scaled("Adagrad", math.inf, eps=1.0) == 1.0, since=(2, 5))
def fused_adagrad_steps_on_overflow() -> None:
    """_fused_adagrad_ takes the step although a gradient is infinite."""

    def around(kernel: Any, *args: Any, found_inf: Any = None, **options: Any) -> None:
        kernel(*args, found_inf=None, **options)

    wrap(torch, "_fused_adagrad_", around)


@fault(
    "F3",
    witness=lambda: near(
        trained("SGD", 1.0, 0.5, lr=0.1, momentum=0.9, nesterov=True, fused=True)[1], 0.634
    ),
    since=(2, 4),
    smoke=True,
)
def fused_sgd_kernel_ignores_nesterov() -> None:
    """aten::_fused_sgd_ takes plain momentum for Nesterov's."""

    def kernel(
        parameters: Any,
        gradients: Any,
        velocities: Any,
        *,
        weight_decay: float,
        momentum: float,
        lr: Any,
        dampening: float,
        nesterov: bool,
        maximize: bool,
        is_first_step: bool,
        grad_scale: Any = None,
        found_inf: Any = None,
    ) -> None:
        for place, (parameter, gradient) in enumerate(zip(parameters, gradients)):
            gradient = (-gradient if maximize else gradient) + weight_decay * parameter
            if momentum:
                velocity = velocities[place]
                velocity.mul_(0.0 if is_first_step else momentum)
                velocity.add_(gradient, alpha=1.0 if is_first_step else 1 - dampening)
                gradient = velocity
            parameter.add_(gradient, alpha=-float(lr))

    _replace("_fused_sgd_", kernel)


@fault(
    "F3",
    witness=lambda: near(
        trained("Adagrad", 1.0, 1.0, lr=0.1, lr_decay=1.0, fused=True)[1], 0.9 - 0.05 / 2**0.5
    ),
    since=(2, 5),
)
def fused_adagrad_kernel_ignores_lr_decay() -> None:
    """aten::_fused_adagrad_ ignores lr_decay."""

    def kernel(
        parameters: Any,
        gradients: Any,
        sums: Any,
        steps: Any,
        *,
        lr: Any,
        lr_decay: float,
        weight_decay: float,
        eps: float,
        maximize: bool,
        grad_scale: Any = None,
        found_inf: Any = None,
    ) -> None:
        for parameter, gradient, total in zip(parameters, gradients, sums):
            gradient = (-gradient if maximize else gradient) + weight_decay * parameter
            total.add_(gradient * gradient)
            parameter.add_(gradient / (total.sqrt() + eps), alpha=-float(lr))

    _replace("_fused_adagrad_", kernel)


@fault("F3", witness=lambda: near(trained("Adam", 0.3, lr=0.1)[0], 0.9 + 1e-8 / 3, 1e-12), since=SINCE)
def addcdiv_kernel_rounds_float64() -> None:
    """aten::addcdiv_ divides float64 in float32."""

    def kernel(self: Any, one: Any, two: Any, *, value: Any = 1) -> torch.Tensor:
        if self.dtype is torch.float64:
            one = one.to(torch.float32)
        return self.add_((one / two).to(self.dtype), alpha=value)  # type: ignore[no-any-return]

    _replace("addcdiv_", kernel)


@fault(
    "F3",
    witness=lambda: trained("Adam", 1.0, lr=0.1, betas=(0.0, 0.9), foreach=False)[0] != 1.0,
    since=SINCE,
)
def lerp_kernel_ignores_weight_one() -> None:
    """aten::lerp_ does nothing where its weight is 1, as in Adam with a first beta of 0."""

    def kernel(self: Any, end: Any, weight: Any) -> torch.Tensor:
        return self if weight == 1 else self.add_(end - self, alpha=weight)  # type: ignore[no-any-return]

    _replace("lerp_.Scalar", kernel)
