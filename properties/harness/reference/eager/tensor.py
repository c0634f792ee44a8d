"""The model's tensor: a geometry over a storage, a version counter and a history."""

from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from frostproof.properties.harness.reference.eager.memory import (
    Counter,
    Geometry,
    KnownDefect,
    NotModelled,
    Shape,
    Storage,
    broadcast,
    contiguous_strides,
    count_of,
)
from frostproof.properties.harness.reference.eager.tape import GradMode, History, Node, Operation

# Value and derivatives of a function of numbers, elementwise.
Rule = Callable[..., Tuple[float, Tuple[float, ...]]]


class ModelTensor:
    """What torch.Tensor is, as far as the model goes.

    made: how a view came to be: "plain", "no_grad" or "many" (one of several outputs): the
    latter two refuse to be written to where gradients are recorded. seen: how often the base
    had been written to when the view was made.
    """

    def __init__(
        self,
        storage: Storage,
        geometry: Geometry,
        dtype: str,
        history: Optional[History] = None,
        version: Optional[Counter] = None,
        base: Optional["ModelTensor"] = None,
        made: str = "plain",
    ) -> None:
        self.storage, self.geometry, self.dtype_name = storage, geometry, dtype
        self.history = history or History()
        self.version = version or Counter()
        self.base, self.made = base, made
        self.seen = self.version.version
        self.began_outside = base is not None and not self.history.requires_grad
        self.lone = False  # a view that was made a leaf of its own
        self.frozen_view = False  # made under no_grad: outside the graph until the base changes

    def __getattr__(self, name: str) -> Any:
        raise NotModelled(f"Tensor.{name}")

    def __bool__(self) -> bool:
        raise NotModelled("a tensor's truth")

    # What is asked of it
    @property
    def shape(self) -> Shape:
        return self.geometry.shape

    @property
    def dtype(self) -> str:
        return self.dtype_name

    @property
    def device(self) -> str:
        return "cpu"

    @property
    def _version(self) -> int:
        return self.version.version

    @property
    def requires_grad(self) -> bool:
        self._settled()
        return self.history.requires_grad

    @requires_grad.setter
    def requires_grad(self, flag: bool) -> None:
        self._must_be_leaf()
        self.requires_grad_(flag)

    def _must_be_leaf(self) -> None:
        if not self.is_leaf:
            if self.began_outside:  # taken for a leaf until its grad_fn is read
                raise KnownDefect("a flag of a view that was made before its base required grad")
            raise RuntimeError("you can only change requires_grad flags of leaf variables")

    @property
    def is_leaf(self) -> bool:
        return not self.requires_grad or self.grad_fn is None

    @property
    def grad_fn(self) -> Any:
        if not self.requires_grad or self.frozen_view:
            return None
        return None if self.history.leaf and (self.base is None or self.lone) else True

    @property
    def recorded(self) -> bool:
        """Whether backward can begin here: torch lets a view made under no_grad say that it
        requires grad where its base does, and gives it no node."""
        return self.requires_grad and not self.frozen_view

    def is_contiguous(self) -> bool:
        return self.geometry.is_contiguous()

    def storage_offset(self) -> int:
        self.geometry.need_strides()
        return self.geometry.offset

    def dim(self) -> int:
        return len(self.shape)

    def _is_view(self) -> bool:
        return self.base is not None

    def is_inference(self) -> bool:
        return False

    def _settled(self) -> None:
        """Views that autograd would have to make anew, and refuses to, are not modelled."""
        if self.made != "plain" and self.seen != self.version.version and self.history.requires_grad:
            raise NotModelled("a view made under no_grad or one of many, after a write to its base")
        if self.lone and self.base is not None and self.base.history.requires_grad:
            raise NotModelled("a view that is a leaf of its own, after its base joined the graph")
        of_lone = self.base is not None and self.history is not self.root().history
        if (
            of_lone
            and not self.lone
            and self.history.requires_grad
            and self.seen != self.version.version
        ):
            raise NotModelled("a view of a view that is a leaf, after a write")

    def cells(self) -> List[int]:
        return self.geometry.cells()

    def values(self) -> List[Any]:
        """Its elements in order."""
        return [self.storage.values[place] for place in self.cells()]

    def nodes(self) -> List[Optional[Node]]:
        """Their nodes; None where nothing is recorded of them."""
        if not self.recorded:
            return [None] * count_of(self.shape)
        return [self.history.nodes.get(place) for place in self.cells()]

    def operations(self) -> Tuple[Operation, ...]:
        """What backward runs before this."""
        operation = self.history.operation
        return (operation,) if self.recorded and operation is not None else ()

    def root(self) -> "ModelTensor":
        """The base of all, or itself."""
        return self if self.base is None else self.base.root()

    # Views and aliases
    def viewed(self, geometry: Optional[Geometry], many: bool = False) -> "ModelTensor":
        """A view of these elements; RuntimeError where there is no such geometry."""
        if geometry is None:
            raise RuntimeError("view size is not compatible")
        self._settled()
        made = "many" if many else "plain"
        if not GradMode.enabled:
            made = "no_grad"
        if made == "plain":
            made = self.made
        view = ModelTensor(
            self.storage, geometry, self.dtype_name, self.history, self.version, self, made
        )
        if not GradMode.enabled and self.requires_grad and not self.root().history.requires_grad:
            view.history = History()  # torch asks the base, which is none of the leaf's
            return view
        self.history.views.append(view)
        view.frozen_view = self.frozen_view or not GradMode.enabled
        if view.frozen_view and GradMode.enabled:
            raise NotModelled("a view of a view that was made under no_grad")
        return view

    def detach(self) -> "ModelTensor":
        return ModelTensor(self.storage, self.geometry, self.dtype_name, version=self.version)

    @property
    def data(self) -> "ModelTensor":
        return ModelTensor(self.storage, self.geometry, self.dtype_name)

    @data.setter
    def data(self, other: "ModelTensor") -> None:
        raise NotModelled("setting .data")

    def detach_(self) -> "ModelTensor":
        if self.base is not None:
            raise RuntimeError("Can't detach views in-place, use detach() instead")
        if self.history.views:
            raise NotModelled("detach_ of what has views")
        self.history = History()
        self.storage.writes += 1  # torch 1.8 reads what was saved of it, later ones refuse
        return self

    # New tensors
    def clone(self, memory_format: str = "preserve") -> "ModelTensor":
        if memory_format == "contiguous":
            return self._copied("contiguous")
        kept = self.geometry.known and self.geometry.is_dense()
        return self._copied("clone", self.geometry.strides if kept else None)

    def _copied(self, name: str, strides: Optional[Shape] = None) -> "ModelTensor":
        known = self.geometry.known
        made = result(name, (self,), self.shape, self.values(), [((n, 1.0),) for n in self.nodes()])
        if strides is not None and strides != made.geometry.strides:
            made = with_strides(made, strides)
        elif not known or (strides is None and not self.geometry.is_contiguous() and name == "clone"):
            made.geometry = Geometry(made.shape, made.geometry.strides, 0, False)
        return made

    def contiguous(self) -> "ModelTensor":
        if self.is_contiguous():
            return self
        return self._copied("contiguous")

    # Flags
    def requires_grad_(self, flag: bool = True) -> "ModelTensor":
        if not flag:
            self._must_be_leaf()
        if flag == self.requires_grad:
            return self
        if not flag and self.history.views:
            raise NotModelled("freezing what has views")
        if self.base is not None:
            # a leaf of its own, whatever its base is
            self.history, self.lone, self.frozen_view = History(), True, False
        for view in self.history.views:
            view.frozen_view, view.made = True, "no_grad"
        if flag:
            self.history.become_leaf(self.cells())
        else:
            self.history.requires_grad = False
            self.history.nodes.clear()
        return self

    # Writes
    def written(
        self,
        name: str,
        values: Sequence[Any],
        parents: Sequence[Sequence[Tuple[Optional[Node], float]]],
        sources: Sequence["ModelTensor"] = (),
        saves: Sequence["ModelTensor"] = (),
        saves_self: bool = False,
    ) -> "ModelTensor":
        """Write new values to these elements; parents: of each, (node, derivative) pairs."""
        recorded = GradMode.enabled and (
            self.requires_grad or any(each.requires_grad for each in sources)
        )
        if recorded:
            self._may_be_recorded()
        if self.geometry.overlaps() or self.root().geometry.overlaps():
            raise NotModelled("a write to elements that share memory")
        before = [op for each in (self, *sources) for op in each.operations()]
        leads_on = _leads_on((self, *sources))
        saved = [_saving(each) for each in saves]
        cells = self.cells()
        self.version.version += 1
        self.storage.writes += 1
        for place, value in zip(cells, values):
            self.storage.values[place] = value
        if recorded:
            history = self.history
            if any(view.lone and view.history.requires_grad for view in history.views):
                raise NotModelled("a write that takes the base of a leaf into the graph")
            for place, pairs in zip(cells, parents):
                known = [(node, slope) for node, slope in pairs if node is not None]
                history.nodes.pop(place, None)
                if known:
                    history.nodes[place] = Node(known)
            history.requires_grad, history.leaf = True, False
            if saves_self:
                saved.append(_saving(self))
            history.operation = Operation(name, tuple(before), tuple(saved), leads_on)
            if self.made == "plain":
                self.seen = self._version
        return self

    def _may_be_recorded(self) -> None:
        if self.lone and self.requires_grad:
            raise RuntimeError("a leaf Variable that requires grad is used in an in-place operation")
        if self.made != "plain" and self.base is not None:
            raise RuntimeError("a view that may not be modified inplace")
        if self.requires_grad and self.history.leaf:
            raise RuntimeError("a leaf Variable that requires grad is used in an in-place operation")
        if self.began_outside and self.history.requires_grad:
            raise KnownDefect("a write to a view that was made before its base required grad")
        if self.frozen_view:
            raise NotModelled("a recorded write to a view made under no_grad")

    def __repr__(self) -> str:
        return f"ModelTensor({self.values()}, shape={self.shape}, requires_grad={self.requires_grad})"


def _leads_on(sources: Sequence[ModelTensor]) -> bool:
    """Whether what requires grad has a node, as a view made under no_grad has none."""
    return all(each.recorded for each in sources if each.requires_grad)


def _saving(tensor: ModelTensor) -> Tuple[Counter, int, Storage, int]:
    return tensor.version, tensor._version, tensor.storage, tensor.storage.writes


def with_strides(made: ModelTensor, strides: Shape) -> ModelTensor:
    """A fresh tensor of ours laid out otherwise."""
    geometry = Geometry(made.shape, strides)
    order = made.cells()
    values: List[Any] = [None] * (max(geometry.cells(), default=-1) + 1)
    nodes: Dict[int, Node] = {}
    for old, new in zip(order, geometry.cells()):
        values[new] = made.storage.values[old]
        if old in made.history.nodes:
            nodes[new] = made.history.nodes[old]
    made.storage.values, made.history.nodes, made.geometry = values, nodes, geometry
    return made


def result(
    name: str,
    sources: Sequence[ModelTensor],
    shape: Shape,
    values: Sequence[Any],
    parents: Sequence[Sequence[Tuple[Optional[Node], float]]],
    saves: Sequence[ModelTensor] = (),
    saves_result: bool = False,
) -> ModelTensor:
    """A new tensor that an operation made of the sources; parents as in ``written``."""
    if len({each.dtype_name for each in sources}) > 1:
        raise NotModelled("operands of several dtypes")
    made = ModelTensor(
        Storage(values), Geometry(shape, contiguous_strides(shape)), sources[0].dtype_name
    )
    if GradMode.enabled and any(each.requires_grad for each in sources):
        for place, pairs in enumerate(parents):
            known = [(node, slope) for node, slope in pairs if node is not None]
            if known:
                made.history.nodes[place] = Node(known)
        saved = [_saving(each) for each in saves]
        if saves_result:
            saved.append(_saving(made))
        before = [op for each in sources for op in each.operations()]
        made.history.requires_grad, made.history.leaf = True, False
        made.history.operation = Operation(name, tuple(before), tuple(saved), _leads_on(sources))
    return made


def strides_of_result(operands: Sequence[ModelTensor], shape: Shape) -> Tuple[Shape, bool]:
    """(strides, known) of an elementwise result: its operands' where these agree and are dense."""
    ranked = [each.geometry for each in operands if each.geometry.shape]
    if all(g.known and g.shape == shape for g in ranked) and ranked:
        if all(g.is_contiguous() for g in ranked):
            return contiguous_strides(shape), True
        if all(g.strides == ranked[0].strides and g.is_dense() for g in ranked):
            return ranked[0].strides, 1 not in shape
        return contiguous_strides(shape), False
    if all(g.known and g.is_contiguous() for g in ranked):
        return contiguous_strides(shape), True
    return contiguous_strides(shape), False


def broadcast_to(tensor: ModelTensor, shape: Shape) -> Tuple[List[Any], List[Optional[Node]]]:
    """Values and nodes of a tensor expanded to a shape."""
    places = tensor.geometry.expanded(shape).cells()
    values = [tensor.storage.values[place] for place in places]
    if not tensor.recorded:
        return values, [None] * len(values)
    return values, [tensor.history.nodes.get(place) for place in places]


def elementwise(
    name: str,
    rule: Rule,
    operands: Sequence[Any],
    saves: Sequence[int] = (),
    saves_result: bool = False,
    into: Optional[ModelTensor] = None,
) -> ModelTensor:
    """``rule`` on every element of the broadcast operands, as a new tensor or written into one.

    saves: which operands are saved, each where another operand (or itself, used twice) requires
    grad; numbers are operands too.
    """
    tensors = [each for each in operands if isinstance(each, ModelTensor)]
    shape = broadcast(*(each.shape for each in tensors))
    if into is not None and shape != into.shape:
        raise RuntimeError(f"output with shape {into.shape} does not match {shape}")
    if into is not None:
        for each in tensors:
            _no_partial_overlap(into, each)
    rows = [broadcast_to(each, shape) if isinstance(each, ModelTensor) else None for each in operands]
    values, parents = [], []
    for place in range(count_of(shape)):
        given = [row[0][place] if row else each for row, each in zip(rows, operands)]
        value, slopes = rule(*given)
        values.append(value)
        parents.append([(row[1][place], slope) for row, slope in zip(rows, slopes) if row])
    needed = [
        operands[place]
        for place in saves
        if isinstance(operands[place], ModelTensor)
        and any(
            isinstance(other, ModelTensor) and other.requires_grad
            for number, other in enumerate(operands)
            if number != place
        )
    ]
    if into is not None:
        return into.written(name, values, parents, tensors, needed, saves_result)
    made = result(name, tensors, shape, values, parents, needed, saves_result)
    strides, known = strides_of_result(tensors, shape)
    if strides != made.geometry.strides:
        made = with_strides(made, strides)
    made.geometry = Geometry(made.shape, made.geometry.strides, 0, known)
    return made


def _no_partial_overlap(into: ModelTensor, other: ModelTensor) -> None:
    if into is other or into.storage is not other.storage:
        return
    if into.geometry == other.geometry:
        return
    if set(into.cells()) & set(other.cells()):
        raise NotModelled("an operand that shares part of the memory written to")
