"""Looks on while optimizers step: what they hold, what they find there, what they move."""

import functools
import gc
import types
import weakref
from dataclasses import dataclass
from importlib import import_module
from typing import (
    AbstractSet,
    Any,
    Callable,
    Dict,
    FrozenSet,
    Iterable,
    List,
    Mapping,
    Optional,
    Protocol,
    Set,
    Tuple,
)

import torch

from frostproof.properties.harness.own.watch import magnitude

# hooks on the steps of all optimizers; on old torch, and on optimizers that torch's own
# constructor has not seen, ``step`` is wrapped on the instance
HOOKS: Any = import_module(torch.optim.Optimizer.__module__)
STEP_HOOKS = hasattr(HOOKS, "register_optimizer_step_pre_hook")


@dataclass(frozen=True)
class Hand:
    """An optimizer's step that moved a tensor, and what it found there.

    name: of its class; gradient: "none", "zero" or "nonzero"; options: of its group;
    has_state: whether it kept something that is not zero from earlier steps.
    """

    name: str
    gradient: str
    options: Mapping[str, Any]
    has_state: bool


class Onlooker(Protocol):
    """What is told of the outermost steps; names: the parameters that the optimizer holds."""

    def before_step(self, optimizer: Any, names: Mapping[str, torch.Tensor]) -> None:
        """An optimizer is about to step."""

    def after_step(self, optimizer: Any, names: Mapping[str, torch.Tensor]) -> None:
        """An optimizer has stepped."""


def living(kind: Callable[[type], bool]) -> List[Any]:
    """All objects whose type is of a kind; by type, not isinstance: proxies are left alone."""
    things = gc.get_objects()
    wanted = {known for known in set(map(type, things)) if kind(known)}  # few types, many objects
    return [thing for thing in things if type(thing) in wanted] if wanted else []


def is_optimizer(kind: type) -> bool:
    """Whether a type is that of a torch optimizer."""
    return issubclass(kind, torch.optim.Optimizer)


def listed(optimizer: Any) -> List[torch.Tensor]:
    """The parameters in all of an optimizer's groups; none of one that is not whole yet."""
    groups = getattr(optimizer, "param_groups", None) or ()
    return [parameter for group in groups for parameter in group["params"]]


def gradient_kind(parameter: torch.Tensor) -> str:
    """Of the gradient that lies at a parameter: "none", "zero" or "nonzero"."""
    if parameter.grad is None:
        return "none"
    return "zero" if magnitude(parameter.grad) == 0 else "nonzero"


def hand_of(optimizer: Any, parameter: torch.Tensor, kind: str) -> Hand:
    """An optimizer's hand on one of the parameters that it lists."""
    group = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
    options = {key: value for key, value in group.items() if key != "params"}
    state = getattr(optimizer, "state", {}).get(parameter, {})
    values = state.values() if isinstance(state, Mapping) else ()
    moving = any(
        isinstance(value, torch.Tensor) and value.dim() and magnitude(value) != 0 for value in values
    )
    return Hand(type(optimizer).__name__, kind, options, moving)


class OptimizerWatch:
    """The optimizers that step while it looks on.

    parameters: the examination's own, by name, looked at as they change.
    earlier: ids of optimizers that lived before, of which none but those that hold the
    parameters matter. holds: class of the optimizer that lists a tensor, by the tensor's id;
    rates: its highest learning rate so far; rate_now: its latest.
    strangers: shapes of what is listed and not in the module. covers: the sets of parameters
    that optimizers list, one for each. steps: outermost steps that were done.
    scaled: whether a GradScaler lives.
    """

    def __init__(
        self, parameters: Dict[str, torch.Tensor], onlooker: Onlooker, earlier: AbstractSet[int]
    ) -> None:
        self.parameters = parameters
        self.onlooker = onlooker
        self.earlier = earlier
        self.holds: Dict[int, str] = {}
        self.rates: Dict[int, float] = {}
        self.rate_now: Dict[int, float] = {}
        self.strangers: Set[Tuple[int, ...]] = set()
        self.covers: Set[FrozenSet[str]] = set()
        self.steps = 0
        self.scaled = False
        self._running: List[Any] = []  # the optimizers that step now, the outermost first
        self._handles: List[Any] = []
        self._wrapped: Dict[int, Tuple[Any, bool, Any]] = {}  # id: optimizer, own step?, that step
        self._known: List[Any] = []
        self._add_group: Any = None

    def attach(self) -> None:
        """Begin to look on."""
        if STEP_HOOKS:
            self._handles = [
                HOOKS.register_optimizer_step_pre_hook(self._begin),
                HOOKS.register_optimizer_step_post_hook(self._end),
            ]
        else:
            self._notice_new_ones()
        self._wrap(living(is_optimizer))

    def remove(self) -> None:
        """Stop looking on."""
        for handle in self._handles:
            handle.remove()
        for optimizer, own, step in self._wrapped.values():
            if own:
                optimizer.step = step
            else:
                optimizer.__dict__.pop("step", None)
        self._wrapped.clear()
        if self._add_group is not None:
            torch.optim.Optimizer.add_param_group = self._add_group  # type: ignore
            self._add_group = None

    def _notice_new_ones(self) -> None:
        """Old torch: every optimizer adds its groups by this method as it is built."""
        plain = self._add_group = torch.optim.Optimizer.add_param_group
        watch = self

        @functools.wraps(plain)
        def add_param_group(optimizer: Any, *arguments: Any, **named: Any) -> Any:
            watch._wrap([optimizer])
            return plain(optimizer, *arguments, **named)

        torch.optim.Optimizer.add_param_group = add_param_group  # type: ignore

    def _wrap(self, optimizers: Iterable[Any]) -> None:
        """Wrap the steps that hooks do not see."""
        for optimizer in optimizers:
            seen = STEP_HOOKS and getattr(type(optimizer).step, "hooked", None)
            if seen or id(optimizer) in self._wrapped:
                continue
            if id(optimizer) in self.earlier and not self._names(optimizer):
                continue
            own = "step" in vars(optimizer)
            plain = optimizer.step
            self._wrapped[id(optimizer)] = optimizer, own, plain
            optimizer.step = types.MethodType(self._watched(plain), optimizer)

    def _watched(self, plain: Any) -> Any:
        @functools.wraps(plain)
        def step(optimizer: Any, *arguments: Any, **named: Any) -> Any:
            self._begin(optimizer)
            result = plain(*arguments, **named)
            self._end(optimizer)
            return result

        return step

    def _names(self, optimizer: Any) -> Dict[str, torch.Tensor]:
        inside = {id(parameter) for parameter in listed(optimizer)}
        return {name: p for name, p in self.parameters.items() if id(p) in inside}

    def _look(self, optimizer: Any) -> Dict[str, torch.Tensor]:
        """Note what an optimizer holds; its parameters by name."""
        names = self._names(optimizer)
        mine = {id(parameter) for parameter in names.values()}
        self.covers.add(frozenset(names))
        for group in getattr(optimizer, "param_groups", None) or ():
            rate = group.get("lr", 1.0)
            for parameter in group["params"]:
                key = id(parameter)
                self.holds[key] = type(optimizer).__name__
                try:
                    self.rate_now[key] = float(rate)
                except (TypeError, ValueError):  # a schedule of the optimizer's own
                    self.rate_now[key] = 1.0
                self.rates[key] = max(self.rates.get(key, 0.0), self.rate_now[key])
                if key not in mine:
                    self.strangers.add(tuple(parameter.shape))
        return names

    def _begin(self, optimizer: Any, *_: Any) -> None:
        if any(running is optimizer for running in self._running):
            self._running.clear()  # its last step raised
        self._running.append(optimizer)
        names = self._look(optimizer)
        if len(self._running) == 1:
            self.onlooker.before_step(optimizer, names)

    def _end(self, optimizer: Any, *_: Any) -> None:
        if not self._running or self._running[-1] is not optimizer:
            return  # its step began before it was looked at, or one inside it raised
        self._running.pop()
        if not self._running:
            self.steps += 1
            self.onlooker.after_step(optimizer, self._names(optimizer))

    def forget_running(self) -> None:
        """A step that raised has no end."""
        self._running.clear()

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
