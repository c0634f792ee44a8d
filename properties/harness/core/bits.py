"""Snapshots of a tensor's values as bytes, taken without detach, clone or autograd.

A snapshot must be right even where the operation under test is broken, so the
bytes are read from memory; only other layouts and devices go through ``copy_``.
Lazy signs (the conj and neg bits) never cross between devices: CUDA's copy applies
one twice where the source has gaps, as ``z.conj().imag`` has.
"""

import ctypes
import math
import os
from typing import Any, Tuple

import torch

# torch 1.8 has no views that negate or conjugate only when they are read
LAZY_VIEWS = hasattr(torch.Tensor, "is_conj") and hasattr(torch.Tensor, "is_neg")
PIECE, MANY = 2**16, 2**20  # bytes that are compared at once; differences after which counting stops


def is_lazy(tensor: torch.Tensor) -> bool:
    """Whether the sign of the values, or of their imaginary parts, is yet to be turned."""
    return LAZY_VIEWS and (tensor.is_conj() or tensor.is_neg())


def dense_on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    """A contiguous CPU tensor of the same values; the tensor itself where it is one already."""
    lazy, near = is_lazy(tensor), tensor.device.type == "cpu"
    if near and not lazy and tensor.is_contiguous():
        return tensor
    with torch.no_grad():
        if lazy and not near:
            # torch._neg_view turns the sign without arithmetic
            turn = torch.conj if tensor.is_conj() else getattr(torch, "_neg_view", torch.neg)
            return dense_on_cpu(turn(dense_on_cpu(turn(tensor))))
        dense = torch.empty(tuple(tensor.shape), dtype=tensor.dtype, device="cpu")
        dense.copy_(tensor)
    return dense


class TurnedBits(bytes):
    """The bits of a lazy tensor on a device: where they hold a NaN, any NaN is its equal.

    What turns its sign is arithmetic of the device, and that need not keep a NaN's bits:
    NVIDIA's PTX leaves them open for neg. On the CPU they are kept.
    """


def byte_count(dense: torch.Tensor) -> int:
    """The bytes that a contiguous tensor's elements take."""
    if dense.is_quantized:
        # here: a recipe's start is not to wait for the strategies
        from frostproof.strategies import capabilities

        return capabilities.byte_count(dense)
    return dense.numel() * dense.element_size()


def read_bits(tensor: torch.Tensor) -> bytes:
    """The values of a strided tensor of any dtype, in row-major order, as bytes.

    Two tensors hold the same bits exactly where these are equal: unlike
    ``torch.equal``, NaN equals the same NaN and -0.0 differs from 0.0.
    """
    dense = dense_on_cpu(tensor)
    size = byte_count(dense)
    bits = ctypes.string_at(dense.data_ptr(), size) if size else b""
    return TurnedBits(bits) if tensor.device.type != "cpu" and is_lazy(tensor) else bits


_LIBRARY = ctypes.cdll.msvcrt if os.name == "nt" else ctypes.CDLL(None)  # type: ignore[attr-defined]
_memcmp = _LIBRARY.memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


def has_bits(tensor: torch.Tensor, bits: bytes) -> bool:
    """``read_bits(tensor) == bits``, without copying them; any NaN for those of ``TurnedBits``."""
    dense = dense_on_cpu(tensor)
    size = byte_count(dense)
    if size != len(bits):
        return False
    if not size or _memcmp(dense.data_ptr(), bits, size) == 0:
        return True
    if not isinstance(bits, TurnedBits):
        return False
    one, two = (_one_nan(each) for each in (dense, from_bits(bits, tuple(dense.shape), dense.dtype)))
    return _memcmp(one.data_ptr(), two.data_ptr(), size) == 0


def _one_nan(dense: torch.Tensor) -> torch.Tensor:
    """A copy in which every NaN, also of a real or imaginary part, is the same."""
    with torch.no_grad():
        copied = torch.empty(tuple(dense.shape), dtype=dense.dtype).copy_(dense)
        parts = torch.view_as_real(copied) if copied.is_complex() else copied
        parts[parts != parts] = float("nan")
    return copied


def from_bits(bits: bytes, shape: Tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A new CPU tensor that holds these bytes: the inverse of ``read_bits``."""
    tensor = torch.empty(shape, dtype=dtype)
    size = byte_count(tensor)
    if size != len(bits):
        raise ValueError(f"{len(bits)} bytes do not fill a {dtype} tensor of shape {shape}")
    if size:
        ctypes.memmove(tensor.data_ptr(), bits, size)
    return tensor


def _value(bits: bytes, dtype: torch.dtype) -> Any:
    """One element as a number, which is its bits where torch makes no number of the dtype."""
    try:
        return from_bits(bits, (), dtype).tolist()
    except (RuntimeError, TypeError):
        return int.from_bytes(bits, "little")


def describe_difference(before: bytes, after: bytes, like: torch.Tensor) -> str:
    """Where two snapshots of one tensor first differ, in values and, if tiny, in bits."""
    if len(before) != len(after):
        return f"{len(before)} bytes became {len(after)}"
    size = like.element_size()
    first, count = -1, 0
    for start in range(0, len(before), PIECE):
        end = min(start + PIECE, len(before))
        if before[start:end] == after[start:end]:
            continue
        for index in range(start // size, end // size):
            if before[index * size : (index + 1) * size] != after[index * size : (index + 1) * size]:
                first = index if first < 0 else first
                count += 1
        if count > MANY:
            break
    if first < 0:
        return "no difference"
    place = []
    rest = first
    for extent in reversed(tuple(like.shape)):
        place.append(rest % extent)
        rest //= extent
    one, two = (_value(bits[first * size : (first + 1) * size], like.dtype) for bits in (before, after))
    text = f"element {tuple(reversed(place))}: {one!r} became {two!r}"
    if isinstance(one, float) and isinstance(two, float) and math.isclose(one, two, rel_tol=1e-6):
        words = [
            int.from_bytes(bits[first * size : (first + 1) * size], "little")
            for bits in (before, after)
        ]
        text += f" (bits {words[0]:#x} and {words[1]:#x})"
    least = "at least " if count > MANY else ""
    return f"{text}; {least}{count} of {len(before) // size} elements differ"
