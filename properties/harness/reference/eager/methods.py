"""What the model's tensors can do: views, arithmetic, writes. Each stands under torch's own name."""

from typing import Any, Callable, Dict, List, Sequence, Tuple

from frostproof.properties.harness.reference.eager.memory import (
    Geometry,
    NotModelled,
    contiguous_strides,
    count_of,
)
from frostproof.properties.harness.reference.eager.tape import GradMode
from frostproof.properties.harness.reference.eager.tensor import (
    ModelTensor,
    broadcast_to,
    elementwise,
    result,
)

T = ModelTensor


# Views
def view(self: T, *shape: Any) -> T:
    wanted = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple) else shape
    if any(not isinstance(each, int) for each in wanted):
        raise NotModelled("a view as another dtype")
    return self.viewed(self.geometry.viewed(_whole(self, wanted)))


def _whole(self: T, shape: Sequence[int]) -> Tuple[int, ...]:
    if -1 not in shape:
        return tuple(shape)
    known = count_of(tuple(each for each in shape if each != -1))
    return tuple(count_of(self.shape) // max(known, 1) if each == -1 else each for each in shape)


def reshape(self: T, *shape: Any) -> T:
    wanted = _whole(self, shape[0] if len(shape) == 1 and isinstance(shape[0], tuple) else shape)
    geometry = self.geometry.viewed(wanted)
    if geometry is not None:
        return self.viewed(geometry)
    return joined("reshape", (self.contiguous(),), wanted)


def flatten(self: T) -> T:
    return self if self.dim() == 1 else reshape(self, -1)


def ravel(self: T) -> T:
    return view(self.contiguous(), -1)


def transpose(self: T, one: int, two: int) -> T:
    if not self.shape:
        return self.viewed(self.geometry)
    order = list(range(self.dim()))
    one, two = self.geometry.axis(one), self.geometry.axis(two)
    order[one], order[two] = order[two], order[one]
    return self.viewed(self.geometry.permuted(order))


def t(self: T) -> T:
    if self.dim() > 2:
        raise RuntimeError("t() expects a tensor with <= 2 dimensions")
    return transpose(self, 0, 1 if self.dim() == 2 else 0)


def permute(self: T, *order: int) -> T:
    return self.viewed(self.geometry.permuted(order))


def unsqueeze(self: T, dim: int) -> T:
    place = dim % (self.dim() + 1)
    stride = self.shape[place] * self.geometry.strides[place] if place < self.dim() else 1
    shape, strides = list(self.shape), list(self.geometry.strides)
    shape.insert(place, 1)
    strides.insert(place, stride)
    geometry = Geometry(tuple(shape), tuple(strides), self.geometry.offset, self.geometry.known)
    return self.viewed(geometry)


def squeeze(self: T) -> T:
    kept = [axis for axis, extent in enumerate(self.shape) if extent != 1]
    shape, strides = (tuple(row[axis] for axis in kept) for row in (self.shape, self.geometry.strides))
    return self.viewed(Geometry(shape, strides, self.geometry.offset, self.geometry.known))


def expand(self: T, *shape: int) -> T:
    return self.viewed(self.geometry.expanded(tuple(shape)))


def narrow(self: T, dim: int, start: int, length: int) -> T:
    axis = self.geometry.axis(dim)
    if not 0 <= start <= self.shape[axis] - length:
        raise RuntimeError("narrow out of range")
    return self.viewed(self.geometry.sliced(axis, start, start + length))


def getitem(self: T, key: Any) -> T:
    return self.viewed(self.geometry.indexed(key))


def diagonal(self: T) -> T:
    if self.dim() < 2:
        raise IndexError("a diagonal needs two dimensions")
    (first, second, *shape), (one, two, *strides) = self.shape, self.geometry.strides
    made = (*shape, min(first, second)), (*strides, one + two)
    return self.viewed(Geometry(*made, self.geometry.offset, self.geometry.known))


def unfold(self: T, dim: int, size: int, step: int) -> T:
    axis = self.geometry.axis(dim)
    if not self.shape:
        raise NotModelled("unfold of a 0-dim tensor")
    if self.shape[axis] < size:
        raise RuntimeError("unfold larger than the dimension")
    stride = self.geometry.strides[axis]
    windows = (self.shape[axis] - size) // step + 1
    made = self.geometry.replaced(axis, [(windows, stride * step)])
    shape, strides = (*made.shape, size), (*made.strides, stride)
    return self.viewed(Geometry(shape, strides, made.offset, made.known))


def as_strided(self: T, size: Any, stride: Any, offset: Any = None) -> T:
    self.geometry.need_strides()
    start = self.geometry.offset if offset is None else offset
    geometry = Geometry(tuple(size), tuple(stride), start)
    cells = geometry.cells()
    if cells and max(cells) >= len(self.storage.values):
        raise RuntimeError("setStorage: out of bounds")
    if self.requires_grad and not set(cells) <= set(self.cells()):
        raise NotModelled("as_strided beyond what is seen")
    return self.viewed(geometry)


def split(self: T, size: int) -> Tuple[T, ...]:
    if not self.shape:
        raise RuntimeError("split of a 0-dim tensor")
    starts = range(0, self.shape[0], size)
    return tuple(self.viewed(self.geometry.sliced(0, s, s + size), many=True) for s in starts)


def chunk(self: T, count: int) -> Tuple[T, ...]:
    if not self.shape:
        raise RuntimeError("chunk of a 0-dim tensor")
    if not self.shape[0]:
        raise NotModelled("chunks of nothing")
    return split(self, -(-self.shape[0] // count))


def unbind(self: T) -> Tuple[T, ...]:
    if not self.shape:
        raise RuntimeError("unbind of a 0-dim tensor")
    rows = range(self.shape[0])
    return tuple(self.viewed(self.geometry.selected(0, row), many=True) for row in rows)


def same(self: T, *_: Any) -> T:
    """What returns its own tensor where nothing is to be done."""
    return self


# Arithmetic: the rules give value and derivatives
def _add(x: float, y: float) -> Tuple[float, Tuple[float, ...]]:
    return x + y, (1.0, 1.0)


def _subtract(x: float, y: float) -> Tuple[float, Tuple[float, ...]]:
    return x - y, (1.0, -1.0)


def _multiply(x: float, y: float) -> Tuple[float, Tuple[float, ...]]:
    return x * y, (y, x)


def _relu(x: float) -> Tuple[float, Tuple[float, ...]]:
    return (x, (1.0,)) if x > 0 else (0.0, (0.0,))


def add(self: T, other: Any) -> T:
    return elementwise("add", _add, (self, other))


def subtract(self: T, other: Any) -> T:
    return elementwise("sub", _subtract, (self, other))


def multiply(self: T, other: Any) -> T:
    return elementwise("mul", _multiply, (self, other), saves=(0, 1))


def negate(self: T) -> T:
    return elementwise("neg", lambda x: (-x, (-1.0,)), (self,))


def relu(self: T) -> T:
    return elementwise("relu", _relu, (self,), saves_result=True)


def equal(self: T, other: Any) -> "Mask":
    """Only for conditions and masks: which elements are the same."""
    shape = self.shape
    if isinstance(other, ModelTensor) and other.shape != shape:
        raise NotModelled("comparison under broadcasting")
    theirs = other.values() if isinstance(other, ModelTensor) else [other] * count_of(shape)
    return Mask([one == two for one, two in zip(self.values(), theirs)])


class Mask(List[bool]):
    """A mask over all elements of one tensor."""


def total(self: T, dim: Any = None) -> T:
    values, nodes = self.values(), self.nodes()
    if dim is None or not self.shape:
        return result("sum", (self,), (), [sum(values)], [[(node, 1.0) for node in nodes]])
    if dim != 0:
        raise NotModelled("sum over another axis")
    rest = count_of(self.shape[1:])
    sums = [sum(values[place::rest]) for place in range(rest)]
    pairs = [[(node, 1.0) for node in nodes[place::rest]] for place in range(rest)]
    return result("sum", (self,), self.shape[1:], sums, pairs)


def matmul(self: T, other: T) -> T:
    if self.dim() != 2 or other.dim() != 2:
        raise NotModelled("matmul of other than matrices")
    (rows, inner), (second, columns) = self.shape, other.shape
    if inner != second:
        raise RuntimeError("shapes of a matrix product")
    ours, theirs = self.values(), other.values()
    us, them = self.nodes(), other.nodes()
    values, parents = [], []
    for row in range(rows):
        for column in range(columns):
            pairs = [(row * inner + k, k * columns + column) for k in range(inner)]
            values.append(sum(ours[a] * theirs[b] for a, b in pairs))
            parents.append(
                [pair for a, b in pairs for pair in ((us[a], theirs[b]), (them[b], ours[a]))]
            )
    saves = [s for s, o in ((self, other), (other, self)) if o.requires_grad]
    return result("mm", (self, other), (rows, columns), values, parents, saves)


def joined(name: str, tensors: Sequence[T], shape: Tuple[int, ...]) -> T:
    """The elements of tensors one after the other."""
    values = [value for each in tensors for value in each.values()]
    parents = [[(node, 1.0)] for each in tensors for node in each.nodes()]
    made = result(name, tensors, shape, values, parents)
    if not all(each.geometry.known and each.geometry.is_contiguous() for each in tensors):
        made.geometry = Geometry(shape, contiguous_strides(shape), 0, False)
    return made


# Writes
def fill_(self: T, value: float) -> T:
    count = count_of(self.shape)
    return self.written("fill_", [float(value)] * count, [()] * count)


def zero_(self: T) -> T:
    return fill_(self, 0)


def add_(self: T, other: Any) -> T:
    return elementwise("add_", _add, (self, other), into=self)


def mul_(self: T, other: Any) -> T:
    # it keeps a copy of itself where that is needed, so that its own write does no harm
    return elementwise("mul_", _multiply, (self, other), saves=(1,), into=self)


def relu_(self: T) -> T:
    return elementwise("relu_", _relu, (self,), saves_result=True, into=self)


def copy_(self: T, other: T) -> T:
    if self.dtype != other.dtype:
        raise NotModelled("copies between dtypes")
    _apart(self, other)
    values, nodes = broadcast_to(other, self.shape)
    return self.written("copy_", values, [[(node, 1.0)] for node in nodes], (other,))


def _apart(self: T, other: T) -> None:
    if self.storage is other.storage and set(self.cells()) & set(other.cells()):
        raise NotModelled("a copy within shared memory")


def setitem(self: T, key: Any, value: Any) -> None:
    if isinstance(key, Mask):
        masked_fill_(self, key, value)
        return
    place = getitem(self, key)
    if place.history is self.history:
        self.history.views.pop()
        place.began_outside = self.began_outside  # torch writes to the view that it was taken of
    if isinstance(value, ModelTensor):
        if value.dim() > place.dim():
            raise NotModelled("assignment of more dimensions")
        copy_(place, value)
    else:
        fill_(place, value)
    self.seen = place.seen if self.made == "plain" else self.seen


def masked_fill_(self: T, mask: Mask, value: float) -> T:
    """Constants where the mask says so."""
    if isinstance(value, ModelTensor):
        raise NotModelled("a mask filled with a tensor")
    values = [float(value) if on else old for on, old in zip(mask, self.values())]
    parents = [() if on else ((node, 1.0),) for on, node in zip(mask, self.nodes())]
    return self.written("masked_fill_", values, parents)


class Indices(List[int]):
    """A tensor of integers that only selects places of the first axis."""


def index_fill_(self: T, dim: int, index: Indices, value: float) -> T:
    rows = _rows(self, dim, index)
    mask = Mask([place in rows for place in range(count_of(self.shape))])
    return masked_fill_(self, mask, value)


def _rows(self: T, dim: int, index: Indices) -> List[int]:
    """The elements, by number, of some places of the first axis."""
    if dim != 0 or not self.shape:
        raise NotModelled("an index along another axis")
    rest = count_of(self.shape[1:])
    return [place * rest + inner for place in index for inner in range(rest)]


def index_add_(self: T, dim: int, index: Indices, source: T) -> T:
    rows = _rows(self, dim, index)
    if source.shape != (len(index), *self.shape[1:]) or self.dtype != source.dtype:
        raise NotModelled("index_add_ of another shape or dtype")
    _apart(self, source)
    values: List[Any] = self.values()
    parents: List[List[Any]] = [[(node, 1.0)] for node in self.nodes()]
    for place, value, node in zip(rows, source.values(), source.nodes()):
        values[place] += value
        parents[place].append((node, 1.0))
    saves = (source,) if source.requires_grad else ()  # for its shape alone, but its version counts
    return self.written("index_add_", values, parents, (source,), saves)


def index_put_(self: T, indices: Sequence[Indices], value: T) -> T:
    (index,) = indices
    rows = _rows(self, 0, index)
    shape = (len(index), *self.shape[1:])
    if len(value.shape) > len(shape) or self.dtype != value.dtype:
        raise NotModelled("index_put_ of another shape or dtype")
    _apart(self, value)
    numbers, nodes = broadcast_to(value, shape)
    values: List[Any] = self.values()
    parents: List[List[Any]] = [[(node, 1.0)] for node in self.nodes()]
    for place, number, node in zip(rows, numbers, nodes):
        values[place], parents[place] = number, [(node, 1.0)]
    return self.written("index_put_", values, parents, (value,))


def into(rule: Callable[[float, float], Tuple[float, Tuple[float, ...]]]) -> Callable[..., T]:
    """A function of a tensor and a number with ``out=``."""

    def write(self: T, other: float, out: T) -> T:
        if GradMode.enabled and (self.requires_grad or out.requires_grad):
            raise RuntimeError("functions with out=... don't support automatic differentiation")
        if self.shape != out.shape:
            raise NotModelled("out= of another shape")
        return elementwise("out", rule, (self, other), into=out)

    return write


mul_out, add_out = into(_multiply), into(_add)


METHODS: Dict[str, Callable[..., Any]] = {
    **{each.__name__: each for each in (view, reshape, flatten, ravel, transpose, t, permute)},
    **{each.__name__: each for each in (unsqueeze, squeeze, expand, narrow, diagonal, unfold)},
    **{each.__name__: each for each in (as_strided, split, chunk, unbind, matmul)},
    **{each.__name__: each for each in (fill_, zero_, add_, mul_, relu_, copy_, masked_fill_)},
    **{each.__name__: each for each in (index_fill_, index_add_, index_put_)},
    "__getitem__": getitem,
    "__setitem__": setitem,
    "__add__": add,
    "__sub__": subtract,
    "__mul__": multiply,
    "__neg__": negate,
    "__matmul__": matmul,
    "__iadd__": add_,
    "__imul__": mul_,
    "__eq__": equal,
    "sum": total,
    "view_as": lambda self, other: view(self, other.shape),
    "expand_as": lambda self, other: self.viewed(self.geometry.expanded(other.shape)),
    "to": same,
    "type_as": same,
    "resolve_conj": same,
    "conj": same,
}
for _name, _method in METHODS.items():
    setattr(ModelTensor, _name, _method)


class Recording:
    """A grad mode for a block; what it was comes back at the end. At once: from the call on."""

    def __init__(self, enabled: bool, at_once: bool = False) -> None:
        self.enabled, self.before = enabled, GradMode.enabled
        if at_once:
            GradMode.enabled = enabled

    def __enter__(self) -> None:
        GradMode.enabled = self.enabled

    def __exit__(self, *_: Any) -> None:
        GradMode.enabled = self.before
