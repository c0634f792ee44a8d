"""Runs a user's own training steps, and finds what moved that should not, or did not that should.

The step is run exactly as it is. What watches it returns nothing and changes nothing: hooks
on parameters note that a gradient came, hooks on optimizers note which of them moved what.
"""

import inspect
import math
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Set, Tuple

import pytest
import torch

from frostproof.properties.harness.own import anatomy, causes
from frostproof.properties.harness.own.averaged_copies import AveragedCopies
from frostproof.properties.harness.own.factory import accepts, call, check_module, parts, said
from frostproof.properties.harness.own.findings import Finding, named
from frostproof.properties.harness.own.optimizer_watch import (
    STEP_HOOKS,
    OptimizerWatch,
    is_optimizer,
    living,
)
from frostproof.properties.harness.own.watch import Watch, finite, largest_change, magnitude, readable

SHAPES = ("module", "step", "keep")
PATIENCE = 4  # steps are repeated this many times as often where something may train later


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
    result = parts(option, text, call(option, text, factory), SHAPES, 2)
    module, step = result[:2]
    keep = result[2] if len(result) > 2 else {}
    check_module(option, text, module)
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


def _bad_loss(result: Any) -> bool:
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


class Examination:
    """A recipe under watch. ``run`` does the steps; ``findings`` and ``notes`` say what came."""

    def __init__(self, recipe: Recipe, steps: int) -> None:
        self.recipe = recipe
        self.wanted_steps = steps
        self.steps = 0
        self.findings: List[Finding] = []
        self.notes = recipe.notes
        self.watch = Watch()
        self.parameters: Dict[str, torch.Tensor] = {}
        self.hidden: Set[str] = set()  # of these, those outside named_parameters
        self.frozen: Set[str] = set()
        self.trainable: Set[str] = set()
        self.still: Set[str] = set()  # trainable, and not moved so far
        self.buffers: Dict[str, torch.Tensor] = {}
        self.keep: Dict[str, torch.Tensor] = {}
        self.replaced: Set[str] = set()  # of what is kept
        self.arrived: Set[str] = set()  # got a gradient in this step
        self.sizes: Dict[str, float] = {}  # largest value of the gradients that a parameter got
        self.kept_with_gradient: Set[str] = set()
        self.not_finite: Dict[str, int] = {}  # name: last step with such a gradient
        self.frozen_since: Dict[str, int] = {}
        self.thawed_since: Dict[str, int] = {}
        self.experts: Dict[str, Tuple[str, ...]] = {}
        self.hands = OptimizerWatch(
            self.parameters, self.frozen, self.still, self.watch, recipe.earlier
        )
        self.followers = AveragedCopies()
        self.pending: List[Finding] = []  # fall away where they belong to a follower
        self._shapes: Set[Tuple[int, ...]] = set()  # of frozen parameters
        self._hooks: Dict[str, Tuple[torch.Tensor, Any]] = {}

    # watching

    def _named(self) -> Dict[str, torch.Tensor]:
        found: Dict[str, torch.Tensor] = dict(self.recipe.module.named_parameters())
        hidden = anatomy.hidden_parameters(self.recipe.module)
        self.hidden.update(hidden)
        found.update(hidden)
        return found

    def _on_gradient(self, name: str, kept: bool) -> Callable[[Optional[torch.Tensor]], None]:
        def note(gradient: Optional[torch.Tensor]) -> None:
            if gradient is None:  # of an autograd function that gives none
                return
            if kept:
                self.kept_with_gradient.add(name)
                return
            self.arrived.add(name)
            if not finite(gradient):
                self.not_finite[name] = self.steps
            if name in self.still or name not in self.sizes:
                self.sizes[name] = max(self.sizes.get(name, 0.0), magnitude(gradient))

        note.__torch_unserializable__ = True  # type: ignore[attr-defined]  # pickling leaves it out
        return note

    def _hook(self, name: str, tensor: torch.Tensor, kept: bool = False) -> None:
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
            self._hooks[key] = tensor, tensor.register_hook(self._on_gradient(name, kept))
        except RuntimeError:
            self.notes.append(f"{name}: torch refuses a hook, so its gradients are not watched")
        finally:
            tensor.requires_grad = flag

    # the run

    def run(self) -> "Examination":
        """Do the steps and judge them."""
        module = self.recipe.module
        self.parameters.update(self._named())
        self.frozen.update(n for n, p in self.parameters.items() if not p.requires_grad)
        self.trainable.update(set(self.parameters) - self.frozen)
        self._shapes = {tuple(self.parameters[name].shape) for name in self.frozen}
        self.buffers = anatomy.frozen_buffers(module)
        self.experts = anatomy.experts(module)
        self._look_at_the_setup()
        for name, tensor in {**self.parameters, **self.buffers}.items():
            self.watch.remember(name, tensor)
            if name in self.parameters:
                self._hook(name, tensor)
        self._watch_keep()
        self.still.update(name for name in self.trainable if self._can_move(name))
        self.followers.remember(self._leaders(), self._shapes)
        self.hands.attach()
        try:
            while self.steps < self.wanted_steps or (
                self.steps < self.wanted_steps * PATIENCE and self._may_train_later()
            ):
                if not self._one_step():
                    break
        finally:
            self.hands.remove()
            for _, handle in self._hooks.values():
                handle.remove()
        self._sum_up()
        return self

    def _can_move(self, name: str) -> bool:
        tensor = self.parameters[name]
        return readable(tensor) and tensor.numel() > 0

    def _watch_keep(self) -> None:
        """Watch what is to be kept, and what came into it since."""
        inside = {id(parameter) for parameter in self.parameters.values()}
        for name, tensor in flattened("", self.recipe.keep):
            if name not in self.keep:
                self.keep[name] = tensor
                self.watch.remember(f"keep {name}", tensor)
                if id(tensor) not in inside:
                    self._hook(name, tensor, kept=True)

    def _leaders(self) -> Dict[str, torch.Tensor]:
        return {name: p for name, p in self.parameters.items() if name not in self.frozen}

    def _may_train_later(self) -> bool:
        """Whether something that an optimizer holds has not moved yet: a late or rare update."""
        idle = {name for name in self.still if self._excused(name) is None}
        if not self.hands.holds:
            return bool(idle) and self.still == self.trainable
        return any(id(self.parameters[name]) in self.hands.holds for name in idle)

    def _find(self, law: str, subject: str, sentence: str, cause: str = "") -> None:
        self.findings.append(Finding(law, subject, sentence, cause))

    def _one_step(self) -> bool:
        self.steps += 1
        self.arrived = set()
        flags = {name: p.requires_grad for name, p in self.parameters.items()}
        versions = {name: p._version for name, p in self.parameters.items()}
        try:
            result = self.recipe.step()
        except (Exception, SystemExit) as problem:
            ended = isinstance(problem, StopIteration)
            text = f"raised {said(problem)}{causes.DATA_ENDED if ended else ''}"
            if self.steps > self.wanted_steps:  # more than was asked for: not held against it
                self.notes.append(f"step {self.steps}, waiting for what may train later, {text}")
            else:
                self._find("R7", f"step {self.steps}", text)
            self.steps -= 1
            return False
        if _bad_loss(result):
            self._find_not_finite("the step's loss", f"is NaN or infinite at step {self.steps}")
        if self.steps == 1:
            self.hands.find()
        now = self._named()
        self._compare_parameters(now, flags, versions)
        self._compare_buffers()
        self._compare_keep()
        for name, parameter in now.items():
            self.parameters.setdefault(name, parameter)
            self._hook(name, parameter)
        self.followers.remember(self._leaders(), self._shapes)
        return True

    def _compare_parameters(
        self, now: Dict[str, torch.Tensor], flags: Dict[str, bool], versions: Dict[str, int]
    ) -> None:
        for name, was in list(self.parameters.items()):
            parameter = now.get(name, was)
            if name in self.still and self.watch.moved(name, parameter):
                self.still.discard(name)
                self.watch.forget(name)
            thawed = not flags[name] and (parameter.requires_grad or name in self.arrived)
            if name in self.frozen and thawed:
                self._thaw(name, parameter)
            elif name in self.frozen and self.watch.moved(name, parameter):
                self._frozen_moved(name, was, parameter, versions)
            elif (
                name in self.trainable
                and not parameter.requires_grad
                and name not in self.arrived
                and (flags[name] or name not in self.frozen_since)
            ):
                self._freeze_midway(name, parameter)
            self.parameters[name] = parameter
            may_differ = self.steps == 1 or parameter is not was or name not in self.frozen
            if may_differ and not finite(parameter):
                self._find_not_finite(name, f"holds NaN or infinity after step {self.steps}")

    def _find_not_finite(self, subject: str, sentence: str) -> None:
        if not any(f.law == "R6" and f.subject == subject for f in self.findings):
            self._find("R6", subject, sentence)

    def _thaw(self, name: str, parameter: torch.Tensor) -> None:
        """A schedule that unfreezes, or a step that switches the flag itself."""
        self.frozen.discard(name)
        if not parameter.requires_grad or name in self.frozen_since:
            self.watch.forget(name)  # it takes turns
            return
        self.thawed_since[name] = self.steps
        self.trainable.add(name)
        if self.watch.moved(name, parameter) or not self._can_move(name):
            self.watch.forget(name)
        else:
            self.still.add(name)

    def _freeze_midway(self, name: str, parameter: torch.Tensor) -> None:
        """A parameter that the recipe freezes on its way is watched from the next step on."""
        self.frozen_since[name] = self.steps
        self.still.discard(name)
        self.frozen.add(name)
        self.watch.remember(name, parameter)

    def _frozen_moved(
        self, name: str, was: torch.Tensor, parameter: torch.Tensor, versions: Dict[str, int]
    ) -> None:
        change, by = self._change(name, parameter)
        since = f" (frozen in step {self.frozen_since[name]})" if name in self.frozen_since else ""
        cause = self._cause_of_move(name, was, parameter, versions.get(name, 0), change)
        if cause is not None:
            twin = self._twin(was) if cause == causes.SHARED else None
            by += f", with {twin}, in whose memory it lies" if twin else ""
            sentence = f"is frozen{since}, but moved in step {self.steps}{by}"
            self.pending.append(Finding("R1", name, sentence, cause))
        self.frozen.discard(name)
        self.watch.forget(name)

    def _cause_of_move(
        self,
        name: str,
        was: torch.Tensor,
        parameter: torch.Tensor,
        version: int,
        change: Optional[float],
    ) -> Optional[str]:
        """The cause in words; None where it moved as it is meant to, behind a leader."""
        if parameter.numel() * parameter.element_size() != len(self.watch.bits[name]):
            return causes.RESHAPED
        if parameter is not was:
            return causes.REPLACED
        if self._twin(was) is not None:
            return causes.SHARED
        hand = self.hands.blame(name, parameter)
        if hand is not None:
            return causes.by_optimizer(hand)
        if self.followers.follows(name, self.watch.bits[name], parameter, self._leaders()):
            return None
        owner = anatomy.owner_of(self.recipe.module, name)
        return causes.by_writing(owner, parameter, change, parameter._version == version)

    def _twin(self, frozen: torch.Tensor) -> Optional[str]:
        """The name of a trainable parameter that lies in a frozen one's memory."""
        for name, tensor in self.parameters.items():
            if tensor is not frozen and tensor.requires_grad and anatomy.overlaps(tensor, frozen):
                return name
        return None

    def _change(self, key: str, tensor: torch.Tensor) -> Tuple[Optional[float], str]:
        """By how much a remembered tensor moved, as a number and in words."""
        change = largest_change(tensor, self.watch.bits[key])
        return change, "" if change is None else f", by {change:.3g} at most"

    def _compare_buffers(self) -> None:
        buffers = dict(self.recipe.module.named_buffers())
        for name, was in list(self.buffers.items()):
            buffer = buffers.get(name, was)
            if not self.watch.moved(name, buffer):
                continue
            if buffer is not was and anatomy.unsaved(self.recipe.module, name):
                self.notes.append(f"{name} was made anew in step {self.steps}: a table, not saved")
            else:
                _, by = self._change(name, buffer)
                where = name.rpartition(".")[0] or "the module"
                sentence = f"buffer of a frozen module ({where}), but moved in step {self.steps}{by}"
                cause = causes.of_buffer(anatomy.owner_of(self.recipe.module, name))
                self.pending.append(Finding("R2", name, sentence, cause))
            self.watch.forget(name)

    def _compare_keep(self) -> None:
        now = dict(flattened("", self.recipe.keep))
        owned = {id(t) for m in modules_in(self.recipe.keep) for _, t in flattened("", m)}
        for name, was in list(self.keep.items()):
            key = f"keep {name}"
            if name not in now:
                self._find("R4", name, f"to be kept, but gone after step {self.steps}")
                del self.keep[name]
                continue
            tensor = now[name]
            if not self.watch.moved(key, tensor):
                continue
            if tensor is not was and id(tensor) not in owned and not anatomy.overlaps(tensor, was):
                # the recipe keeps something newer, as it does with the best weights so far
                self.replaced.add(name)
                self.keep[name] = tensor
                self.watch.remember(key, tensor)
                continue
            _, by = self._change(key, tensor)
            live, cause = self._cause_of_loss(name, tensor, was)
            with_it = f", with {live}" if live else ""
            sentence = f"is to be kept, but moved in step {self.steps}{by}{with_it}"
            self._find("R4", name, sentence, cause)
            self.watch.forget(key)
        self._watch_keep()

    def _cause_of_loss(self, name: str, tensor: torch.Tensor, was: torch.Tensor) -> Tuple[str, str]:
        """The live tensor with which something kept moved ("": none), and the cause in words."""
        if tensor is not was and not anatomy.overlaps(tensor, was):
            return "", causes.REPLACED
        live = {**self.parameters, **dict(self.recipe.module.named_buffers())}
        for other, parameter in live.items():
            if parameter is tensor:
                return other, causes.KEPT_ITSELF
            if anatomy.overlaps(tensor, parameter):
                return other, causes.KEPT_SHARED
        if id(tensor) in self.hands.holds:
            return "", f"{self.hands.holds[id(tensor)]} trains it: leave it out of the optimizer"
        owner = self.hands.owner_of_state(tensor)
        if owner is not None:
            return f"the state of {owner}", causes.KEPT_SHARED
        if name.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked"):
            return "", causes.OF_BATCHNORM
        return "", causes.KEPT_WRITTEN

    # judging

    def _look_at_the_setup(self) -> None:
        module = self.recipe.module
        owners = dict(module.named_modules())
        for path, attribute in anatomy.lost_flags(module).items():
            of_module = path in owners or path == "the module"
            self._find(
                "R5",
                path,
                f"has an attribute {attribute} of its own",
                causes.FLAG_OF_A_MODULE if of_module else causes.MISSPELT,
            )
        for name in anatomy.thawed_by_reparametrization(module):
            sentence = "is trainable, though everything else of its layer is frozen"
            self._find("R5", name, sentence, causes.THAWED)
        if not self.trainable:
            sentence = f"has nothing to train: all {len(self.frozen)} parameters are frozen"
            self._find("R3", "the model", sentence, causes.NOTHING_TO_TRAIN)
        if not self.frozen and not self.keep:
            self.notes.append("nothing is frozen, and nothing is to be kept")
        for name, others in anatomy.aliases(module).items():
            self.notes.append(f"{name} is tied to {named(others)}: they freeze together")
        if self.hidden:
            self.notes.append(
                f"outside named_parameters: {named(sorted(self.hidden))}: "
                "freezing the module does not reach them"
            )

    def _sum_up(self) -> None:
        self.findings += [
            finding
            for finding in self.pending
            if not (
                self.followers.cover_buffer(finding.subject)
                if finding.law == "R2"
                else self.followers.cover(finding.subject) and finding.cause in causes.OF_WRITING
            )
        ]
        if self.replaced:
            self.notes.append(f"replaced in keep by something newer: {named(sorted(self.replaced))}")
        for path, leader in self.followers.pairs:
            self.notes.append(
                f"{path or 'frozen parameters'} follows {leader or 'the rest'} as an average or copy: "
                "frozen for gradients, and taken to be meant so"
            )
        if self.steps:
            self._judge_the_thawed()
            self._judge_the_trainable()
            self._judge_gradients()
        for name in self.watch.unreadable:
            self.notes.append(f"{name}: has no plain memory to compare, not checked")

    def _judge_the_thawed(self) -> None:
        """Unfrozen for good by the very first step, though nothing takes turns: it was undone."""
        at_once = [name for name, step in self.thawed_since.items() if step == 1 < self.wanted_steps]
        if len(self.hands.covers) < 2 and not self.frozen_since:
            for name in at_once:
                sentence = "was frozen, but is trainable after the first step"
                self._find("R5", name, sentence, causes.UNDONE)
            at_once = []
        later = [name for name in self.thawed_since if self.thawed_since[name] > 1] + at_once
        if later:
            self.notes.append(f"unfrozen on the way: {named(later)}")

    def _excused(self, name: str) -> Optional[str]:
        """Why a trainable parameter need not move, as a note; None where it should."""
        parameter = self.parameters[name]
        if any(tensor is parameter for tensor in self.keep.values()):
            return "to be kept"
        if name in self.hidden and name not in self.sizes:
            return "outside named_parameters, without a gradient"
        for group, names in self.experts.items():
            if name in names and name not in self.sizes and any(n in self.sizes for n in names):
                return f"experts of {group} that were not chosen"
        if name in self.sizes and self._only_rounding(name):
            return "its gradient is only rounding (a bias before a normalization, or of attention keys)"
        return None

    def _only_rounding(self, name: str) -> bool:
        size, parameter = self.sizes[name], self.parameters[name]
        largest = max(self.sizes.values())
        noise = min(16 * torch.finfo(parameter.dtype).eps, 1e-3) * largest
        if not size:  # exactly zero
            beside = anatomy.weights_beside_biases(self.recipe.module).get(name)
            return self.sizes.get(beside or "", 0.0) > 0
        return size <= noise

    def _judge_the_trainable(self) -> None:
        order = [name for name in self.parameters if name in self.trainable]
        starved = [name for name in order if name not in self.sizes and name not in self.frozen_since]
        prefix = order[: len(starved)] == starved and len(starved) < len(order)
        excused: Dict[str, List[str]] = {}
        for name in order:
            if name in self.frozen_since or name not in self.still:
                continue  # what moved without autograd trains too
            if self.thawed_since.get(name, 0) == self.steps and name not in self.arrived:
                continue  # no step has seen it yet
            excuse = self._excused(name)
            if excuse is not None:
                excused.setdefault(excuse, []).append(name)
            elif name not in self.sizes:
                self._starved(name, prefix)
            else:
                self._unmoved(name)
        for excuse, names in excused.items():
            self.notes.append(f"did not move, and need not: {named(names)}: {excuse}")

    def _held(self, name: str) -> bool:
        """Whether an optimizer holds it, or no optimizer is known."""
        return not self.hands.holds or id(self.parameters[name]) in self.hands.holds

    def _starved(self, name: str, prefix: bool) -> None:
        if not self.sizes:
            cause = causes.NO_BACKWARD
        elif prefix:
            cause = causes.CUT_OFF
        else:
            cause = causes.UNUSED
        if not self._held(name):
            cause += causes.NOT_HELD_EITHER
        self._find("R3", name, f"is trainable, but got no gradient in {self.steps} steps", cause)

    def _unmoved(self, name: str) -> None:
        parameter = self.parameters[name]
        since = f" (unfrozen in step {self.thawed_since[name]})" if name in self.thawed_since else ""
        sentence = f"is trainable{since} and gets gradients, but did not move in {self.steps} steps"
        if not self._held(name):
            cause = causes.UNFROZEN_LATE if since else causes.NOT_HELD
            if tuple(parameter.shape) in self.hands.strangers:
                cause = causes.RECREATED
        elif not self.sizes[name]:
            sentence = f"is trainable, but its gradient was exactly zero in all of {self.steps} steps"
            cause = causes.DEAD
        elif not self.hands.rates.get(id(parameter), 1.0):
            cause = "its learning rate is 0"
        elif not self.hands.holds:
            cause = "no torch optimizer was found that holds it"
        elif STEP_HOOKS and not self.hands.steps:
            cause = causes.NEVER_STEPPED
        elif STEP_HOOKS and name not in self.hands.fed:
            cause = causes.CLEARED
        elif parameter.dtype in (torch.bfloat16, torch.float16):
            cause = causes.too_small(parameter.dtype)
        elif STEP_HOOKS:
            cause = causes.ROUNDS_AWAY
        else:
            cause = f"optimizer.step() is never called, or {causes.CLEARED}, or {causes.ROUNDS_AWAY}"
        self._find("R3", name, sentence, cause)

    def _judge_gradients(self) -> None:
        for name, step in self.not_finite.items():
            # a scaler skips such steps until its scale fits
            if not self.hands.scaled or step == self.steps:
                self._find("R6", name, f"got a gradient with NaN or infinity in step {step}")
        for name in sorted(self.kept_with_gradient):
            self._find("R4", name, "is to be kept, but gets gradients", causes.KEPT_WITH_GRADIENT)


def examine(recipe: Recipe, steps: int = 6) -> Examination:
    """Run a recipe's steps under watch."""
    return Examination(recipe, steps).run()
