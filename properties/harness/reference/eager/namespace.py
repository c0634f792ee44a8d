"""What stands where torch would when a program runs against the model."""

from types import SimpleNamespace
from typing import Any, Dict, List, Optional, Sequence, Tuple

from frostproof.properties.harness.reference.eager import methods
from frostproof.properties.harness.reference.eager.memory import (
    Geometry,
    NotModelled,
    Storage,
    contiguous_strides,
    count_of,
    flattened,
)
from frostproof.properties.harness.reference.eager.methods import Recording
from frostproof.properties.harness.reference.eager.tape import (
    GradMode,
    Node,
    check_saved,
    differentiate,
)
from frostproof.properties.harness.reference.eager.tensor import ModelTensor


class ModelParameter(ModelTensor):
    """torch.nn.Parameter: a leaf of its own over the given memory."""

    def __init__(self, value: ModelTensor, requires_grad: bool = True) -> None:
        super().__init__(value.storage, value.geometry, value.dtype_name, version=value.version)
        if requires_grad:
            self.history.become_leaf(self.cells())


class ModelModule:
    """torch.nn.Module as far as a program needs it: attributes and forward."""

    def register_buffer(self, name: str, value: ModelTensor) -> None:
        setattr(self, name, value)

    def __call__(self, *arguments: Any) -> Any:
        return self.forward(*arguments)

    def forward(self, *arguments: Any) -> Any:
        raise NotModelled("a module without forward")


class _Namespace(SimpleNamespace):
    def __getattr__(self, name: str) -> Any:
        raise NotModelled(f"torch.{name}")


def _tensor(nested: Any, dtype: str = "float64", device: str = "cpu") -> Any:
    shape, values = flattened(nested)
    if all(isinstance(value, int) for value in values):
        return methods.Indices(values)
    if any(isinstance(value, complex) for value in values) or not dtype.startswith("float"):
        raise NotModelled(f"numbers of {dtype}")
    return ModelTensor(Storage(values), Geometry(shape, contiguous_strides(shape)), dtype)


def _cat(tensors: Sequence[ModelTensor]) -> ModelTensor:
    if any(not each.shape for each in tensors):
        raise RuntimeError("zero-dimensional tensors cannot be concatenated")
    first = tensors[0].shape
    if any(each.shape[1:] != first[1:] for each in tensors):
        raise NotModelled("concatenation of unlike shapes")
    return methods.joined("cat", tensors, (sum(each.shape[0] for each in tensors), *first[1:]))


def _stack(tensors: Sequence[ModelTensor]) -> ModelTensor:
    if len({each.shape for each in tensors}) > 1:
        raise RuntimeError("stack expects each tensor to be equal size")
    return methods.joined("stack", tensors, (len(tensors), *tensors[0].shape))


def _where(condition: "methods.Mask", one: ModelTensor, two: ModelTensor) -> ModelTensor:
    if one.shape != two.shape or len(condition) != count_of(one.shape):
        raise NotModelled("where under broadcasting")
    pairs = iter(condition)

    def choose(x: float, y: float) -> Tuple[float, Tuple[float, ...]]:
        return (x, (1.0, 0.0)) if next(pairs) else (y, (0.0, 1.0))

    return methods.elementwise("where", choose, (one, two))


def _empty_like(tensor: ModelTensor) -> ModelTensor:
    with Recording(False):
        return methods.elementwise("empty", lambda x: (0.0, (0.0,)), (tensor,))


def _ones_like(tensor: ModelTensor) -> ModelTensor:
    with Recording(False):
        return methods.elementwise("ones", lambda x: (1.0, (0.0,)), (tensor,))


def _foreach(rule: Any) -> Any:
    def write(tensors: Sequence[ModelTensor], other: float) -> None:
        if len({id(each.storage) for each in tensors}) < len(tensors):
            raise NotModelled("foreach over tensors that share memory")
        for each in tensors:
            rule(each, other)

    return write


TORCH = _Namespace(
    tensor=_tensor,
    float64="float64",
    float32="float32",
    nn=_Namespace(Module=ModelModule, Parameter=ModelParameter, functional=_Namespace()),
    no_grad=lambda: Recording(False),
    enable_grad=lambda: Recording(True),
    set_grad_enabled=lambda enabled: Recording(enabled, at_once=True),
    is_grad_enabled=lambda: GradMode.enabled,
    relu=methods.relu,
    cat=_cat,
    stack=_stack,
    where=_where,
    ones_like=_ones_like,
    empty_like=_empty_like,
    contiguous_format="contiguous",
    mul=methods.mul_out,
    add=methods.add_out,
    as_tensor=methods.same,
    conj=methods.same,
    broadcast_tensors=lambda *tensors: tensors,  # of one shape: they come back as they are
    _foreach_add_=_foreach(methods.add_),
    _foreach_mul_=_foreach(methods.mul_),
)
TORCH.nn.functional.dropout = lambda tensor, rate: tensor
# Parameters print like any tensor's class in isinstance
TORCH.Tensor = ModelTensor


def backward(outputs: Sequence[ModelTensor], weights: Sequence[List[float]]) -> None:
    """Backward of the weighted sum of the outputs, into the leaves' histories.

    Raises RuntimeError where a saved value was modified since.
    """
    check_saved(op for each in outputs for op in each.operations())
    seeds: List[Tuple[Optional[Node], Any]] = []
    for each, row in zip(outputs, weights):
        seeds += list(zip(each.nodes(), row))
    leaves: Dict[int, Tuple[Node, float]] = differentiate(seeds)
    for node, slope in leaves.values():
        assert node.leaf is not None
        history, place = node.leaf
        if history.gradients is None:
            history.gradients = {}
        history.gradients[place] = history.gradients.get(place, 0.0) + slope
