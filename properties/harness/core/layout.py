"""What a tensor is besides its values: storage, strides, autograd's view of it."""

from typing import Any, Dict

import torch

from frostproof.strategies.capabilities import of_bytes
from frostproof.strategies.tensors import can_require_grad

# What may hang on a tensor: nothing, a .grad (retained, of a non-leaf), a gradient hook.
ATTACHED = ("nothing", "gradient", "hook")


def attach(tensor: torch.Tensor, what: str) -> None:
    """Give a tensor a .grad or a hook that changes nothing, where autograd allows it."""
    if what == "gradient" and can_require_grad(tensor.dtype):
        if tensor.grad_fn is not None:
            tensor.retain_grad()
        tensor.grad = of_bytes(tuple(tensor.shape), tensor.dtype, str(tensor.device))
    elif what == "hook" and tensor.requires_grad:
        tensor.register_hook(lambda gradient: None)


def storage_address(tensor: torch.Tensor) -> int:
    """The address of the tensor's storage; equal where two tensors share it."""
    # not storage_of: a program shows the calls made here; torch 1.8 has no untyped storage
    untyped = getattr(tensor, "untyped_storage", None)
    storage: Any = untyped() if untyped is not None else tensor.storage()
    # an empty storage has address 0: ask for the storage object itself
    return int(storage.data_ptr() or getattr(storage, "_cdata", 0))


def geometry(tensor: torch.Tensor) -> Dict[str, Any]:
    """Shape, strides, offset, dtype, device, layout: equal for an alias."""
    return {
        "shape": tuple(tensor.shape),
        "stride": tensor.stride(),
        "storage offset": tensor.storage_offset(),
        "dtype": tensor.dtype,
        "device": tensor.device,
        "layout": tensor.layout,
    }


def autograd_state(tensor: torch.Tensor) -> Dict[str, Any]:
    """What autograd knows of a tensor; must not change when it is detached or cloned."""
    return {
        "requires_grad": tensor.requires_grad,
        "is_leaf": tensor.is_leaf,
        "grad_fn": tensor.grad_fn,
        "version": tensor._version,
        "grad": gradient_of(tensor),
    }


def gradient_of(tensor: torch.Tensor) -> Any:
    """The .grad of a leaf, or of what retains it: torch warns of asking any other."""
    return tensor.grad if tensor.is_leaf or getattr(tensor, "retains_grad", False) else None


def overlaps(tensor: torch.Tensor) -> bool:
    """Whether two elements may share memory: a zero stride, or strides too short for the shape."""
    extents = sorted((stride, size) for stride, size in zip(tensor.stride(), tensor.shape) if size > 1)
    reach = 1
    for stride, size in extents:
        if stride < reach:
            return True
        reach = stride * size
    return False


def is_dense(tensor: torch.Tensor) -> bool:
    """Whether the elements fill their memory without gaps or overlap, in any order of axes."""
    if not tensor.numel():
        return True
    if overlaps(tensor):
        return False
    span = 1 + sum((size - 1) * stride for stride, size in zip(tensor.stride(), tensor.shape) if size)
    return tensor.numel() == span
