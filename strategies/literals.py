"""Numbers as text that evaluates back to the same bits."""

import math
from typing import Any, Callable

import torch

FEW = 16  # as many numbers are written out; more are drawn again by formula


def shortest(value: float, dtype: torch.dtype) -> str:
    """The shortest decimal that this dtype rounds to the same number."""
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if dtype is torch.float64 or not dtype.is_floating_point:
        return repr(value)
    target = _bits(value, dtype)
    for digits in range(1, 17):
        text = repr(float(f"{value:.{digits}g}"))
        if _bits(float(text), dtype) == target:
            return text
    return repr(value)


def _bits(value: float, dtype: torch.dtype) -> str:
    return repr(torch.tensor(value, dtype=torch.float64).to(dtype).tolist())


def nested(value: Any, write: Callable[[Any], str]) -> str:
    """Nested lists, each item written by ``write``."""
    if isinstance(value, list):
        return "[" + ", ".join(nested(item, write) for item in value) + "]"
    return write(value)


def numbers(tensor: torch.Tensor) -> str:
    """A tensor's values as nested lists of literals."""

    def write(value: Any) -> str:
        if isinstance(value, float):
            return shortest(value, tensor.dtype)
        if isinstance(value, complex):
            if value == value and 0 < abs(value.real) < math.inf and 0 < abs(value.imag) < math.inf:
                return repr(value)
            return (
                f"complex({shortest(value.real, torch.float64)}, {shortest(value.imag, torch.float64)})"
            )
        return repr(value)

    return nested(tensor.tolist(), write)
