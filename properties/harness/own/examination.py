"""Watches a module through somebody's training, whatever their loop: every optimizer step is seen.

    examination = Examination(module, keep)
    examination.start()
    ...                        # any code that trains
    examination.stop()         # examination.findings, examination.notes

What watches returns nothing and changes nothing: hooks on parameters note that a gradient
came, hooks on optimizers look at flags and bits when a step begins and ends.
"""

import math
from contextlib import contextmanager
from typing import (
    AbstractSet,
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    Optional,
    Set,
    Tuple,
)

import torch

from frostproof.properties.harness.own import anatomy, causes
from frostproof.properties.harness.own.averaged_copies import AveragedCopies
from frostproof.properties.harness.own.cancelled import Cancelled
from frostproof.properties.harness.own.factory import frames_of, said
from frostproof.properties.harness.own.findings import Finding, Movement
from frostproof.properties.harness.own.frozen_buffers import FrozenBuffers
from frostproof.properties.harness.own.frozen_parameters import FrozenParameters
from frostproof.properties.harness.own.kept import Kept
from frostproof.properties.harness.own.optimizer_watch import OptimizerWatch
from frostproof.properties.harness.own.recipe import Recipe
from frostproof.properties.harness.own.traces import Traces
from frostproof.properties.harness.own.trainers import Training
from frostproof.properties.harness.own.verdicts import judge, look_at_the_setup, may_train_later
from frostproof.properties.harness.own.watch import Watch, finite, magnitude, readable

PATIENCE = 4  # steps are repeated this many times as often where something may train later


def bad_loss(result: Any) -> bool:
    """Whether what a step returned is a loss that is NaN, or infinite where it is all that came."""
    if isinstance(result, torch.Tensor):
        return not finite(result)
    if isinstance(result, float):
        return not math.isfinite(result)
    if isinstance(result, Mapping):
        losses = [value for key, value in result.items() if "loss" in str(key).lower()]
        losses = [v.tolist() if isinstance(v, torch.Tensor) and v.numel() == 1 else v for v in losses]
        return any(isinstance(value, float) and math.isnan(value) for value in losses)
    return False


def first_of(tensor: torch.Tensor, handle: Any) -> None:
    """Let a hook see a gradient before the user's own hooks change it."""
    hooks = tensor._backward_hooks
    if hooks is not None and len(hooks) > 1 and handle.id in hooks:
        others = [(key, hook) for key, hook in hooks.items() if key != handle.id]
        mine = hooks[handle.id]
        hooks.clear()
        hooks[handle.id] = mine
        hooks.update(others)


class Examination:
    """A module under watch; ``findings`` and ``notes`` say what came, once it has stopped.

    module: what trains. keep: a mapping of tensors, arrays or modules that must not change.
    earlier: ids of optimizers that lived before and are none of this module's (old torch).

    calls: how often the user's step was called (``call``), 0 where there is only a loop.
    steps: how often a round of optimizer steps began; a call begins one too, so that in a
    plain loop a step is a call. The numbers of steps in findings are these.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        keep: Any = None,
        *,
        earlier: AbstractSet[int] = frozenset(),
        notes: Iterable[str] = (),
    ) -> None:
        self.module = module
        self.calls = self.steps = 0
        self.findings: List[Finding] = []
        self.notes: List[str] = list(notes)
        self.watch = Watch()
        self.parameters: Dict[str, torch.Tensor] = {}
        self.hidden: Set[str] = set()  # of these, those outside named_parameters
        self.trainable: Set[str] = set()
        self.still: Set[str] = set()  # trainable, and not moved so far
        self.arrived: Set[str] = set()  # got a gradient in this step
        self.fresh: Set[str] = set()  # got one since an optimizer that holds it has stepped
        self.fed: Set[str] = set()  # had a gradient other than zero when an optimizer stepped
        self.sizes: Dict[str, float] = {}  # largest value of the gradients that a parameter got
        self.not_finite: Dict[str, int] = {}  # name: last step with such a gradient
        self.stepped_not_finite: Set[str] = set()  # of these, those with which an optimizer stepped
        self.kept_with_gradient: Set[str] = set()
        self.odd_from_the_start: Set[str] = set()  # holds NaN or infinity
        self.experts: Dict[str, Tuple[str, ...]] = {}
        self.idle: List[int] = []  # calls without an optimizer step or a gradient
        self.failed = self.frames = ""  # what a call raised, and where in the user's code
        self.hands = OptimizerWatch(self.parameters, self, earlier)
        self.followers = AveragedCopies()
        self.frozen = FrozenParameters(self)
        self.buffers = FrozenBuffers(self)
        self.traces = Traces(self)
        self.cancelled = Cancelled(self)
        self.replaced: Dict[str, int] = {}  # trainable names: the step in which a new one came
        kept = {} if keep is None else {"keep": keep}
        self.kept = Kept(self, keep if isinstance(keep, Mapping) else kept)
        self.movements: Dict[Tuple[str, str, str], Movement] = {}
        self._shapes: Set[Tuple[int, ...]] = set()  # of frozen parameters
        self._hooks: Dict[str, Tuple[torch.Tensor, Any]] = {}
        self._stepped: Set[str] = set()  # names that an optimizer has stepped in this round
        self._running = False

    # what is seen of gradients

    def _on_gradient(self, name: str, kept: bool) -> Callable[[Optional[torch.Tensor]], None]:
        def note(gradient: Optional[torch.Tensor]) -> None:
            if gradient is None or not self._running:  # None: of an autograd function that gives none
                return
            if kept:
                self.kept_with_gradient.add(name)
                return
            self.arrived.add(name)
            self.traces.gradient_came(name, gradient)
            self.fresh.add(name)
            if not finite(gradient):
                self.not_finite[name] = self.steps
            if name in self.still or name not in self.sizes:
                self.sizes[name] = max(self.sizes.get(name, 0.0), magnitude(gradient))

        note.__torch_unserializable__ = True  # type: ignore[attr-defined]  # pickling leaves it out
        return note

    def hook(self, name: str, tensor: torch.Tensor, kept: bool = False) -> None:
        """Note from now on when a leaf gets a gradient."""
        key, flag = f"keep {name}" if kept else name, tensor.requires_grad
        hooked = self._hooks.get(key)
        if hooked is not None and hooked[0] is tensor:
            return
        if hooked is not None:
            hooked[1].remove()
        if not tensor.is_leaf or not anatomy.differentiable(tensor) or (kept and not flag):
            return
        try:
            tensor.requires_grad = True  # torch hooks only what requires grad
            handle = tensor.register_hook(self._on_gradient(name, kept))
            self._hooks[key] = tensor, handle
            first_of(tensor, handle)
        except RuntimeError:
            self.notes.append(f"{name}: torch refuses a hook, so its gradients are not watched")
        finally:
            tensor.requires_grad = flag

    # the run

    def named(self) -> Dict[str, torch.Tensor]:
        """The module's parameters by name, those too that named_parameters does not list."""
        found: Dict[str, torch.Tensor] = dict(self.module.named_parameters())
        hidden = anatomy.hidden_parameters(self.module)
        self.hidden.update(hidden)
        found.update(hidden)
        return found

    def start(self) -> "Examination":
        """Take the first snapshots, and begin to look on."""
        self.parameters.update(self.named())
        self.frozen.start()
        self.trainable.update(set(self.parameters) - self.frozen.names)
        self._shapes = {tuple(self.parameters[name].shape) for name in self.frozen.names}
        self.experts = anatomy.experts(self.module)
        look_at_the_setup(self)
        for name, tensor in self.parameters.items():
            self.watch.remember(name, tensor)
            self.hook(name, tensor)
            if not finite(tensor):
                self.odd_from_the_start.add(name)
        self.buffers.start()
        self.kept.look_for_new()
        self.still.update(name for name in self.trainable if self.can_move(name))
        self.followers.remember(self.leaders(), self._shapes)
        self.cancelled.start()
        self.hands.attach()
        self._running = True
        return self

    def stop(self) -> "Examination":
        """Stop looking on, and judge what was seen."""
        if not self._running:
            return self
        try:
            if not self.calls:
                self._look()
        finally:
            self._running = False
            self.hands.remove()
            self.frozen.stop()
            for _, handle in self._hooks.values():
                handle.remove()
        judge(self)
        return self

    @contextmanager
    def call(self) -> Iterator[None]:
        """Round one call of the user's step, where training comes as such calls."""
        self.calls += 1
        self.steps += 1
        self._stepped.clear()
        self.hands.forget_running()
        self.arrived.clear()
        before, gradients = self.hands.steps, len(self.fresh)
        with self.cancelled.look():
            yield
        if self.hands.steps == before and not self.arrived and len(self.fresh) == gradients:
            self.idle.append(self.calls)
        self._look()

    def find_not_finite(self, subject: str, sentence: str) -> None:
        """R6, once for each subject."""
        if not any(f.law == "R6" and f.subject == subject for f in self.findings):
            self.find("R6", subject, sentence)

    def find(self, law: str, subject: str, sentence: str, cause: str = "") -> None:
        """Something that breaks a law."""
        self.findings.append(Finding(law, subject, sentence, cause))

    def can_move(self, name: str) -> bool:
        """Whether a parameter has plain memory, and values in it."""
        tensor = self.parameters[name]
        return readable(tensor) and tensor.numel() > 0

    def leaders(self) -> Dict[str, torch.Tensor]:
        """The parameters that are not frozen."""
        return {name: p for name, p in self.parameters.items() if name not in self.frozen.names}

    # what is seen of optimizers

    def before_step(self, optimizer: Any, names: Mapping[str, torch.Tensor]) -> None:
        """An optimizer is about to step: a round has passed where it had stepped already."""
        if not self.steps or not self._stepped.isdisjoint(names):
            if self._stepped:
                self._look()
            self.steps += 1
            self._stepped.clear()
        self._stepped.update(names)
        self._feed(names)
        self.cancelled.close()
        self.frozen.before_step(names)
        self.traces.before_step(optimizer, names)
        self.kept.before_step(names)

    def after_step(self, optimizer: Any, names: Mapping[str, torch.Tensor]) -> None:
        """An optimizer has stepped."""
        self._feed(names)
        self.frozen.after_step(optimizer, names)
        self.kept.after_step(optimizer, names)
        self.traces.after_step(optimizer, names)
        self.fresh.difference_update(names)

    def _feed(self, names: Mapping[str, torch.Tensor]) -> None:
        for name, parameter in names.items():
            if name in self.not_finite and name not in self.stepped_not_finite:
                if parameter.grad is not None and not finite(parameter.grad):
                    self.stepped_not_finite.add(name)
            if name in self.still and name not in self.fed:
                if parameter.grad is not None and magnitude(parameter.grad) != 0:
                    self.fed.add(name)

    def _look(self) -> None:
        """At the end of a round: what moved since the last one."""
        if self.steps == 1:
            self.hands.find()
        now = self.named()
        for name, was in list(self.parameters.items()):
            parameter = now.get(name, was)
            if name in self.still and self.watch.moved(name, parameter):
                self.still.discard(name)
                if name not in self.frozen.names:
                    self.watch.forget(name)
        self.frozen.look(now)
        self.traces.look()
        for name, was in list(self.parameters.items()):
            parameter = self.parameters[name] = now.get(name, was)
            if parameter is not was and parameter.requires_grad:
                self.replaced[name] = self.steps
            may_differ = self.steps == 1 or parameter is not was or name not in self.frozen.names
            if may_differ and not finite(parameter):
                if name not in self.odd_from_the_start or parameter is not was:
                    self.find_not_finite(name, f"holds NaN or infinity after step {self.steps}")
        self.buffers.look()
        self.kept.look()
        for name, parameter in now.items():
            self.parameters.setdefault(name, parameter)
            self.hook(name, parameter)
        self.followers.remember(self.leaders(), self._shapes)
        self.arrived.clear()


def _one_call(examination: Examination, recipe: Recipe, wanted: int) -> bool:
    """One call of a recipe's step; whether it came to its end."""
    try:
        with examination.call():
            result = recipe.step()
    except (Exception, SystemExit) as problem:
        call = examination.calls
        examination.calls -= 1
        examination.steps -= 1
        text = f"raised {said(problem)}{causes.DATA_ENDED * isinstance(problem, StopIteration)}"
        if call > wanted:  # more than was asked for: not held against it
            examination.notes.append(f"step {call}, waiting for what may train later, {text}")
        else:
            examination.failed, examination.frames = text, frames_of(problem)
            examination.find("R7", f"step {call}", text)
        return False
    if bad_loss(result):
        examination.find_not_finite(
            "the step's loss", f"is NaN or infinite at step {examination.steps}"
        )
    return True


def examine(recipe: Recipe, steps: int = 6) -> Examination:
    """Call a recipe's step under watch, and judge it.

    steps: how often; up to PATIENCE times as often where something may train later.
    """
    examination = Examination(recipe.module, recipe.keep, earlier=recipe.earlier)
    examination.notes = recipe.notes
    patience = PATIENCE
    if isinstance(recipe.step, Training):  # one call is all of it
        recipe.step.steps, steps, patience = steps, 1, 1
    examination.start()
    try:
        while examination.calls < steps or (
            examination.calls < steps * patience and may_train_later(examination)
        ):
            if not _one_call(examination, recipe, steps):
                break
    finally:
        examination.stop()
    return examination
