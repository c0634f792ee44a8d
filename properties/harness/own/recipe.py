"""A user's recipe as its factory returns it: a module, one training step, what is to be kept."""

import inspect
from dataclasses import dataclass, field
from typing import Any, Callable, Iterator, List, Mapping, Optional, Set, Tuple

import pytest
import torch

from frostproof.properties.harness.own import anatomy
from frostproof.properties.harness.own.factory import accepts, call, check_module, parts
from frostproof.properties.harness.own.optimizer_watch import STEP_HOOKS, is_optimizer, living
from frostproof.properties.harness.own.trainers import as_recipe

RETURNED = ("module", "step", "keep")


@dataclass
class Recipe:
    """What a recipe's factory returned: a module, one training step, what must not change."""

    module: torch.nn.Module
    step: Callable[[], Any]
    keep: Any
    earlier: Set[int] = field(default_factory=set)  # ids of optimizers from before, on old torch
    notes: List[str] = field(default_factory=list)


def build(option: str, text: str, factory: Callable[[], Any]) -> Recipe:
    """Call the factory and check what it returns. Raises pytest.UsageError with one sentence."""
    where = f"{option} {text}"
    earlier = set() if STEP_HOOKS else set(map(id, living(is_optimizer)))
    result = parts(option, text, as_recipe(call(option, text, factory)), RETURNED, 2)
    module, step = result[:2]
    keep = result[2] if len(result) > 2 else {}
    check_module(option, text, module)
    anatomy.refuse_overlapping(where, module)
    if not callable(step) or not accepts(step):
        raise pytest.UsageError(
            f"{where}: the second must be a function without arguments that does one training step, "
            f"but is " + (f"step{inspect.signature(step)}" if callable(step) else type(step).__name__)
        )
    for lazily in (inspect.isgeneratorfunction, inspect.iscoroutinefunction):
        if lazily(step):
            raise pytest.UsageError(
                f"{where}: the second is a generator or coroutine function, which does nothing when "
                "it is called: return a plain function that does one training step"
            )
    containers = (Mapping, torch.nn.Module, torch.Tensor, list, tuple)
    if not isinstance(keep, containers):
        raise pytest.UsageError(
            f"{where}: the third must be a mapping of tensors or modules that must not change, but is "
            f"{type(keep).__name__}"
        )
    if not isinstance(keep, Mapping):
        keep = {"keep": keep}
    if not list(module.parameters()):
        raise pytest.UsageError(f"{where}: the module has no parameters: nothing can be frozen")
    recipe = Recipe(module, step, keep, earlier)
    if len(result) > 2 and not dict(flattened("", keep)):
        recipe.notes.append("keep holds no tensor at first: what comes into it is watched from then on")
    return recipe


def _from_numpy(array: Any) -> Optional[torch.Tensor]:
    """A tensor on an array's own memory; None where torch cannot have one."""
    try:
        return torch.from_numpy(array)
    except (TypeError, ValueError):
        return None


def flattened(name: str, value: Any) -> Iterator[Tuple[str, torch.Tensor]]:
    """The tensors in a tensor, array, module, mapping or list, each with the path to it."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, torch.nn.Module):
        for inner, tensor in [*value.named_parameters(), *value.named_buffers()]:
            yield f"{name}.{inner}", tensor
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from flattened(f"{name}[{key!r}]" if name else str(key), item)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from flattened(f"{name}[{index}]", item)
    elif type(value).__module__ == "numpy" and hasattr(value, "__array_interface__"):
        shared = _from_numpy(value)
        if shared is not None:
            yield name, shared


def modules_in(value: Any) -> Iterator[torch.nn.Module]:
    """The modules in a mapping, list or module."""
    if isinstance(value, torch.nn.Module):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from modules_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from modules_in(item)
