"""The tensors that a random program is given, as plain data."""

from dataclasses import dataclass
from typing import Any, Iterator, List, Tuple

INPUT_SHAPES: Tuple[Tuple[int, ...], ...] = ((2,), (2, 2), (4,), (2, 3), (1,), (), (3, 2), (2, 2, 2))
OF_FIRST = ("same", "view_of", "detached_of", "neighbour")
OF_MODULE = ("parameter", "frozen_parameter", "buffer")
NUMBERS = (1.0, 2.0, -1.0, 3.0, 0.5, -2.0, 4.0, 1.5)


def _nested(shape: Tuple[int, ...], flat: Iterator[Any]) -> Any:
    if not shape:
        return next(flat)
    return [_nested(shape[1:], flat) for _ in range(shape[0])]


@dataclass(frozen=True)
class Input:
    """One tensor that a program is given.

    kind: one of INPUT_KINDS; those of OF_FIRST are made from the first input and have its
    shape and dtype; those of OF_MODULE are read from the module inside the function.
    layout: one of INPUT_LAYOUTS, of a tensor that is not made from another.
    """

    name: str = "x"
    kind: str = "live"
    shape: Tuple[int, ...] = (2,)
    layout: str = "contiguous"
    dtype: str = "float64"

    def _numbers(self, shape: Tuple[int, ...], device: str) -> str:
        count = 1
        for extent in shape:
            count *= extent
        start = ord(self.name[0]) - ord("x")  # each input has numbers of its own
        flat = [NUMBERS[(place + start * 3) % len(NUMBERS)] for place in range(count)]
        values = [complex(v, -v / 2) for v in flat] if self.dtype.startswith("complex") else flat
        where = "" if device == "cpu" else f', device="{device}"'
        return f"torch.tensor({_nested(shape, iter(values))!r}, dtype=torch.{self.dtype}{where})"

    def _laid_out(self, device: str) -> Tuple[List[str], str]:
        """(lines before, expression) of a tensor of this shape and layout without gradient."""
        shape, base = self.shape, f"{self.name}_base"
        if self.layout == "transposed" and len(shape) > 1:
            turned = (shape[-1], *shape[1:-1], shape[0])
            return [], f"{self._numbers(turned, device)}.transpose(0, -1)"
        if self.layout == "slice" and shape:
            return [f"{base} = {self._numbers((shape[0] + 2, *shape[1:]), device)}"], f"{base}[1:-1]"
        if self.layout == "step" and shape:
            return [
                f"{base} = {self._numbers((*shape[:-1], shape[-1] * 2), device)}"
            ], f"{base}[..., ::2]"
        if self.layout == "expanded" and shape and shape[0] > 1:
            return [], f"{self._numbers((1, *shape[1:]), device)}.expand({', '.join(map(str, shape))})"
        return [], self._numbers(shape, device)

    def lines(self, first: "Input", device: str = "cpu") -> List[str]:
        """Python that makes the input; a module's own is put on ``module``."""
        name, of = self.name, first.name
        if self.kind in OF_FIRST:
            made = {
                "same": f"{name} = {of}",
                "view_of": f"{name} = {of}[...]" if not self.shape else f"{name} = {of}[:]",
                "detached_of": f"{name} = {of}.detach()",
                "neighbour": f"{name} = {of}_base[2:]",
            }[self.kind]
            return [made]
        before, value = self._laid_out(device)
        if self.kind == "live":
            return [*before, f"{name} = {value}.requires_grad_()"]
        if self.kind == "result":
            return [*before, f"{name}_leaf = {value}.requires_grad_()", f"{name} = {name}_leaf * 1"]
        if self.kind == "buffer":
            return [*before, f'module.register_buffer("{name}", {value})']
        if self.kind in OF_MODULE:
            live = "" if self.kind == "parameter" else ", requires_grad=False"
            return [*before, f"module.{name} = torch.nn.Parameter({value}{live})"]
        return [*before, f"{name} = {value}"]

    @property
    def live(self) -> bool:
        """Whether it is a tensor of its own that requires grad."""
        return self.kind in ("live", "result", "parameter")
