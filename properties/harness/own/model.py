"""A user's own model as the laws train it: its state kept and put back, its loss, its seeds."""

import dataclasses
import random
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import pytest
import torch

from properties.harness.bits import from_bits, read_bits
from properties.harness.own import anatomy
from properties.harness.own.factory import accepts, call, check_module, parts, said
from properties.harness.own.findings import named
from properties.harness.own.watch import readable, same_bits

SHAPES = ("module", "inputs", "loss")


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


def moved_to(value: Any, device: str) -> Any:
    """Inputs on another device."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: moved_to(item, device) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(moved_to(item, device) for item in value)
    return value


class OwnModel:
    """A model with its inputs and loss; every example starts from the state it came in.

    parameters: by name, what can train; gradients: where nothing is frozen
    (None: it gets none); notes: what a reader should know of this model.
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
            if anatomy.differentiable(parameter)
        }
        self.fixed = [n for n, _ in module.named_parameters() if n not in self.parameters]
        tensors = [*module.named_parameters(), *module.named_buffers()]
        self.state: Dict[str, Tuple[torch.Tensor, bytes]] = {
            name: (tensor, read_bits(tensor)) for name, tensor in tensors if readable(tensor)
        }
        self.modes = [(owner, owner.training) for owner in module.modules()]
        self.gradients: Dict[str, Optional[torch.Tensor]] = {}
        self.sparse = self.complex = False
        self.notes: List[str] = []

    def restore(self) -> None:
        """Values, modes and flags as they came; every parameter trainable, no gradients."""
        with torch.no_grad():
            for tensor, bits in self.state.values():
                if not same_bits(tensor, bits):
                    tensor.copy_(from_bits(bits, tuple(tensor.shape), tensor.dtype))
        for owner, training in self.modes:
            owner.training = training
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)
            parameter.grad = None

    def seed(self) -> None:
        """The same random numbers for every run: dropout and the like."""
        torch.manual_seed(0)
        random.seed(0)

    def compute_loss(self) -> torch.Tensor:
        """Forward and loss."""
        self.seed()
        if isinstance(self.inputs, Mapping):
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

    def copied_gradients(self) -> Dict[str, Optional[torch.Tensor]]:
        """The gradients now, dense and copied; None where there is none."""
        found: Dict[str, Optional[torch.Tensor]] = {}
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                gradient = parameter.grad
                if gradient is None:
                    found[name] = None
                    continue
                dense = gradient.to_dense() if gradient.is_sparse else gradient
                found[name] = torch.empty(tuple(dense.shape), dtype=dense.dtype).copy_(dense)
        return found

    def dead(self) -> List[str]:
        """Names that get no gradient even where nothing is frozen."""
        return [name for name, gradient in self.gradients.items() if gradient is None]


def difference(one: Optional[torch.Tensor], two: Optional[torch.Tensor]) -> Optional[float]:
    """Largest gap of two gradients relative to the largest value; None: one of them is missing."""
    if one is None or two is None:
        return 0.0 if one is two else None
    if read_bits(one) == read_bits(two) or not one.numel():
        return 0.0
    with torch.no_grad():
        wide = torch.complex128 if one.is_complex() else torch.float64
        gap = float((one.to(wide) - two.to(wide)).abs().max())
        scale = float(one.to(wide).abs().max())
    return gap / scale if scale else float("inf")


def allowed(dtype: torch.dtype) -> float:
    """By how much a gradient may differ where kernels are chosen by what requires grad."""
    return min(0.1, 2**13 * torch.finfo(dtype).eps)


def _baseline(where: str, model: OwnModel) -> Dict[str, Optional[torch.Tensor]]:
    """The gradients where nothing is frozen. Raises pytest.UsageError where there are none."""
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
    return model.copied_gradients()


def build(option: str, text: str, factory: Callable[[], Any], device: Optional[str] = None) -> OwnModel:
    """Call the factory, check what it returns and that it trains.

    device: where to move module and inputs; None: they stay. Raises pytest.UsageError with
    one sentence for whatever cannot be verified.
    """
    where = f"{option} {text}"
    result = parts(option, text, call(option, text, factory), SHAPES, 2)
    module, inputs = result[:2]
    loss = result[2] if len(result) > 2 else smooth_loss
    check_module(option, text, module)
    if not callable(loss) or not accepts(loss, None):
        raise pytest.UsageError(f"{where}: the third must be a function loss(output)")
    if not any(map(anatomy.differentiable, module.parameters())):
        raise pytest.UsageError(
            f"{where}: the module has no parameters that could train: nothing to freeze"
        )
    if device is not None:
        module.to(device)
        inputs = moved_to(inputs, device)
    model = OwnModel(module, inputs, loss)
    first = _baseline(where, model)
    model.gradients = _baseline(where, model)
    for name, gradient in first.items():
        gap = difference(gradient, model.gradients[name])
        if gap is None or not gap <= allowed(model.parameters[name].dtype):
            raise pytest.UsageError(
                f"{where}: two runs from the same state and seed give {name} different gradients: "
                "the model is not deterministic, so nothing can be compared; make its randomness "
                "come from torch's or Python's global generator, and its state from its buffers"
            )
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
    if model.fixed:
        yield f"cannot train, not masked: {named(model.fixed)} (integer or bool)"
