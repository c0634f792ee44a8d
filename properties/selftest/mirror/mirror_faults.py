"""Faults of the device "mirror" alone: ``MIRROR_FAULT=NAME``, one of FAULTS."""

import warnings
from typing import Any, Callable, Dict, List

import torch

# In mirror.cpp: those that end at one operator do so at MIRROR_FAULT_AT (default: mse_loss); in the
# one process of several that first creates the file MIRROR_FAULT_ONCE, if that is given.
FATAL = ("out of memory", "poisoned", "hangs", "crashes")
NATIVE = ("detach copies", "copy loses the last", "sign turned twice", *FATAL)
KEEP: List[Any] = []  # libraries unregister their kernels when they go


def _clone_aliases(library: Any) -> None:
    def clone(x: torch.Tensor, *, memory_format: Any = None) -> torch.Tensor:
        return x.view(x.shape) if x.is_contiguous() else torch.empty_like(x).copy_(x)

    library.impl("clone", clone, "PrivateUse1")


def _foreach_differs(library: Any) -> None:
    def addcdiv(selfs: Any, ones: Any, twos: Any, scalars: Any) -> None:
        for s, a, b, c in zip(selfs, ones, twos, scalars):
            s.addcdiv_(a, b, value=float(c) * 1.001)

    def add(selfs: Any, others: Any, *, alpha: float = 1) -> None:
        for s, o in zip(selfs, others):
            s.add_(o, alpha=alpha * 1.001)

    library.impl("_foreach_addcdiv_.ScalarList", addcdiv, "PrivateUse1")
    library.impl("_foreach_add_.List", add, "PrivateUse1")


def _number_one_wrong(library: Any) -> None:
    def off(x: torch.Tensor) -> float:
        return 1.001 if x.device.index == 1 else 1.0

    library.impl("relu", lambda x: torch.clamp_min(x, 0) * off(x), "PrivateUse1")
    library.impl("tanh", lambda x: torch.sinh(x) / torch.cosh(x) * off(x), "PrivateUse1")


def _add_skips(library: Any) -> None:
    def add(x: torch.Tensor, y: Any, *, alpha: float = 1) -> torch.Tensor:
        return torch.add(x, y, alpha=alpha, out=x) if x.dim() else x

    library.impl("add_.Tensor", add, "PrivateUse1")


def _gradient_off(library: Any) -> None:
    def backward(g: torch.Tensor, a: torch.Tensor, b: torch.Tensor, reduction: int) -> torch.Tensor:
        return 2.002 * g * (a - b) / (a.numel() if reduction == 1 else 1)

    library.impl("mse_loss_backward", backward, "PrivateUse1")


PYTHON: Dict[str, Callable[[Any], None]] = {
    "clone aliases": _clone_aliases,
    "foreach differs": _foreach_differs,
    "number 1 is wrong": _number_one_wrong,
    "in-place add skips": _add_skips,
    "gradient is off": _gradient_off,
}
FAULTS = (*NATIVE, *PYTHON)


def install(name: str) -> None:
    """Break the device. Raises ValueError for an unknown name."""
    if name not in FAULTS:
        raise ValueError(f"MIRROR_FAULT={name}: unknown; use one of {', '.join(FAULTS)}")
    if name in PYTHON:
        library = torch.library.Library("aten", "IMPL")
        KEEP.append(library)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch tells of every kernel that is replaced
            PYTHON[name](library)
