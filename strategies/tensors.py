"""Random tensors of every dtype, layout and kind, drawn as plain descriptions."""

import ctypes
import math
from dataclasses import dataclass
from functools import cache
from typing import Tuple

import torch
from hypothesis import strategies as st

from frostproof.strategies.capabilities import byte_count, lack, require
from frostproof.strategies.digits import Digits, read_as
from frostproof.strategies.tensor_code import tensor_code

# Small shapes first, so that an index shrinks towards one element without axes.
# The last few reach faults that depend on size; a zero extent holds no element.
TENSOR_SHAPES: Tuple[Tuple[int, ...], ...] = (
    (),
    (1,),
    (2,),
    (5,),
    (2, 3),
    (3, 1),
    (4, 4),
    (2, 3, 4),
    (2, 3, 2, 2),
    (1, 2, 3, 3),
    (2, 2, 2, 2, 2),
    (2, 3, 2, 1, 3),
    (0,),
    (2, 0, 3),
    (33,),
    (300,),
    (1025,),
    (17, 67),
    (70, 80),
    (70001,),
)
TENSOR_LAYOUTS = (
    "contiguous",
    "offset",  # a slice that begins inside a larger storage
    "strided",  # every second element
    "transposed",
    "expanded",  # strides of zero
    "overlapping",  # windows that share elements
    "channels_last",  # 4 and 5 dimensions
    "lazy",  # a conjugate or negative that is not computed yet, of dtypes that have one
)
TENSOR_KINDS = ("leaf", "requires_grad", "parameter", "non_leaf", "view", "frozen")
SPECIALS = ("ordinary", "mixed")


@cache
def all_dtypes() -> Tuple[str, ...]:
    """Names of every dtype of this torch that can be allocated and copied, sorted.

    Quantized dtypes, and most of those smaller than a byte, cannot.
    """
    found = set()
    for value in vars(torch).values():
        if isinstance(value, torch.dtype) and not lack("copy", "cpu", value):
            found.add(str(value).rpartition(".")[2])
    return tuple(sorted(found))


def real_of(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which the parts of a complex tensor are drawn."""
    return torch.float64 if dtype is torch.complex128 else torch.float32


def _holds_floats(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point and not lack("convert", "cpu", dtype)


def can_require_grad(dtype: torch.dtype) -> bool:
    """Floating and complex dtypes can; 8-bit floats can too, but have no arithmetic."""
    wide = dtype.is_complex or torch.empty(0, dtype=dtype).element_size() > 1
    return (dtype.is_floating_point or dtype.is_complex) and wide


@dataclass(frozen=True)
class TensorSpec:
    """A tensor as plain values; its device and dtype are given when it is built.

    shape: before the layout is applied, which may turn or repeat it; layout: one of
    TENSOR_LAYOUTS; kind: one of TENSOR_KINDS ("frozen": a Parameter that does not require grad), where
    a dtype that cannot require grad gives a plain leaf; special: "mixed" puts infinities,
    NaN, -0.0 and subnormals among the values.
    """

    shape: Tuple[int, ...] = ()
    layout: str = "contiguous"
    kind: str = "leaf"
    special: str = "ordinary"
    seed: int = 0

    def _put_odd(self, tensor: torch.Tensor) -> None:
        """Write infinities, NaN, -0.0 and subnormals to every second place of the first 50."""
        tiny, count = torch.finfo(tensor.dtype).tiny, tensor.numel()
        odd = (float("inf"), -0.0, float("nan"), -float("inf"), tiny / 4, -tiny / 4)
        for index in range(0, count if count < 50 else 50, 2):
            tensor[index] = odd[(index // 2 + self.seed) % len(odd)]

    def _numbers(self, shape: Tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        generator = torch.Generator()
        generator.manual_seed(self.seed)
        count = 1
        for extent in shape:
            count *= extent
        tensor = torch.empty(count, dtype=dtype)
        if dtype is torch.bool:
            tensor = torch.rand(count, generator=generator) > 0.5
        elif dtype.is_complex and not lack("convert", "cpu", dtype):
            parts = torch.rand(2, count, generator=generator, dtype=real_of(dtype)) * 4 - 2
            if self.special == "mixed":
                self._put_odd(parts[0])
                self._put_odd(parts[1])
            tensor = torch.complex(parts[0], parts[1]).to(dtype)
        elif _holds_floats(dtype) and (can_require_grad(dtype) or self.special == "ordinary"):
            wide = torch.rand(count, generator=generator, dtype=torch.float64) * 4 - 2
            tensor = wide.to(dtype)
            if self.special == "mixed":
                self._put_odd(tensor)
        else:
            size = byte_count(tensor)
            raw = torch.randint(0, 256, (size,), generator=generator, dtype=torch.uint8)
            if size:
                ctypes.memmove(tensor.data_ptr(), raw.data_ptr(), size)
        # a base of its own: a view could not be detached in place
        return torch.empty(shape, dtype=dtype).copy_(tensor.view(shape))

    def _laid_out(self, device: str, dtype: torch.dtype) -> torch.Tensor:
        shape, layout = self.shape, self.layout
        if layout == "offset":
            larger = self._numbers((3, *shape), dtype).to(device)
            return larger[1]
        if layout == "strided" and shape:
            larger = self._numbers((*shape[:-1], shape[-1] * 2), dtype).to(device)
            return larger[..., ::2]
        if layout == "overlapping" and len(shape) == 1 and shape[0] > 2:
            whole = self._numbers(shape, dtype).to(device)
            return whole.as_strided((shape[0] - 2, 3), (1, 1))
        tensor = self._numbers(shape, dtype).to(device)
        if layout == "transposed" and len(shape) > 1:
            return tensor.transpose(0, -1)
        if layout == "expanded" and tensor.numel() < 2000:
            return tensor.unsqueeze(0).expand(3, *shape)
        if layout == "channels_last" and len(shape) == 4:
            return tensor.contiguous(memory_format=torch.channels_last)
        if layout == "channels_last" and len(shape) == 5:
            return tensor.contiguous(memory_format=torch.channels_last_3d)
        if layout == "lazy" and dtype.is_complex:
            require("conjugate", device, dtype)
            return tensor.conj()
        if layout == "lazy" and dtype in (torch.float32, torch.float64):
            return torch.complex(torch.zeros_like(tensor), tensor).conj().imag
        return tensor

    def code(self, device: str, dtype: torch.dtype) -> Tuple[str, Tuple[str, ...]]:
        """``build`` as plain torch code, and the name that it defines."""
        return tensor_code(self, device, dtype), ("source",)

    def build(self, device: str = "cpu", dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The tensor on a device: values drawn on the CPU from ``seed`` alone."""
        tensor = self._laid_out(device, dtype)
        if self.kind == "frozen":
            return torch.nn.Parameter(tensor, requires_grad=False)
        if self.kind == "leaf" or not can_require_grad(dtype):
            return tensor
        if self.kind == "parameter":
            return torch.nn.Parameter(tensor)
        tensor.requires_grad_()
        if self.kind == "requires_grad":
            return tensor
        if self.kind == "view":
            return tensor.reshape(tensor.shape)[...]
        if lack("negate", device, dtype):
            return torch.empty_like(tensor).copy_(tensor)
        # negation keeps every value's bits apart from the sign, and the layout where dense
        return -tensor


TENSOR_DIGITS = 5


def tensors(
    *,
    kinds: Tuple[str, ...] = TENSOR_KINDS,
    layouts: Tuple[str, ...] = TENSOR_LAYOUTS,
    specials: Tuple[str, ...] = SPECIALS,
    max_elements: int = 70001,
) -> st.SearchStrategy[TensorSpec]:
    """Tensors of every layout and kind, small and large, empty and 0-dim.

    Shrinks towards a plain 0-dim leaf of ordinary value, contiguous, with seed 0.
    """

    def read(digits: Digits) -> TensorSpec:
        layout = digits.one_of(layouts)
        return TensorSpec(
            shape=digits.one_of(_shapes(layout, max_elements)),
            layout=layout,
            kind=digits.one_of(kinds),
            special=digits.one_of(specials),
            seed=digits.bits(1),
        )

    return read_as(TENSOR_DIGITS, read)


# Layouts that few shapes can have, so that they are drawn with those: their numbers of axes.
AXES = {"overlapping": (1,), "channels_last": (4, 5)}


@cache
def _shapes(layout: str, most: int) -> Tuple[Tuple[int, ...], ...]:
    """The shapes of at most so many elements that a layout makes something of; all, if none."""
    small = tuple(shape for shape in TENSOR_SHAPES if math.prod(shape) <= most)
    fit = tuple(shape for shape in small if len(shape) in AXES.get(layout, (len(shape),)))
    return fit or small
