"""Watches tensors for a change of their bits, in one copy of their bytes and no more."""

from typing import Dict, Iterator, List, Optional, Tuple

import torch

from frostproof.properties.harness.core.bits import (
    byte_count,
    dense_on_cpu,
    from_bits,
    has_bits,
    read_bits,
)

CHUNK = 2**20  # elements that are compared at once: float64 copies stay small


def readable(tensor: torch.Tensor) -> bool:
    """Whether the tensor has plain memory to read: strided, with data, no wrapper subclass."""
    if tensor.layout is not torch.strided or tensor.device.type == "meta":
        return False
    if not tensor.numel():
        return True
    try:
        return tensor.data_ptr() != 0
    except Exception:
        return False


def largest_change(tensor: torch.Tensor, bits: bytes) -> Optional[float]:
    """max |now - before| of a real tensor; None where it has none, or another size."""
    size = tensor.element_size()
    if tensor.dtype.is_complex or not tensor.numel() or tensor.numel() * size != len(bits):
        return None
    try:
        with torch.no_grad():
            flat = dense_on_cpu(tensor).reshape(-1)
            largest = 0.0
            for start in range(0, len(flat), CHUNK):
                now = flat[start : start + CHUNK]
                piece = bits[start * size : (start + len(now)) * size]
                was = from_bits(piece, tuple(now.shape), tensor.dtype)
                if tensor.dtype is not torch.float32:
                    was, now = was.to(torch.float64), now.to(torch.float64)
                gap = was.sub_(now).abs_().max()
                largest = max(largest, float(gap)) if gap == gap else float("nan")
            return largest
    except RuntimeError:  # of a quantized dtype
        return None


def pieces(*tensors: torch.Tensor) -> Iterator[Tuple[torch.Tensor, ...]]:
    """Strided tensors of one shape, flat and in pieces, so that copies of them stay small."""
    with torch.no_grad():
        flat = [dense_on_cpu(tensor).reshape(-1) for tensor in tensors]
    for start in range(0, len(flat[0]), CHUNK):
        yield tuple(each[start : start + CHUNK] for each in flat)


def _stored(tensor: torch.Tensor) -> torch.Tensor:
    """The stored values as reals: of a sparse tensor those that are not left out."""
    values = tensor.coalesce().values() if tensor.layout is torch.sparse_coo else tensor
    return torch.view_as_real(values) if values.is_complex() else values


def _reals(tensor: torch.Tensor) -> torch.Tensor:
    """The stored values, in a dtype that torch reduces on every device."""
    values = _stored(tensor)
    return values.to(torch.float32) if values.element_size() < 4 else values


def finite(tensor: torch.Tensor) -> bool:
    """Whether there is no NaN or infinity, as far as torch can say; a finite sum shows it at once."""
    if not (tensor.is_floating_point() or tensor.is_complex()) or not tensor.numel():
        return True
    try:
        with torch.no_grad():
            values = _reals(tensor)
            return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())
    except (RuntimeError, TypeError):
        return True


def magnitude(tensor: torch.Tensor) -> float:
    """The largest absolute value; 0 of an empty tensor, NaN where torch cannot say."""
    try:
        with torch.no_grad():
            values = _reals(tensor)
            return max(float(values.max()), -float(values.min())) if values.numel() else 0.0
    except (RuntimeError, TypeError):
        return float("nan")


POINTS = 4096  # values of a tensor that stand for all of them where a whole copy costs too much


def points(tensor: torch.Tensor) -> torch.Tensor:
    """At most POINTS values of a strided tensor, evenly spread, 1-D; a view where it is dense."""
    with torch.no_grad():
        flat = tensor.reshape(-1)
        return flat[:: max(1, -(-len(flat) // POINTS))] if len(flat) else flat


class Watch:
    """Remembers tensors' bytes by name, and says which have changed since.

    bits: all bytes of a tensor; few: the bytes of some of its values, with its shape and dtype.
    """

    def __init__(self) -> None:
        self.bits: Dict[str, bytes] = {}
        self.few: Dict[str, Tuple[Tuple[int, ...], torch.dtype, bytes]] = {}
        self.unreadable: List[str] = []

    def remember(self, name: str, tensor: torch.Tensor) -> None:
        """Take a tensor's bytes; one that has no plain memory is listed in ``unreadable``."""
        self.forget(name)
        if readable(tensor):
            self.bits[name] = read_bits(tensor)
        elif name not in self.unreadable:
            self.unreadable.append(name)

    def remember_few(self, name: str, tensor: torch.Tensor) -> None:
        """Take the bytes of some of a tensor's values: of one that moves again and again."""
        self.forget(name)
        if readable(tensor):
            self.few[name] = tuple(tensor.shape), tensor.dtype, read_bits(points(tensor))

    def moved(self, name: str, tensor: torch.Tensor) -> bool:
        """Whether a remembered tensor has other bits now; False for one that is not remembered."""
        if name in self.few:
            shape, dtype, bits = self.few[name]
            if tuple(tensor.shape) != shape or tensor.dtype is not dtype:
                return readable(tensor)
            return readable(tensor) and not has_bits(points(tensor), bits)
        return name in self.bits and readable(tensor) and not has_bits(tensor, self.bits[name])

    def resized(self, name: str, tensor: torch.Tensor) -> bool:
        """Whether a remembered tensor has another size or dtype now."""
        if name in self.few:
            return self.few[name][:2] != (tuple(tensor.shape), tensor.dtype)
        return byte_count(tensor) != len(self.bits.get(name, b""))

    def change(self, name: str, tensor: torch.Tensor) -> Optional[float]:
        """max |now - then| of a remembered tensor; None where it has none."""
        if name in self.few:
            return (
                None
                if self.resized(name, tensor)
                else largest_change(points(tensor), self.few[name][2])
            )
        return largest_change(tensor, self.bits[name]) if name in self.bits else None

    def forget(self, name: str) -> None:
        """Free a tensor's bytes."""
        self.bits.pop(name, None)
        self.few.pop(name, None)
