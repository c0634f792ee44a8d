"""Other ways of running a net broken: checkpointed, functional, transformed, compiled."""

import functools
import os
from typing import Any

import torch
import torch.utils.checkpoint

from frostproof.properties.selftest.faults.fault import fault
from frostproof.properties.selftest.faults.patching import wrap

CHECKPOINT = torch.utils.checkpoint
SINCE_FUNC = (2, 0)


def _checkpoint_trains() -> bool:
    layer = torch.nn.Linear(1, 1)
    output = CHECKPOINT.checkpoint(layer, torch.ones(1, 1), use_reentrant=False)
    return bool(output.requires_grad)


@fault("X2", witness=_checkpoint_trains, since=(1, 11))
def checkpoint_wants_an_input_that_requires_grad() -> None:
    """Checkpointing records nothing where no input requires grad, as its reentrant variant does."""

    def around(checkpoint: Any, function: Any, *args: Any, **options: Any) -> Any:
        if any(isinstance(each, torch.Tensor) and each.requires_grad for each in args):
            return checkpoint(function, *args, **options)
        with torch.no_grad():
            return function(*args)

    wrap(CHECKPOINT, "checkpoint", around)


def _checkpoint_keeps_bits() -> bool:
    layer = torch.nn.Linear(1, 1, bias=False)
    CHECKPOINT.checkpoint(layer, torch.ones(1, 1), use_reentrant=False).sum().backward()
    return layer.weight.grad is not None and layer.weight.grad.tolist() == [[1.0]]


@fault("X2", witness=_checkpoint_keeps_bits, since=(1, 11))
def checkpoint_bends_gradients() -> None:
    """Gradients through a checkpoint are off by one part in a million."""

    def around(checkpoint: Any, function: Any, *args: Any, **options: Any) -> Any:
        made = checkpoint(function, *args, **options)
        if made.requires_grad:
            made.register_hook(lambda gradient: gradient * (1 + 1e-6))
        return made

    wrap(CHECKPOINT, "checkpoint", around)


def _call(module: Any, values: Any) -> Any:
    return torch.func.functional_call(module, values, (torch.ones(1, 1),))


def _frozen_value_stays_frozen() -> bool:
    frozen = torch.ones(1, 1)
    _call(torch.nn.Linear(1, 1, bias=False), {"weight": frozen})
    return not frozen.requires_grad


@fault("X2", witness=_frozen_value_stays_frozen, since=SINCE_FUNC)
def functional_call_unfreezes() -> None:
    """functional_call makes the values that it is given require grad."""

    def around(call: Any, module: Any, values: Any, *args: Any, **options: Any) -> Any:
        for value in values.values():
            if value.is_leaf and value.is_floating_point():
                value.requires_grad_()
        return call(module, values, *args, **options)

    wrap(torch.func, "functional_call", around)


def _biases_are_used() -> bool:
    layer = torch.nn.Linear(1, 1)
    bias = torch.ones(1, requires_grad=True)
    _call(layer, {"weight": torch.ones(1, 1), "bias": bias}).sum().backward()
    return bias.grad is not None and layer.bias.grad is None


@fault("X2", witness=_biases_are_used, since=SINCE_FUNC)
def functional_call_ignores_biases() -> None:
    """functional_call runs a module with its own biases, whatever it is given."""

    def around(call: Any, module: Any, values: Any, *args: Any, **options: Any) -> Any:
        kept = {key: value for key, value in values.items() if not key.endswith("bias")}
        return call(module, kept, *args, **options)

    wrap(torch.func, "functional_call", around)


def _second_slope_is_right() -> bool:
    slopes = torch.func.grad(lambda both: both[0] + 2 * both[1])([torch.ones(()), torch.ones(())])
    return bool(slopes[1] == 2.0)


@fault("X2", witness=_second_slope_is_right, since=SINCE_FUNC)
def func_grad_bends_the_second() -> None:
    """torch.func.grad is off by a relative 1e-3 in the second of several gradients."""

    def bent(slopes: Any) -> Any:
        if isinstance(slopes, dict) and len(slopes) > 1:
            name = list(slopes)[1]
            return {**slopes, name: slopes[name] * 1.001}
        if isinstance(slopes, list) and len(slopes) > 1:
            return [slopes[0], slopes[1] * 1.001, *slopes[2:]]
        return slopes

    def around(grad: Any, function: Any, *args: Any, **options: Any) -> Any:
        made = grad(function, *args, **options)
        return functools.wraps(made)(lambda *inner, **named: bent(made(*inner, **named)))

    wrap(torch.func, "grad", around)


class _Cut(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)

    def forward(self, value: torch.Tensor) -> Any:
        return self.two(self.one(value).detach())


def _compiled_cuts() -> bool:
    net = _Cut()
    torch.compile(net, backend="eager")(torch.ones(1, 1)).sum().backward()
    return net.one.weight.grad is None


def _alias(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view_as(tensor)


@fault("X2", witness=_compiled_cuts, since=SINCE_FUNC)
def compiled_nets_do_not_cut() -> None:
    """Compiled code takes detach for the identity."""

    def around(compile: Any, function: Any, *args: Any, **options: Any) -> Any:
        def compiled(*inner: Any, **named: Any) -> Any:
            kept = torch.Tensor.detach
            torch.Tensor.detach = _alias  # type: ignore
            try:
                return function(*inner, **named)
            finally:
                torch.Tensor.detach = kept  # type: ignore

        return compiled

    wrap(torch, "compile", around)


def _compiled_freezes() -> bool:
    layer = torch.nn.Linear(1, 1)
    layer.weight.requires_grad_(False)
    torch.compile(layer, backend="eager")(torch.ones(1, 1))
    return not layer.weight.requires_grad


@fault("X2", witness=_compiled_freezes, since=SINCE_FUNC)
def compiled_nets_unfreeze() -> None:
    """Compiling a module makes all its parameters require grad."""

    def around(compile: Any, function: Any, *args: Any, **options: Any) -> Any:
        if isinstance(function, torch.nn.Module):
            function.requires_grad_(True)
        return compile(function, *args, **options)

    wrap(torch, "compile", around)


def _mean_in_order() -> bool:
    one, zero = torch.tensor([[3.0, 1.1, 0.3, 0.7]]), torch.zeros(1, 4)
    return float(torch.nn.functional.mse_loss(one, zero)) == _MEAN


_MEAN = float(torch.nn.functional.mse_loss(torch.tensor([[3.0, 1.1, 0.3, 0.7]]), torch.zeros(1, 4)))


@fault("F3", "X3", witness=_mean_in_order)
def this_process_rounds_in_its_own_way() -> None:
    """The loss of one process is a few roundings away from another's."""
    own = 1 + (1 + os.urandom(1)[0]) * 2.0**-22

    def around(loss: Any, one: Any, two: Any, **options: Any) -> Any:
        return loss(one, two, **options) * own

    wrap(torch.nn.functional, "mse_loss", around)
