"""Memory of the model: storages with values, and geometries over them."""

import itertools
from dataclasses import dataclass
from typing import Any, Iterator, List, Optional, Sequence, Tuple

Shape = Tuple[int, ...]


class NotModelled(Exception):
    """The model does not say what torch does here."""


class KnownDefect(NotModelled):
    """Torch is known to do otherwise here: see the known defects."""


class Counter:
    """A version counter; views and detached aliases share one."""

    def __init__(self) -> None:
        self.version = 0


class Storage:
    """Values in a row. writes: how often it was written to, whoever counted."""

    def __init__(self, values: Sequence[Any]) -> None:
        self.values: List[Any] = list(values)
        self.writes = 0


def count_of(shape: Shape) -> int:
    """How many elements a shape has."""
    total = 1
    for extent in shape:
        total *= extent
    return total


def contiguous_strides(shape: Shape) -> Shape:
    """Row-major strides, in elements."""
    strides: List[int] = []
    step = 1
    for extent in reversed(shape):
        strides.append(step)
        step *= max(extent, 1)
    return tuple(reversed(strides))


@dataclass(frozen=True)
class Geometry:
    """Where a tensor's elements lie in its storage, in elements.

    known: whether torch's own strides are these; where they depend on a kernel's choice the
    elements are in order, and nothing that asks for strides is modelled.
    """

    shape: Shape
    strides: Shape
    offset: int = 0
    known: bool = True

    def cells(self) -> List[int]:
        """Places in the storage, in the order of the elements."""
        places = [self.offset]
        for extent, stride in zip(self.shape, self.strides):
            places = [place + index * stride for place in places for index in range(extent)]
        return places

    def overlaps(self) -> bool:
        """Whether two elements are one place."""
        cells = self.cells()
        return len(set(cells)) < len(cells)

    def need_strides(self) -> None:
        """NotModelled where torch's strides are not known."""
        if not self.known:
            raise NotModelled("strides that a kernel chose")

    def is_contiguous(self) -> bool:
        """Row-major, but for axes of one element."""
        self.need_strides()
        if 0 in self.shape:
            return True
        wanted = contiguous_strides(self.shape)
        return all(e == 1 or s == w for e, s, w in zip(self.shape, self.strides, wanted))

    def is_dense(self) -> bool:
        """Its elements fill a range without gap or overlap, in some order of the axes."""
        axes = sorted((s, e) for s, e in zip(self.strides, self.shape) if e > 1)
        step = 1
        for stride, extent in axes:
            if stride != step:
                return False
            step *= extent
        return True

    def viewed(self, shape: Shape) -> Optional["Geometry"]:
        """The same elements under another shape; None where strides cannot say that.

        Runs of old axes that follow each other in memory are cut anew.
        """
        self.need_strides()
        if count_of(shape) != count_of(self.shape):
            return None
        if 0 in shape:
            return Geometry(shape, contiguous_strides(shape), self.offset)
        runs: List[Tuple[int, int]] = []  # (elements, innermost stride), outermost first
        for extent, stride in zip(self.shape, self.strides):
            if extent == 1:
                continue
            if runs and runs[-1][1] == extent * stride:
                runs[-1] = (runs[-1][0] * extent, stride)
            else:
                runs.append((extent, stride))
        strides: List[int] = []
        left = list(runs)
        room, step = left.pop() if left else (1, 1)
        for extent in reversed(shape):
            if extent == 1:
                strides.append(step)
                continue
            while room == 1 and left:
                room, step = left.pop()
            if room % extent:
                return None
            strides.append(step)
            room, step = room // extent, step * extent
        return Geometry(shape, tuple(reversed(strides)), self.offset)

    def axis(self, dim: int) -> int:
        """A dimension counted from the front; IndexError where there is none."""
        size = max(len(self.shape), 1)
        if not -size <= dim < size:
            raise IndexError(f"dimension {dim} of {self.shape}")
        return dim % size

    def permuted(self, order: Sequence[int]) -> "Geometry":
        """Axes in another order."""
        axes = [self.axis(dim) for dim in order]
        if sorted(axes) != list(range(len(self.shape))):
            raise RuntimeError("axes of a permutation")
        shape, strides = (tuple(row[a] for a in axes) for row in (self.shape, self.strides))
        return Geometry(shape, strides, self.offset, self.known)

    def replaced(self, dim: int, axes: Sequence[Tuple[int, int]], offset: int = 0) -> "Geometry":
        """One axis replaced by (extent, stride) pairs."""
        shape, strides = list(self.shape), list(self.strides)
        shape[dim : dim + 1] = [extent for extent, _ in axes]
        strides[dim : dim + 1] = [stride for _, stride in axes]
        return Geometry(tuple(shape), tuple(strides), self.offset + offset, self.known)

    def sliced(self, dim: int, start: int, stop: int, step: int = 1) -> "Geometry":
        """A range of one axis, as Python slices it."""
        if not self.shape:
            raise IndexError("a 0-dim tensor has no axis to slice")
        places = range(self.shape[dim])[start:stop:step]
        stride = self.strides[dim]
        return self.replaced(dim, [(len(places), stride * step)], places.start * stride)

    def selected(self, dim: int, index: int) -> "Geometry":
        """One place of an axis."""
        if not self.shape:
            raise IndexError("a 0-dim tensor has no axis to select from")
        extent = self.shape[dim]
        if not -extent <= index < extent:
            raise IndexError(f"index {index} of {extent}")
        return self.replaced(dim, [], (index % extent) * self.strides[dim])

    def expanded(self, shape: Shape) -> "Geometry":
        """Broadcast to a shape by strides of zero; RuntimeError where it does not fit."""
        if len(shape) < len(self.shape):
            raise RuntimeError("expand to fewer dimensions")
        more = len(shape) - len(self.shape)
        strides = [0] * more
        sizes = list(shape)
        for place, (extent, stride) in enumerate(zip(self.shape, self.strides)):
            wanted = shape[more + place]
            if wanted in (-1, extent):
                sizes[more + place] = extent
                strides.append(stride)
            elif extent == 1:
                strides.append(0)
            else:
                raise RuntimeError(f"expand {self.shape} to {shape}")
        return Geometry(tuple(sizes), tuple(strides), self.offset, self.known)

    def indexed(self, key: Any) -> "Geometry":
        """Basic indexing: integers, slices, an ellipsis."""
        keys = key if isinstance(key, tuple) else (key,)
        if any(not isinstance(each, (int, slice, type(Ellipsis))) for each in keys):
            raise NotModelled("indexing by tensors")
        given = sum(each is not Ellipsis for each in keys)
        if given > len(self.shape):
            raise IndexError("too many indices")
        full = list(keys)
        if Ellipsis in keys:
            place = keys.index(Ellipsis)
            full[place : place + 1] = [slice(None)] * (len(self.shape) - given)
        made, dim = self, 0
        for each in full:
            if isinstance(each, int):
                made = made.selected(dim, each)
            else:
                start, stop, step = each.indices(made.shape[dim])
                made = made.sliced(dim, start, stop, step)
                dim += 1
        return made


def broadcast(*shapes: Shape) -> Shape:
    """The shape that these broadcast to; RuntimeError where they do not."""
    made: List[int] = []
    for extents in itertools.zip_longest(*(reversed(shape) for shape in shapes), fillvalue=1):
        others = {extent for extent in extents if extent != 1}
        if len(others) > 1:
            raise RuntimeError(f"shapes {shapes} do not broadcast")
        made.append(others.pop() if others else 1)
    return tuple(reversed(made))


def flattened(nested: Any) -> Tuple[Shape, List[Any]]:
    """Shape and values of nested lists of numbers."""
    if not isinstance(nested, list):
        return (), [nested]
    parts: Iterator[Tuple[Shape, List[Any]]] = (flattened(each) for each in nested)
    found = list(parts)
    inner = found[0][0] if found else ()
    return (len(nested), *inner), [value for _, values in found for value in values]
