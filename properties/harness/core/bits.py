"""Snapshots of a tensor's values as bytes, taken without detach, clone or autograd.

A snapshot must be right even where the operation under test is broken, so the
bytes are read from memory; only other layouts and devices go through ``copy_``.
"""

import ctypes
import math
import os
from typing import Tuple

import torch

# torch 1.8 has no views that negate or conjugate only when they are read
LAZY_VIEWS = hasattr(torch.Tensor, "is_conj") and hasattr(torch.Tensor, "is_neg")
PIECE, MANY = 2**16, 2**20  # bytes that are compared at once; differences after which counting stops


def dense_on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    """A contiguous CPU tensor of the same values; the tensor itself where it is one already."""
    if tensor.is_contiguous() and tensor.device.type == "cpu":
        if not LAZY_VIEWS or not (tensor.is_conj() or tensor.is_neg()):
            return tensor
    with torch.no_grad():
        dense = torch.empty(tuple(tensor.shape), dtype=tensor.dtype, device="cpu")
        dense.copy_(tensor)
    return dense


def read_bits(tensor: torch.Tensor) -> bytes:
    """The values of a strided tensor of any dtype, in row-major order, as bytes.

    Two tensors hold the same bits exactly where these are equal: unlike
    ``torch.equal``, NaN equals the same NaN and -0.0 differs from 0.0.
    """
    dense = dense_on_cpu(tensor)
    size = dense.numel() * dense.element_size()
    return ctypes.string_at(dense.data_ptr(), size) if size else b""


_LIBRARY = ctypes.cdll.msvcrt if os.name == "nt" else ctypes.CDLL(None)  # type: ignore[attr-defined]
_memcmp = _LIBRARY.memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t)


def has_bits(tensor: torch.Tensor, bits: bytes) -> bool:
    """``read_bits(tensor) == bits``, without copying them."""
    dense = dense_on_cpu(tensor)
    size = dense.numel() * dense.element_size()
    return size == len(bits) and (not size or _memcmp(dense.data_ptr(), bits, size) == 0)


def from_bits(bits: bytes, shape: Tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A new CPU tensor that holds these bytes: the inverse of ``read_bits``."""
    tensor = torch.empty(shape, dtype=dtype)
    size = tensor.numel() * tensor.element_size()
    if size != len(bits):
        raise ValueError(f"{len(bits)} bytes do not fill a {dtype} tensor of shape {shape}")
    if size:
        ctypes.memmove(tensor.data_ptr(), bits, size)
    return tensor


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
    one, two = (
        from_bits(bits[first * size : (first + 1) * size], (), like.dtype).tolist()
        for bits in (before, after)
    )
    text = f"element {tuple(reversed(place))}: {one!r} became {two!r}"
    if isinstance(one, float) and isinstance(two, float) and math.isclose(one, two, rel_tol=1e-6):
        words = [
            int.from_bytes(bits[first * size : (first + 1) * size], "little")
            for bits in (before, after)
        ]
        text += f" (bits {words[0]:#x} and {words[1]:#x})"
    least = "at least " if count > MANY else ""
    return f"{text}; {least}{count} of {len(before) // size} elements differ"
