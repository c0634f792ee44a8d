"""Tensors as plain torch code with the same values, layout and kind."""

from typing import Tuple

import torch

from properties.harness.reproducer.literals import FEW, numbers
from properties.harness.reproducer.script import Script
from strategies import TensorSpec
from strategies.tensors import can_require_grad, real_of


def _base_shape(spec: TensorSpec) -> Tuple[int, ...]:
    if spec.layout == "offset":
        return (3, *spec.shape)
    if spec.layout == "strided" and spec.shape:
        return (*spec.shape[:-1], spec.shape[-1] * 2)
    return spec.shape


def _emit_values(
    script: Script, name: str, spec: TensorSpec, shape: Tuple[int, ...], dtype: torch.dtype
) -> None:
    tensor = spec._numbers(shape, dtype)
    count = tensor.numel()
    if not count:
        script.add(f"{name} = torch.empty({shape}, dtype=dtype)")
        return
    eight_bits = tensor.element_size() == 1 and dtype.is_floating_point
    if eight_bits and spec.special == "mixed":  # any byte: there are several NaN
        if count <= FEW:
            script.add(f"raw = torch.tensor({numbers(tensor.view(torch.uint8))}, dtype=torch.uint8)")
        else:
            script.add(f"generator = torch.Generator().manual_seed({spec.seed})")
            script.add(f"raw = torch.randint(0, 256, {shape}, generator=generator).to(torch.uint8)")
        script.add(f"{name} = raw.view(dtype)")
        return
    if count <= FEW:
        script.add(f"{name} = torch.tensor({numbers(tensor)}, dtype=dtype)")
        return
    script.add(f"generator = torch.Generator().manual_seed({spec.seed})")
    if dtype is torch.bool:
        script.add(f"{name} = torch.rand({shape}, generator=generator) > 0.5")
    elif dtype.is_complex:
        real = real_of(dtype)
        script.add(f"parts = torch.rand({(2, *shape)}, generator=generator, dtype={real}) * 4 - 2")
        if spec.special == "mixed":
            _emit_odd(script, "parts[0]", spec, count, real)
            _emit_odd(script, "parts[1]", spec, count, real)
        script.add(f"{name} = torch.complex(parts[0], parts[1]).to(dtype)")
    elif dtype.is_floating_point:
        drawn = f"torch.rand({shape}, generator=generator, dtype=torch.float64)"
        script.add(f"{name} = ({drawn} * 4 - 2).to(dtype)")
        if spec.special == "mixed":
            _emit_odd(script, name, spec, count, dtype)
    else:
        size = tensor.element_size()
        script.add(
            f"raw = torch.randint(0, 256, {(*shape, size)}, generator=generator)",
            f"{name} = (raw * 256 ** torch.arange({size})).sum(-1).to(dtype)",
        )


def _emit_odd(script: Script, name: str, spec: TensorSpec, count: int, dtype: torch.dtype) -> None:
    """Infinities and the like at every second place of the first 50."""
    first = torch.zeros(min(count, 50), dtype=dtype)
    spec._put_odd(first)
    odd, last, places = numbers(first[:12:2]), len(first), (len(first) + 1) // 2
    script.add(f"{name}.view(-1)[:{last}:2] = torch.tensor(({odd} * 9)[:{places}], dtype={dtype})")


def _layout(spec: TensorSpec, count: int) -> str:
    shape, layout = spec.shape, spec.layout
    if layout == "offset":
        return "[1]"
    if layout == "strided" and shape:
        return "[..., ::2]"
    if layout == "overlapping" and len(shape) == 1 and shape[0] > 2:
        return f".as_strided(({shape[0] - 2}, 3), (1, 1))"
    if layout == "transposed" and len(shape) > 1:
        return ".transpose(0, -1)"
    if layout == "expanded" and count < 2000:
        return f".unsqueeze(0).expand{(3, *shape)}"
    if layout == "channels_last" and len(shape) == 4:
        return ".contiguous(memory_format=torch.channels_last)"
    if layout == "channels_last" and len(shape) == 5:
        return ".contiguous(memory_format=torch.channels_last_3d)"
    return ""


def emit_tensor(script: Script, name: str, spec: TensorSpec, device: str, dtype: torch.dtype) -> None:
    """Lines that define the described tensor as ``name``."""
    shape = _base_shape(spec)
    _emit_values(script, name, spec, shape, dtype)
    count = 1
    for extent in spec.shape:
        count *= extent
    moved = name if device == "cpu" else f"{name}.to(device)"
    laid_out = moved + _layout(spec, count)
    if spec.layout == "lazy" and dtype.is_complex:
        laid_out = f"{moved}.conj()"
    elif spec.layout == "lazy" and dtype in (torch.float32, torch.float64):
        laid_out = f"torch.complex(torch.zeros_like({moved}), {moved}).conj().imag"
    kind = spec.kind if can_require_grad(dtype) or spec.kind == "frozen" else "leaf"
    if kind == "frozen":
        script.add(f"{name} = nn.Parameter({laid_out}, requires_grad=False)")
        return
    if kind == "parameter":
        script.add(f"{name} = nn.Parameter({laid_out})")
        return
    if laid_out != name:
        script.add(f"{name} = {laid_out}")
    if kind == "leaf":
        return
    script.add(f"{name}.requires_grad_()")
    if kind == "view":
        script.add(f"{name} = {name}.reshape({name}.shape)[...]")
    elif kind == "non_leaf":
        script.add(f"{name} = -{name}")
