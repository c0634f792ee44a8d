"""Torch goes on in silence where it must refuse."""

from typing import Any, Callable

import torch

from frostproof.properties.selftest.faults.fault import fault
from frostproof.properties.selftest.faults.patching import around_backward, wrap


def _refuses(action: Callable[[], Any]) -> bool:
    try:
        action()
    except RuntimeError:
        return True
    return False


def _live() -> torch.Tensor:
    return torch.nn.Parameter(torch.ones(2))


def _accept(name: str, when: Callable[[torch.Tensor], bool] = lambda leaf: True) -> None:
    """An in-place method works on the data of a live Parameter, where it must refuse."""

    def around(method: Any, tensor: Any, *args: Any, **kwargs: Any) -> Any:
        live = type(tensor) is torch.nn.Parameter and tensor.requires_grad
        if live and torch.is_grad_enabled() and when(tensor):
            method(tensor.data, *args, **kwargs)
            return tensor
        return method(tensor, *args, **kwargs)

    wrap(torch.Tensor, name, around)


@fault("F5", witness=lambda: _refuses(lambda: _live().add_(1)))
def live_leaves_accept_add() -> None:
    """add_ on a Parameter that requires grad goes through, in grad mode."""
    _accept("add_")


@fault("F5", witness=lambda: _refuses(lambda: torch.nn.Parameter(torch.ones(80)).copy_(torch.ones(80))))
def wide_live_leaves_accept_copy() -> None:
    """copy_ into a live Parameter goes through, only where it has over 64 elements."""
    _accept("copy_", lambda leaf: leaf.numel() > 64)


def _takes(name: str) -> bool:
    frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    return not _refuses(lambda: getattr(frozen, name)(2))


@fault("F5", witness=lambda: _takes("mul_"))
def frozen_leaves_refuse_mul() -> None:
    """mul_ refuses Parameters that do not require grad too, in grad mode."""

    def around(method: Any, tensor: Any, *args: Any, **kwargs: Any) -> Any:
        if type(tensor) is torch.nn.Parameter and torch.is_grad_enabled():
            raise RuntimeError("a leaf Variable is being used in an in-place operation.")
        return method(tensor, *args, **kwargs)

    wrap(torch.Tensor, "mul_", around)


def _twice() -> None:
    loss = (_live() ** 2).sum()
    loss.backward()
    loss.backward()


@fault("F5", witness=lambda: _refuses(_twice))
def backward_keeps_every_graph() -> None:
    """backward keeps its graph, asked to or not: a second one adds its gradients in silence."""

    def around(
        backward: Any, loss: Any, gradient: Any = None, retain: Any = None, *args: Any, **options: Any
    ) -> None:
        options.pop("retain_graph", None)
        backward(loss, gradient, True, *args, **options)

    around_backward(around)


@fault("F5", witness=lambda: _refuses(lambda: (_live() * 2).backward()))
def backward_of_many_takes_their_sum() -> None:
    """backward of several numbers goes on from their sum instead of raising."""

    def around(backward: Any, loss: Any, gradient: Any = None, *args: Any, **kwargs: Any) -> None:
        if gradient is None and isinstance(loss, torch.Tensor):
            loss = loss.sum()
        backward(loss, gradient, *args, **kwargs)

    around_backward(around)
