"""A described tensor as plain torch code with the same values, layout and kind."""

from typing import TYPE_CHECKING, List, Tuple

import torch

from frostproof.strategies.literals import FEW, numbers

if TYPE_CHECKING:
    from frostproof.strategies.tensors import TensorSpec


def _values(lines: List[str], spec: "TensorSpec", shape: Tuple[int, ...], dtype: torch.dtype) -> str:
    """The values in their base shape, as an expression; where they are many, after a few lines."""
    from frostproof.strategies.tensors import real_of

    tensor = spec._numbers(shape, dtype)
    count = tensor.numel()
    if not count:
        return f"torch.empty({shape}, dtype={dtype})"
    mixed = spec.special == "mixed"
    if tensor.element_size() == 1 and dtype.is_floating_point and mixed:  # there are several NaN
        if count <= FEW:
            raw = f"torch.tensor({numbers(tensor.view(torch.uint8))}, dtype=torch.uint8)"
        else:
            lines.append(f"generator = torch.Generator().manual_seed({spec.seed})")
            raw = f"torch.randint(0, 256, {shape}, generator=generator).to(torch.uint8)"
        return f"{raw}.view({dtype})"
    if count <= FEW:
        return f"torch.tensor({numbers(tensor)}, dtype={dtype})"
    lines.append(f"generator = torch.Generator().manual_seed({spec.seed})")
    if dtype is torch.bool:
        return f"(torch.rand({shape}, generator=generator) > 0.5)"
    if dtype.is_complex:
        real = real_of(dtype)
        lines.append(f"parts = torch.rand({(2, *shape)}, generator=generator, dtype={real}) * 4 - 2")
        if mixed:
            lines += [_odd("parts[0]", spec, count, real), _odd("parts[1]", spec, count, real)]
        return f"torch.complex(parts[0], parts[1]).to({dtype})"
    if not dtype.is_floating_point:
        size = tensor.element_size()
        lines.append(f"raw = torch.randint(0, 256, {(*shape, size)}, generator=generator)")
        return f"(raw * 256 ** torch.arange({size})).sum(-1).to({dtype})"
    drawn = f"torch.rand({shape}, generator=generator, dtype=torch.float64)"
    drawn = f"({drawn} * 4 - 2)" + ("" if dtype is torch.float64 else f".to({dtype})")
    if not mixed:
        return drawn
    lines += [f"source = {drawn}", _odd("source", spec, count, dtype)]
    return "source"


def _odd(name: str, spec: "TensorSpec", count: int, dtype: torch.dtype) -> str:
    """Infinities and the like at every second place of the first 50."""
    first = torch.zeros(min(count, 50), dtype=dtype)
    spec._put_odd(first)
    odd, last, places = numbers(first[:12:2]), len(first), (len(first) + 1) // 2
    return f"{name}.view(-1)[:{last}:2] = torch.tensor(({odd} * 9)[:{places}], dtype={dtype})"


def _base_shape(spec: "TensorSpec") -> Tuple[int, ...]:
    if spec.layout == "offset":
        return (3, *spec.shape)
    if spec.layout == "strided" and spec.shape:
        return (*spec.shape[:-1], spec.shape[-1] * 2)
    return spec.shape


def _layout(spec: "TensorSpec", count: int) -> str:
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


def tensor_code(spec: "TensorSpec", device: str, dtype: torch.dtype) -> str:
    """Lines that define the described tensor as ``source``."""
    from frostproof.strategies.tensors import can_require_grad

    lines: List[str] = []
    values = _values(lines, spec, _base_shape(spec), dtype)
    count = 1
    for extent in spec.shape:
        count *= extent
    moved = values if device == "cpu" else f'{values}.to("{device}")'
    made = moved + _layout(spec, count)
    if spec.layout == "lazy" and dtype.is_complex:
        made = f"{moved}.conj()"
    elif spec.layout == "lazy" and dtype in (torch.float32, torch.float64):
        if moved != "source":
            lines.append(f"source = {moved}")
        made = "torch.complex(torch.zeros_like(source), source).conj().imag"
    kind = spec.kind if can_require_grad(dtype) or spec.kind == "frozen" else "leaf"
    if kind == "frozen":
        made = f"nn.Parameter({made}, requires_grad=False)"
    elif kind == "parameter":
        made = f"nn.Parameter({made})"
    elif kind != "leaf":
        made = f"{made}.requires_grad_()"
    if kind == "non_leaf":
        made = f"-{made}"
    elif kind == "view":
        lines.append(f"source = {made}")
        made = "source.reshape(source.shape)[...]"
    return "\n".join([*lines, *([f"source = {made}"] if made != "source" else [])])
