"""Looks on while optimizers step: what they hold, what they find there, what they move."""

import gc
import weakref
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Callable, Dict, FrozenSet, List, Mapping, Optional, Set, Tuple

import torch

from frostproof.properties.harness.own.watch import Watch, magnitude

# hooks on the steps of all optimizers; absent on old torch, where the living ones are looked up
HOOKS: Any = import_module(torch.optim.Optimizer.__module__)
STEP_HOOKS = hasattr(HOOKS, "register_optimizer_step_pre_hook")


@dataclass(frozen=True)
class Hand:
    """An optimizer's step that moved a parameter, and what it found there.

    name: of its class; gradient: "none", "zero" or "nonzero"; options: of its group;
    has_state: whether it kept something that is not zero from earlier steps.
    """

    name: str
    gradient: str
    options: Mapping[str, Any]
    has_state: bool


def living(kind: Callable[[type], bool]) -> List[Any]:
    """All objects whose type is of a kind; by type, not isinstance: proxies are left alone."""
    things = gc.get_objects()
    wanted = {known for known in set(map(type, things)) if kind(known)}  # few types, many objects
    return [thing for thing in things if type(thing) in wanted] if wanted else []


def is_optimizer(kind: type) -> bool:
    """Whether a type is that of a torch optimizer."""
    return issubclass(kind, torch.optim.Optimizer)


def _heeds_none(kind: type) -> bool:
    """Whether optimizers of a class are known to leave alone what has no gradient."""
    return kind.__module__.startswith("torch.optim") and "LBFGS" not in kind.__name__


def listed(optimizer: Any) -> List[torch.Tensor]:
    """The parameters in all of an optimizer's groups."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def gradient_kind(parameter: torch.Tensor) -> str:
    """Of the gradient that lies at a parameter: "none", "zero" or "nonzero"."""
    if parameter.grad is None:
        return "none"
    return "zero" if magnitude(parameter.grad) == 0 else "nonzero"


class OptimizerWatch:
    """The optimizers of a recipe's steps.

    parameters, frozen, still, watch: the examination's own, looked at as they change.
    earlier: ids of optimizers that lived before the recipe, on torch without hooks.
    moved: by name, whose hand moved a frozen parameter. holds: class of the optimizer
    that lists a tensor, by the tensor's id; rates: its highest learning rate so far.
    fed: names that had a gradient other than zero when an optimizer stepped.
    covers: the sets of parameters that optimizers list, one for each optimizer.
    """

    def __init__(
        self,
        parameters: Dict[str, torch.Tensor],
        frozen: Set[str],
        still: Set[str],
        watch: Watch,
        earlier: Set[int],
    ) -> None:
        self.parameters = parameters
        self.frozen = frozen
        self.still = still
        self.watch = watch
        self.earlier = earlier
        self.moved: Dict[str, Hand] = {}
        self.holds: Dict[int, str] = {}
        self.rates: Dict[int, float] = {}
        self.strangers: Set[Tuple[int, ...]] = set()  # shapes of what is listed and not in the module
        self.covers: Set[FrozenSet[str]] = set()
        self.fed: Set[str] = set()
        self.steps = 0
        self.scaled = False
        self._kinds: Dict[str, str] = {}
        self._handles: List[Any] = []
        self._known: List[Any] = []

    def attach(self) -> None:
        """Begin to look on."""
        if STEP_HOOKS:
            self._handles = [
                HOOKS.register_optimizer_step_pre_hook(self._begin),
                HOOKS.register_optimizer_step_post_hook(self._end),
            ]

    def remove(self) -> None:
        """Stop looking on."""
        for handle in self._handles:
            handle.remove()

    def _names(self, optimizer: Any) -> Dict[str, torch.Tensor]:
        inside = {id(parameter) for parameter in listed(optimizer)}
        return {name: p for name, p in self.parameters.items() if id(p) in inside}

    def _look(self, optimizer: Any) -> Dict[str, torch.Tensor]:
        """Note what an optimizer holds; its parameters by name."""
        names = self._names(optimizer)
        mine = {id(parameter) for parameter in names.values()}
        self.covers.add(frozenset(names))
        for group in optimizer.param_groups:
            rate = group.get("lr", 1.0)
            for parameter in group["params"]:
                key = id(parameter)
                self.holds[key] = type(optimizer).__name__
                self.rates[key] = max(self.rates.get(key, 0.0), float(rate))
                if key not in mine:
                    self.strangers.add(tuple(parameter.shape))
        return names

    def _begin(self, optimizer: Any, *_: Any) -> None:
        names = self._look(optimizer)
        self._feed(names)
        self._kinds = {
            name: gradient_kind(parameter)
            for name, parameter in names.items()
            if name in self.frozen and not self.watch.moved(name, parameter)
        }

    def _feed(self, names: Mapping[str, torch.Tensor]) -> None:
        for name, parameter in names.items():
            if name in self.still and name not in self.fed and gradient_kind(parameter) == "nonzero":
                self.fed.add(name)

    def _end(self, optimizer: Any, *_: Any) -> None:
        self.steps += 1
        names = self._names(optimizer)
        self._feed(names)
        for name, parameter in names.items():
            if name in self._kinds and name not in self.moved and self.watch.moved(name, parameter):
                self.moved[name] = self._hand(optimizer, parameter, self._kinds[name])

    @staticmethod
    def _hand(optimizer: Any, parameter: torch.Tensor, kind: str) -> Hand:
        group = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
        options = {key: value for key, value in group.items() if key != "params"}
        state = optimizer.state.get(parameter, {})
        moving = any(
            isinstance(value, torch.Tensor) and value.dim() and magnitude(value) != 0
            for value in state.values()
        )
        return Hand(type(optimizer).__name__, kind, options, moving)

    def find(self) -> None:
        """Look for optimizers that live, those that never step too, and for a GradScaler."""
        found = living(lambda kind: is_optimizer(kind) or kind.__name__ == "GradScaler")
        self._known = []
        for thing in found:
            if not is_optimizer(type(thing)):
                self.scaled = True
            elif self._names(thing) or not (STEP_HOOKS or id(thing) in self.earlier):
                self._look(thing)
                self._known.append(weakref.ref(thing))

    def owner_of_state(self, tensor: torch.Tensor) -> Optional[str]:
        """The class of the living optimizer in whose state a tensor is."""
        for reference in self._known:
            optimizer = reference()
            for values in () if optimizer is None else optimizer.state.values():
                if isinstance(values, Mapping) and any(value is tensor for value in values.values()):
                    return type(optimizer).__name__
        return None

    def blame(self, name: str, parameter: torch.Tensor) -> Optional[Hand]:
        """Whose hand moved a frozen parameter; without hooks, by what lies at it after the step."""
        if name in self.moved or STEP_HOOKS:
            return self.moved.get(name)
        self.find()
        kind = gradient_kind(parameter)
        for reference in self._known:
            optimizer = reference()
            if optimizer is not None and any(p is parameter for p in listed(optimizer)):
                if kind != "none" or not _heeds_none(type(optimizer)):
                    return self._hand(optimizer, parameter, kind)
        return None
