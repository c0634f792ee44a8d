"""A user's own model as the laws train it: its state kept and put back, its loss, its seeds."""

import dataclasses
import inspect
import random
import sys
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import pytest
import torch

from frostproof.properties.harness.core.bits import from_bits, has_bits, read_bits
from frostproof.properties.harness.own import anatomy
from frostproof.properties.harness.own.factory import accepts, call, check_module, parts, said
from frostproof.properties.harness.own.findings import named
from frostproof.properties.harness.own.watch import magnitude, pieces, readable

RETURNED = ("module", "inputs", "loss")


def floating_tensors(value: Any) -> Iterator[torch.Tensor]:
    """The floating and complex tensors in an output: tensor, mapping, sequence, dataclass."""
    if isinstance(value, torch.Tensor):
        if anatomy.differentiable(value):
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from floating_tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from floating_tensors(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from floating_tensors(getattr(value, field.name))
    elif hasattr(value, "__dict__"):
        for item in vars(value).values():
            if isinstance(item, torch.Tensor):
                yield from floating_tensors(item)


def smooth_loss(output: Any) -> torch.Tensor:
    """A smooth scalar of all floating outputs: fixed random weights of them and of their squares.

    Weighted, because the plain sum or square of a softmax or of a LayerNorm is constant.
    """
    total: Optional[torch.Tensor] = None
    generator = torch.Generator()
    generator.manual_seed(5)
    for tensor in floating_tensors(output):
        if not tensor.numel():
            continue
        values = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        weights = torch.rand(tuple(values.shape), generator=generator) + 0.5
        weights = weights.to(device=values.device, dtype=values.dtype)
        part = (values * weights).mean() + 0.5 * (values * values * weights).mean()
        part = part if part.dtype is torch.float64 else part.float()
        total = part if total is None else total + part.to(total.device)
    if total is None:
        raise ValueError("the output holds no floating tensor: give a loss as the third")
    return total


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in inputs: a tensor, mapping or sequence."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)


def moved_to(value: Any, device: str) -> Any:
    """Inputs on another device."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: moved_to(item, device) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(moved_to(item, device) for item in value)
    return value


def _fits(function: Callable[..., Any], arguments: Mapping[str, Any]) -> bool:
    """Whether a mapping is meant as arguments by name, not as one argument."""
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError:
        return not accepts(function, arguments)
    except ValueError:
        pass
    return True


class OwnModel:
    """A model with its inputs and loss; every example starts from the state it came in.

    parameters: by name, what can train; bits: theirs, as they came; gradients: where
    nothing is frozen (None: it gets none), the only copy that is kept; notes: what a
    reader should know of this model.
    """

    def __init__(
        self, module: torch.nn.Module, inputs: Any, loss: Callable[[Any], torch.Tensor]
    ) -> None:
        self.module = module
        self.inputs = inputs
        self.loss = loss
        self.parameters: Dict[str, torch.nn.Parameter] = {
            name: parameter
            for name, parameter in module.named_parameters()
            if anatomy.differentiable(parameter) and readable(parameter)
        }
        self.fixed = [n for n, _ in module.named_parameters() if n not in self.parameters]
        # where each tensor belongs: a forward pass may put another one in its place
        self.places: List[Tuple[Dict[str, Any], str, torch.Tensor]] = [
            (slots, name, tensor)
            for owner in module.modules()
            for slots in (owner._parameters, owner._buffers)
            for name, tensor in slots.items()
            if tensor is not None
        ]
        tensors = [*(tensor for *_, tensor in self.places), *tensors_in(inputs)]
        known = {id(tensor): tensor for tensor in tensors if readable(tensor)}
        self.state: List[Tuple[torch.Tensor, bytes]] = [(t, read_bits(t)) for t in known.values()]
        taken = {id(tensor): bits for tensor, bits in self.state}
        self.bits = {name: taken[id(p)] for name, p in self.parameters.items()}
        self.by_name = isinstance(inputs, Mapping) and _fits(module.forward, inputs)
        self.modes = [(owner, owner.training) for owner in module.modules()]
        self.as_it_came: List[str] = []  # frozen ones that must stay so
        self.gradients: Dict[str, Optional[torch.Tensor]] = {}
        self.sparse = self.complex = False
        self.notes: List[str] = []

    def restore(self) -> None:
        """Values, modes and flags as they came; every parameter trainable, no gradients."""
        for slots, name, tensor in self.places:
            slots[name] = tensor
        with torch.no_grad():
            for tensor, bits in self.state:
                if not has_bits(tensor, bits):
                    tensor.copy_(from_bits(bits, tuple(tensor.shape), tensor.dtype))
        for owner, training in self.modes:
            owner.training = training
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)
            parameter.grad = None

    def leave_as_it_came(self, frozen: Sequence[str]) -> None:
        """Leave these frozen, and out of the masks: the model works only so."""
        self.as_it_came = list(frozen)
        for name in frozen:
            self.parameters.pop(name).requires_grad_(False)

    def seed(self) -> None:
        """The same random numbers for every run: dropout and the like."""
        torch.manual_seed(0)
        random.seed(0)
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed(0)

    def compute_loss(self) -> torch.Tensor:
        """Forward and loss."""
        self.seed()
        if self.by_name:
            output = self.module(**self.inputs)
        elif isinstance(self.inputs, (list, tuple)):
            output = self.module(*self.inputs)
        else:
            output = self.module(self.inputs)
        return self.loss(output)

    def backward(self) -> None:
        """Forward and backward, where anything requires grad."""
        loss = self.compute_loss()
        if loss.requires_grad:
            loss.backward()

    def freeze(self, names: Sequence[str]) -> None:
        """Freeze parameters by name."""
        for name in names:
            self.parameters[name].requires_grad_(False)

    def escaped(self) -> List[torch.Tensor]:
        """What still gets gradients where all parameters are frozen, and is no input.

        A leaf that every forward pass makes anew is no parameter either, such as positions of
        which a model takes forces.
        """
        losses = [self.compute_loss(), self.compute_loss()]
        first, second = ({id(leaf): leaf for leaf in _leaves(loss)} for loss in losses)
        inputs = {id(tensor) for tensor in tensors_in(self.inputs)}
        return [leaf for key, leaf in first.items() if key in second and key not in inputs]

    def keep_gradients(self) -> None:
        """Copy the gradients, dense and on the CPU, as those to compare with."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                gradient, parameter.grad = parameter.grad, None
                if gradient is None:
                    self.gradients[name] = None
                    continue
                dense = gradient.to_dense() if gradient.is_sparse else gradient
                kept = torch.empty(tuple(dense.shape), dtype=dense.dtype).copy_(dense)
                self.gradients[name] = kept

    def dead(self) -> List[str]:
        """Names that get no gradient even where nothing is frozen."""
        return [name for name, gradient in self.gradients.items() if gradient is None]


def _leaves(loss: torch.Tensor) -> Iterator[torch.Tensor]:
    """The leaves that a loss would send gradients to."""
    if loss.requires_grad and loss.grad_fn is None:
        yield loss
    waiting, seen = [loss.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, torch.Tensor):
            yield leaf
        waiting += [before for before, _ in node.next_functions]


def difference(one: Optional[torch.Tensor], two: Optional[torch.Tensor]) -> Optional[float]:
    """Largest gap of two gradients relative to the largest value; None: one of them is missing."""
    if one is None or two is None:
        return 0.0 if one is two else None
    gap = scale = 0.0
    with torch.no_grad():
        for a, b in pieces(*(t.to_dense() if t.is_sparse else t for t in (one, two))):
            if read_bits(a) == read_bits(b):  # NaN equals NaN
                scale = max(scale, magnitude(a))
                continue
            wide = torch.complex128 if a.is_complex() else torch.float64
            gap = max(gap, magnitude(a.to(wide) - b.to(wide)))
            scale = max(scale, magnitude(a))
    if not gap == gap or not scale == scale:
        return float("inf")
    return gap / scale if gap and scale else (float("inf") if gap else 0.0)


def off_its_step(
    parameter: torch.Tensor, before: bytes, gradient: torch.Tensor, rate: float
) -> Tuple[float, float]:
    """How far a parameter is from before - rate * gradient, and how far rounding may take it."""
    gap = size = 0.0
    was = from_bits(before, tuple(parameter.shape), parameter.dtype)
    with torch.no_grad():
        for now, old, slope in pieces(
            parameter, was, gradient.to_dense() if gradient.is_sparse else gradient
        ):
            rule = old - rate * slope
            gap = max(gap, magnitude(now - rule))
            size = max(size, magnitude(old) + magnitude(rule))
    return gap, 8 * torch.finfo(parameter.dtype).eps * size


def allowed(dtype: torch.dtype) -> float:
    """By how much a gradient may differ where kernels are chosen by what requires grad."""
    return min(0.1, 2**13 * torch.finfo(dtype).eps)


def _baseline(where: str, model: OwnModel) -> None:
    """Gradients where nothing is frozen. Raises pytest.UsageError where there are none."""
    model.restore()
    try:
        loss = model.compute_loss()
    except Exception as problem:
        raise pytest.UsageError(f"{where}: the forward pass or loss raised {said(problem)}") from None
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        what = tuple(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__
        raise pytest.UsageError(f"{where}: the loss must be a scalar tensor, but is {what}")
    if loss.is_complex() or not loss.requires_grad:
        why = "is complex" if loss.is_complex() else "does not require grad"
        raise pytest.UsageError(
            f"{where}: the loss {why}, so nothing can train: the model computes under no_grad, "
            "detaches its output, or gives integers"
        )
    try:
        loss.backward()
    except Exception as problem:
        raise pytest.UsageError(f"{where}: backward raised {said(problem)}") from None
    gradients = [p.grad for p in model.parameters.values() if p.grad is not None]
    if not gradients:
        raise pytest.UsageError(f"{where}: the loss depends on none of the parameters")
    model.sparse = any(gradient.is_sparse for gradient in gradients)
    model.complex = any(parameter.is_complex() for parameter in model.parameters.values())


def build(option: str, text: str, factory: Callable[[], Any], device: Optional[str] = None) -> OwnModel:
    """Call the factory, check what it returns and that it trains.

    device: where to move module and inputs; None: they stay. Raises pytest.UsageError with
    one sentence for whatever cannot be verified.
    """
    where = f"{option} {text}"
    result = parts(option, text, call(option, text, factory), RETURNED, 2)
    module, inputs = result[:2]
    loss = result[2] if len(result) > 2 else smooth_loss
    check_module(option, text, module)
    anatomy.refuse_overlapping(where, module)
    if not callable(loss) or not accepts(loss, None):
        raise pytest.UsageError(f"{where}: the third must be a function loss(output)")
    if not any(map(anatomy.differentiable, module.parameters())):
        count = len(list(module.parameters()))
        raise pytest.UsageError(
            f"{where}: the module has no parameters that could train: "
            + (f"all {count} of them are integer or bool" if count else "nothing to freeze")
        )
    if device is not None:
        module.to(device)
        inputs = moved_to(inputs, device)
    frozen = [name for name, p in module.named_parameters() if not p.requires_grad]
    model = OwnModel(module, inputs, loss)
    frozen = [name for name in frozen if name in model.parameters]
    try:
        _baseline(where, model)
    except pytest.UsageError:
        if not frozen or len(frozen) == len(model.parameters):
            raise
        model.leave_as_it_came(frozen)
        _baseline(where, model)
    model.keep_gradients()
    _baseline(where, model)
    for name, parameter in model.parameters.items():
        gap = difference(model.gradients[name], parameter.grad)
        if gap is None or not gap <= allowed(parameter.dtype):
            raise pytest.UsageError(
                f"{where}: two runs from the same state and seed give {name} different gradients: "
                "the model is not deterministic, so nothing can be compared; make its randomness "
                "come from torch's, numpy's or Python's global generator, and its state from its "
                "buffers"
            )
    model.restore()
    model.notes = list(_notes(model))
    return model


def _notes(model: OwnModel) -> Iterator[str]:
    module = model.module
    count = sum(parameter.numel() for parameter in model.parameters.values())
    yield f"{len(model.parameters)} parameters of {count:,} values; examples start from the factory's"
    for name, others in anatomy.aliases(module).items():
        yield f"tied: {name} is also {named(others)}; they freeze together"
    made = [n for n in model.parameters if ".original" in n or n.endswith(("weight_g", "weight_v"))]
    if made:
        yield f"reparametrized: {named(made)}; freeze these, not the weight that is made of them"
    lost = sorted(set(dict(module.named_buffers())) - set(module.state_dict()))
    if lost:
        yield f"buffers that state_dict does not save: {named(lost)}"
    hidden = anatomy.hidden_parameters(module)
    if hidden:
        yield f"outside named_parameters: {named(list(hidden))}; freezing the module misses them"
    if model.dead():
        yield f"dead: {named(model.dead())} got no gradient with nothing frozen"
    if model.as_it_came:
        yield f"left frozen, because it fails where they require grad: {named(model.as_it_came)}"
    if model.fixed:
        yield f"cannot train, not masked: {named(model.fixed)} (integer, bool, or without plain memory)"
