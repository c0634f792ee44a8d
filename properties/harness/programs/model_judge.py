"""A program run by torch and by the model, and what differs."""

from dataclasses import dataclass, field
from functools import cache
from typing import Any, Dict, List, Optional, Tuple

import torch

from frostproof.properties.harness.programs.execute import code_of, flat, live
from frostproof.properties.harness.reference.eager.memory import NotModelled
from frostproof.properties.harness.reference.eager.namespace import TORCH, backward
from frostproof.properties.harness.reference.eager.tape import GradMode
from frostproof.properties.harness.reference.eager.tensor import ModelTensor
from frostproof.strategies.programs import OF_MODULE, Program

TOLERANCE = {"float64": 1e-9, "float32": 1e-4}


@dataclass
class Seen:
    """What one side shows of a program: plain values by the words that name them."""

    facts: Dict[str, Any] = field(default_factory=dict)
    numbers: Dict[str, List[float]] = field(default_factory=dict)
    error: str = ""


def weights_of(count: int, place: int) -> List[float]:
    """Unlike small weights for an output's elements, so that no two gradients cancel."""
    return [float((number * 7 + place * 3) % 5 + 1) for number in range(count)]


@cache
def counts_at_birth() -> bool:
    """Whether this torch counts the copy by which a tensor is made as a write to it (1.8)."""
    return torch.zeros(2, 2).t().contiguous()._version > 0


def by_model(program: Program) -> Seen:
    """What the model says; NotModelled where it says nothing."""
    if program.preamble():
        raise NotModelled("hooks, custom functions and kept tensors")
    GradMode.enabled = True
    space: Dict[str, Any] = {"torch": TORCH, "fired": [], "__name__": "program"}
    exec(code_of(program.function()), space)
    module = space["Net"]() if program.stateful else None
    scope: Dict[str, Any] = {"torch": TORCH, "module": module}
    exec(code_of(program.setup()), scope)
    for given in program.inputs:
        if given.kind in OF_MODULE:
            scope[given.name] = getattr(module, given.name)
    tensors = {name: value for name, value in scope.items() if isinstance(value, ModelTensor)}
    arguments = [tensors[given.name] for given in program.arguments]
    call: Any = module if program.stateful else space["f"]
    try:
        outputs = flat(call(*arguments))
    except (RuntimeError, IndexError, ValueError) as problem:
        return Seen(error=f"forward: {problem}")
    seen = Seen()
    inputs = {name: value for name, value in tensors.items() if not name.endswith("_base")}
    everything = {**inputs, **{f"output {place}": each for place, each in enumerate(outputs)}}
    for name, each in everything.items():
        if not isinstance(each, ModelTensor):
            raise NotModelled("an output that is no tensor")
        seen.facts[f"shape of {name}"] = each.shape
        seen.facts[f"version of {name}"] = each._version
        if not _flags_are_told(seen, name, each):
            return seen
        if each.geometry.known and 0 not in each.shape:
            seen.facts[f"strides of {name}"] = _strides(each.shape, each.geometry.strides)
        seen.numbers[f"values of {name}"] = each.values()
    seen.facts["which share memory"] = _sharing(
        {name: id(each.storage) for name, each in everything.items()}
    )
    live_outputs = [each for each in outputs if each.recorded]
    if live_outputs:
        rows = [weights_of(len(each.cells()), place) for place, each in enumerate(live_outputs)]
        try:
            backward(live_outputs, rows)
        except RuntimeError as problem:
            seen.error = f"backward: {problem}"
            return seen
    for name, each in inputs.items():
        if each.history.leaf and (each.base is None or each.lone) and each.history.requires_grad:
            found = each.history.gradients or {}
            seen.numbers[f"gradient of {name}"] = [found.get(place, 0.0) for place in each.cells()]
        elif each.base is None and not each.history.requires_grad:
            seen.facts[f"{name} has a gradient"] = False
    return seen


def _flags_are_told(seen: Seen, name: str, tensor: Any) -> bool:
    """Note a tensor's flags, the model's or torch's; where autograd refuses to say, that error."""
    try:
        seen.facts[f"{name} requires grad"] = tensor.requires_grad
        seen.facts[f"{name} is a leaf"] = tensor.is_leaf
        seen.facts[f"{name} has a grad_fn"] = tensor.grad_fn is not None
    except RuntimeError as problem:
        seen.error = f"flags of {name}: {problem}"
        return False
    return True


def _strides(shape: Tuple[int, ...], strides: Tuple[int, ...]) -> Tuple[int, ...]:
    """Strides of the axes along which there is more than one element: others mean nothing."""
    return tuple(stride for extent, stride in zip(shape, strides) if extent > 1)


def _sharing(owners: Dict[str, int]) -> List[Tuple[str, ...]]:
    groups: Dict[int, List[str]] = {}
    for name, owner in owners.items():
        groups.setdefault(owner, []).append(name)
    return sorted(tuple(names) for names in groups.values() if len(names) > 1)


def _storage(tensor: torch.Tensor) -> int:
    found = getattr(tensor, "untyped_storage", tensor.storage)()
    return int(getattr(found, "_cdata", found.data_ptr()))


def base_of(tensor: torch.Tensor) -> torch.Tensor:
    """What a view is a view of."""
    base = tensor._base
    assert base is not None
    return base


def by_torch(program: Program, device: str = "cpu") -> Seen:
    """What torch shows, in eager mode."""
    running = live(program)
    arguments = running.renew(device)
    try:
        outputs = flat(running.call(*arguments))
    except Exception as problem:
        return Seen(error=f"forward: {problem}")
    finally:
        torch.set_grad_enabled(True)
    seen = Seen()
    inputs = running.tensors
    everything = {**inputs, **{f"output {place}": each for place, each in enumerate(outputs)}}
    for name, each in everything.items():
        if not isinstance(each, torch.Tensor):
            continue
        seen.facts[f"shape of {name}"] = tuple(each.shape)
        seen.facts[f"version of {name}"] = each._version
        if not _flags_are_told(seen, name, each):
            return seen
        seen.facts[f"strides of {name}"] = _strides(tuple(each.shape), tuple(each.stride()))
        # a copy made then: backward may run what writes to it
        seen.numbers[f"values of {name}"] = each.detach().cpu().flatten().tolist()
    seen.facts["which share memory"] = _sharing(
        {n: _storage(e) for n, e in everything.items() if isinstance(e, torch.Tensor)}
    )
    alive = [
        each
        for each in outputs
        if isinstance(each, torch.Tensor)
        and each.requires_grad
        and (each.grad_fn is not None or not each._is_view() or not base_of(each).requires_grad)
    ]
    if alive:
        try:
            rows = [weights_of(each.numel(), place) for place, each in enumerate(alive)]
            slopes = [
                torch.tensor(row, dtype=each.dtype, device=each.device).reshape(each.shape)
                for row, each in zip(rows, alive)
            ]
            torch.autograd.backward(alive, slopes)
        except Exception as problem:
            seen.error = f"backward: {problem}"
            return seen
    for name, each in inputs.items():
        grad = each.grad if each.is_leaf else None
        seen.facts[f"{name} has a gradient"] = grad is not None
        count = each.numel()
        seen.numbers[f"gradient of {name}"] = (
            [0.0] * count if grad is None else grad.detach().cpu().flatten().tolist()
        )
    return seen


def difference(model: Seen, torch_: Seen, dtype: str = "float64") -> Optional[str]:
    """The first thing that the model says and torch does otherwise; None where they agree."""
    stages = [seen.error.split(":")[0] for seen in (model, torch_)]
    if stages[0] != stages[1]:
        ours, theirs = (seen.error or "no error" for seen in (model, torch_))
        return f"errors: expected {ours!r}, got {theirs!r}"
    if stages[0] == "forward":
        return None
    for what, expected in model.facts.items():
        if what in torch_.facts and torch_.facts[what] != expected:
            return f"{what}: expected {expected!r}, got {torch_.facts[what]!r}"
    for what, numbers in model.numbers.items():
        if what not in torch_.numbers:
            continue
        for expected, got in zip(numbers, torch_.numbers[what]):
            same = expected == got or (expected != expected and got != got)
            if not same and not abs(expected - got) <= TOLERANCE[dtype] * (1 + abs(expected)):
                return f"{what}: expected {numbers}, got {torch_.numbers[what]}"
    return None
