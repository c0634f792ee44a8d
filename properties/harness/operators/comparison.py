"""How two results are compared: bits first, then a bound on rounding, relative to the norm."""

import torch

from frostproof.properties.harness.core.bits import read_bits
from frostproof.strategies.capabilities import storage_of

# How many roundings a result may be off by, relative to its largest element: kernels of one
# operator sum in different orders, up to some hundred terms; fewer of low precision, which
# kernels sum in float32.
ROUNDINGS = 256.0
FEWER = 12.0
SAME, ROUNDED = "same", "rounded"


def bound(dtype: torch.dtype) -> float:
    """The largest error that is rounding, relative to the largest element."""
    eps = torch.finfo(dtype).eps
    return (ROUNDINGS if eps < 1e-4 else FEWER) * eps


def difference(actual: torch.Tensor, expected: torch.Tensor, scale: float = 0.0) -> str:
    """SAME, ROUNDED, or a sentence on what differs.

    scale: a size that errors may be relative to, where it is larger than the expected values
    (of terms that cancel in them).
    """
    if actual.dtype is not expected.dtype:
        return f"dtype {actual.dtype}, not {expected.dtype}"
    if actual.shape != expected.shape:
        return f"shape {tuple(actual.shape)}, not {tuple(expected.shape)}"
    actual, expected = dense(actual), dense(expected)
    if read_bits(actual) == read_bits(expected):
        return SAME
    if not (expected.is_floating_point() or expected.is_complex()):
        return f"{shown(actual)}, not {shown(expected)}"
    one, two = wide(actual), wide(expected)
    finite = torch.isfinite(two)
    odd = ~finite
    if bool((torch.isfinite(one) != finite).any()) or (
        bool(odd.any())
        and not torch.equal(torch.nan_to_num(one[odd], 7.0), torch.nan_to_num(two[odd], 7.0))
    ):
        return f"{shown(actual)}, not {shown(expected)}"
    gap = (one - two)[finite].abs().max() if bool(finite.any()) else torch.zeros(())
    largest = max(float(two[finite].abs().max()) if bool(finite.any()) else 0.0, scale)
    if float(gap) <= bound(expected.dtype) * largest:
        return ROUNDED
    return f"{shown(actual)}, not {shown(expected)}"


def dense(tensor: torch.Tensor) -> torch.Tensor:
    """A sparse gradient, or one without memory, as a dense one."""
    if tensor.layout is not torch.strided:
        return tensor.detach().to_dense()
    return tensor.detach().clone() if no_memory(tensor) else tensor.detach()


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """The values in float64; a complex number as two."""
    tensor = tensor.detach()
    if tensor.is_complex():
        if hasattr(tensor, "resolve_conj"):  # not on torch 1.8
            tensor = tensor.resolve_conj().resolve_neg()
        tensor = torch.view_as_real(tensor)
    return tensor.to("cpu", torch.float64)


def shown(tensor: torch.Tensor) -> str:
    """A few of its values."""
    values = tensor.detach().flatten()[:4].tolist()
    return f"{values}{'...' if tensor.numel() > 4 else ''}"


def inner(left: torch.Tensor, right: torch.Tensor) -> float:
    """The real inner product in float64."""
    return float((wide(dense(left)) * wide(dense(right))).sum())


def overlap(one: torch.Tensor, two: torch.Tensor) -> bool:
    """Whether two strided tensors share a byte of memory, by the span of their elements."""
    if no_memory(one) or no_memory(two):
        return False
    if one.device != two.device or not one.numel() or not two.numel():
        return False
    first, second = span(one), span(two)
    return first[0] < second[1] and second[0] < first[1] and storage(one) == storage(two)


def no_memory(tensor: torch.Tensor) -> bool:
    """Whether it is sparse, or torch's stand-in for zeros, which has no memory."""
    zero = getattr(tensor, "_is_zerotensor", None)
    return tensor.layout is not torch.strided or (zero is not None and bool(zero()))


def storage(tensor: torch.Tensor) -> int:
    """Where the memory of a tensor begins."""
    return int(storage_of(tensor).data_ptr())


def span(tensor: torch.Tensor) -> "tuple[int, int]":
    """The addresses of its first byte, and of the one after its last."""
    reach = sum((size - 1) * abs(step) for size, step in zip(tensor.shape, tensor.stride()))
    start = tensor.data_ptr()
    return start, start + (reach + 1) * tensor.element_size()
