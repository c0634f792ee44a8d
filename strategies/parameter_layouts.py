"""Where parameters and their gradients lie in memory: layouts as data.

One storage holds several parameters side by side, some frozen, between guard elements, so
that whatever is written beside a parameter is seen.
"""

from dataclasses import dataclass
from functools import cache
from typing import Dict, List, Sequence, Tuple

import torch
from hypothesis import strategies as st

from frostproof.strategies.digits import Digits, read_as

Shape = Tuple[int, ...]


@dataclass(frozen=True)
class Place:
    """One parameter of a storage: its shape, its strides, its first element; frozen or not."""

    shape: Shape
    stride: Shape
    first: int = 0
    frozen: bool = False

    def view(self, storage: torch.Tensor, guard: int = 0) -> torch.Tensor:
        """This place in a 1-dim storage that begins with ``guard`` elements."""
        return storage.as_strided(self.shape, self.stride, self.first + guard)


def dense(shape: Shape) -> Shape:
    """The strides of a row-major tensor."""
    strides: List[int] = []
    step = 1
    for extent in reversed(shape):
        strides.insert(0, step)
        step *= max(extent, 1)
    return tuple(strides)


def _rows(r: int, c: int) -> Tuple[Place, ...]:
    return (
        Place((r, c), (c, 1), c),
        Place((1, c), (c, 1), 0, True),
        Place((c,), (1,), (r + 1) * c, True),
    )


def _columns(r: int, c: int) -> Tuple[Place, ...]:
    return Place((r, c), (c + 2, 1)), Place((r, 2), (c + 2, 1), c, True)


def _two_columns(r: int, c: int) -> Tuple[Place, ...]:
    return Place((r, c), (c + 2, 1)), Place((r, 2), (c + 2, 1), c)


def _second_rows(r: int, c: int) -> Tuple[Place, ...]:
    return Place((r, c), (2 * c, 1)), Place((r, c), (2 * c, 1), c, True)


def _second_columns(r: int, c: int) -> Tuple[Place, ...]:
    return Place((r, c), (2 * c, 2)), Place((r, c), (2 * c, 2), 1, True)


def _flat(r: int, c: int) -> Tuple[Place, ...]:
    end = r * c
    return (
        Place((r, c), (c, 1)),
        Place((c,), (1,), end, True),
        Place((), (), end + c),
        Place((c, r), (r, 1), end + c + 1),
    )


# What each layout puts into one storage, for r rows and c columns; the first place trains.
PARAMETER_LAYOUTS = {
    "dense": lambda r, c: (Place((r, c), (c, 1)),),
    "scalar": lambda r, c: (Place((), ()), Place((), (), 1, True)),
    "empty": lambda r, c: (Place((0, c), (c, 1)), Place((c,), (1,))),
    "rows": _rows,
    "flat": _flat,
    "transposed": lambda r, c: (Place((r, c), (1, r)),),
    "channels_last": lambda r, c: (Place((r, c, 2, 2), (4 * c, 1, 2 * c, c)),),
    "columns": _columns,
    "two columns": _two_columns,
    "every second row": _second_rows,
    "every second column": _second_columns,
    "expanded": lambda r, c: (Place((r + 1, c), (0, 1)),),
    "overlapping": lambda r, c: (Place((r + 1, c + 1), (1, 1)),),
}
FILLED = ("dense", "scalar", "empty", "rows", "flat", "transposed", "channels_last")
WITH_GAPS = ("columns", "two columns", "every second row", "every second column")
OVERLAPPING = ("expanded", "overlapping")
# A gradient's strides: its parameter's, row-major, with the axes turned round, every second
# element of a larger one, or one element for all along the first axis.
GRADIENTS = ("like", "row-major", "reversed", "strided", "expanded")
GUARD = 96  # elements on either side: more than a walk over any of these parameters can reach


@dataclass(frozen=True)
class ParameterLayout:
    """Parameters in one storage, and the layout of their gradients.

    kind: a key of PARAMETER_LAYOUTS; rows, columns: 1 to 8; gradient: one of GRADIENTS, where the
    parameter's shape allows it; seed: of every value.
    """

    kind: str = "dense"
    rows: int = 1
    columns: int = 1
    gradient: str = "like"
    seed: int = 0

    def places(self) -> Tuple[Place, ...]:
        """Where each parameter lies; those that require grad and those that are frozen."""
        made: Tuple[Place, ...] = PARAMETER_LAYOUTS[self.kind](self.rows, self.columns)
        return made

    def elements(self) -> int:
        """How many elements the storage has, without guards."""
        ends = [
            place.first + 1 + sum((size - 1) * step for size, step in zip(place.shape, place.stride))
            for place in self.places()
            if 0 not in place.shape
        ]
        return max(ends)

    def storage(self, device: str, dtype: torch.dtype) -> torch.Tensor:
        """The storage, values of size 0.1 to 1.1 and guards included, 1-dim."""
        drawn = torch.rand(self.elements() + 2 * GUARD, generator=self.generator(), dtype=torch.float64)
        signs = torch.arange(len(drawn)) % 2 * 2 - 1
        return ((drawn + 0.1) * signs).to(device=device, dtype=dtype)

    def generator(self) -> torch.Generator:
        """A generator seeded by this layout."""
        generator = torch.Generator()
        generator.manual_seed(self.seed)
        return generator

    def parameters(self, storage: torch.Tensor) -> List[torch.nn.Parameter]:
        """The parameters in a storage made by ``storage``."""
        return [
            torch.nn.Parameter(place.view(storage, GUARD), requires_grad=not place.frozen)
            for place in self.places()
        ]

    def gradient_for(self, parameter: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """A gradient of values of size 0.05 to 1, laid out as described."""
        shape = tuple(parameter.shape)
        drawn = torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1
        drawn = torch.sign(drawn) * (0.05 + 0.95 * drawn.abs())
        stride = dense(shape)
        if self.gradient == "reversed":
            stride = tuple(reversed(dense(tuple(reversed(shape)))))
        elif self.gradient == "like" and self.kind not in OVERLAPPING:
            stride = tuple(parameter.stride())
        made = torch.empty_strided(shape, stride, dtype=parameter.dtype, device=parameter.device)
        made.copy_(drawn)
        if self.gradient == "strided" and shape and 0 not in shape:
            return torch.stack((made, made + 1), dim=-1)[..., 0]
        if self.gradient == "expanded" and shape and 0 not in shape:
            return made[:1].contiguous().expand(shape)
        return made

    def code(self) -> str:
        """The storage and its parameters as plain torch: ``whole``, and ``p0``, ``p1``, ..."""
        lines = [f"whole = torch.arange({self.elements()}.)"]
        for number, place in enumerate(self.places()):
            lines.append(
                f"p{number} = torch.nn.Parameter(whole.as_strided({place.shape}, {place.stride}, "
                f"{place.first}), requires_grad={not place.frozen})"
            )
        return "\n".join(lines)


LAYOUT_DIGITS = 5


@cache
def _layouts(kinds: Tuple[str, ...], gradients: Tuple[str, ...]) -> st.SearchStrategy[ParameterLayout]:
    def read(digits: Digits) -> ParameterLayout:
        return ParameterLayout(
            kind=digits.one_of(kinds),
            rows=digits.below(8) + 1,
            columns=digits.below(8) + 1,
            gradient=digits.one_of(gradients),
            seed=digits.bits(1),
        )

    return read_as(LAYOUT_DIGITS, read)


def parameter_layouts(
    *, kinds: Sequence[str] = tuple(PARAMETER_LAYOUTS), gradients: Sequence[str] = GRADIENTS
) -> st.SearchStrategy[ParameterLayout]:
    """Layouts of parameters and gradients, of up to 8 rows and columns.

    Shrinks towards the first kind, of one element, with a gradient laid out like it, seed 0.
    """
    return _layouts(tuple(kinds), tuple(gradients))


def small_layouts(kinds: Sequence[str], gradients: Sequence[str] = ("like",)) -> List[ParameterLayout]:
    """Every kind with every gradient at a few sizes, the smallest first; the same each time."""
    sizes = ((1, 1), (2, 1), (1, 3), (2, 3), (5, 3), (4, 8))
    return [
        ParameterLayout(kind, rows, columns, gradient, seed=rows)
        for rows, columns in sizes
        for kind in kinds
        for gradient in gradients
    ]


FAMILIES: Dict[str, Tuple[Tuple[str, ...], Tuple[str, ...]]] = {
    "filled": (FILLED, ("like",)),
    "gaps": (WITH_GAPS, ("like", "row-major")),
    "overlapping": (OVERLAPPING, ("row-major",)),
    "gradients": (
        ("dense", "transposed", "channels_last"),
        ("row-major", "reversed", "strided", "expanded"),
    ),
}
