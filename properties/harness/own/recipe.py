"""Runs a user's own training steps, and finds what moved that should not, or did not that should.

The step is run exactly as it is. What watches it returns nothing and changes nothing: hooks
on parameters note that a gradient came, hooks on optimizers note which of them moved what.
"""

import gc
import inspect
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Set, Tuple

import pytest
import torch

from properties.harness.own import anatomy
from properties.harness.own.factory import accepts, call, check_module, parts, said
from properties.harness.own.findings import Finding, named
from properties.harness.own.watch import Watch, largest_change

SHAPES = ("module", "step", "keep")
STEP_HOOKS = hasattr(torch.optim.Optimizer, "register_step_post_hook")  # torch 2.0 and later
PATIENCE = 4  # steps are repeated this many times as often where nothing has trained yet


@dataclass
class Recipe:
    """What a recipe's factory returned: a module, one training step, what must not change."""

    module: torch.nn.Module
    step: Callable[[], Any]
    keep: Mapping[str, Any]
    optimizers: List[torch.optim.Optimizer]
    notes: List[str] = field(default_factory=list)


def _all_optimizers() -> List[torch.optim.Optimizer]:
    # by type, not isinstance: proxies are left alone
    return [thing for thing in gc.get_objects() if issubclass(type(thing), torch.optim.Optimizer)]


def _listed(optimizer: torch.optim.Optimizer) -> List[torch.Tensor]:
    """The parameters in all of an optimizer's groups."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _holds(optimizer: torch.optim.Optimizer, parameters: Set[int]) -> bool:
    """Whether an optimizer lists any of the parameters, by id."""
    return any(id(parameter) in parameters for parameter in _listed(optimizer))


def build(option: str, text: str, factory: Callable[[], Any]) -> Recipe:
    """Call the factory and check what it returns. Raises pytest.UsageError with one sentence."""
    earlier = {id(optimizer) for optimizer in _all_optimizers()}
    result = parts(option, text, call(option, text, factory), SHAPES, 2)
    module, step = result[:2]
    keep = result[2] if len(result) > 2 else {}
    check_module(option, text, module)
    if not callable(step) or not accepts(step):
        raise pytest.UsageError(
            f"{option} {text}: the second must be a function without arguments that does one "
            f"training step, but is "
            + (f"step{inspect.signature(step)}" if callable(step) else type(step).__name__)
        )
    if not isinstance(keep, (Mapping, torch.nn.Module, torch.Tensor, list, tuple)):
        raise pytest.UsageError(
            f"{option} {text}: the third must be a mapping of tensors or modules that must not "
            f"change, but is {type(keep).__name__}"
        )
    if not isinstance(keep, Mapping):
        keep = {"keep": keep}
    if not list(module.parameters()):
        raise pytest.UsageError(f"{option} {text}: the module has no parameters: nothing can be frozen")
    inside = {id(parameter) for parameter in module.parameters()}
    made = [o for o in _all_optimizers() if id(o) not in earlier or _holds(o, inside)]
    return Recipe(module, step, keep, made)


def flattened(name: str, value: Any) -> Iterator[Tuple[str, torch.Tensor]]:
    """The tensors in a tensor, module, mapping or list, each with the path to it."""
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


@dataclass(frozen=True)
class Hand:
    """An optimizer's step that moved a parameter, and what it found there."""

    name: str  # of the optimizer's class
    gradient: str  # "none", "zero" or "nonzero"
    options: Mapping[str, Any]
    has_state: bool


def _values(tensor: torch.Tensor) -> torch.Tensor:
    """The stored values: of a sparse tensor those that are not left out."""
    return tensor.coalesce().values() if tensor.is_sparse else tensor


def _any_nonzero(gradient: torch.Tensor) -> bool:
    with torch.no_grad():
        return bool((_values(gradient) != 0).any())


def _gradient_kind(parameter: torch.Tensor) -> str:
    if parameter.grad is None:
        return "none"
    return "nonzero" if _any_nonzero(parameter.grad) else "zero"


def _finite(tensor: torch.Tensor) -> bool:
    """Whether there is no NaN or infinity; a finite sum shows it at once."""
    if not anatomy.differentiable(tensor) or not tensor.numel():
        return True
    with torch.no_grad():
        values = _values(tensor)
        total = torch.view_as_real(values).sum() if values.is_complex() else values.sum()
        return bool(torch.isfinite(total)) or bool(torch.isfinite(values).all())


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
        self.frozen: Set[str] = set()
        self.trainable: Set[str] = set()
        self.buffers: Dict[str, torch.Tensor] = {}
        self.keep: Dict[str, torch.Tensor] = {}
        self.arrived: Set[str] = set()  # got a gradient in this step
        self.ever: Set[str] = set()  # got a gradient
        self.nonzero: Set[str] = set()  # got one that is not all zeros
        self.kept_with_gradient: Set[str] = set()
        self.not_finite: Dict[str, int] = {}  # name: last step with such a gradient
        self.hands: Dict[str, Hand] = {}
        self.optimizer_steps = 0
        self.frozen_since: Dict[str, int] = {}
        self.still: Set[str] = set()  # trainable, and not moved so far
        self._kinds: Dict[str, str] = {}  # gradients of unmoved frozen ones as a step begins
        self._handles: List[Any] = []
        self._hooked: Set[int] = set()

    # watching

    def _named(self) -> Dict[str, torch.Tensor]:
        found: Dict[str, torch.Tensor] = dict(self.recipe.module.named_parameters())
        found.update(anatomy.hidden_parameters(self.recipe.module))
        return found

    def _on_gradient(self, name: str, kept: bool) -> Callable[[torch.Tensor], None]:
        def note(gradient: torch.Tensor) -> None:
            if kept:
                self.kept_with_gradient.add(name)
                return
            self.arrived.add(name)
            self.ever.add(name)
            if not _finite(gradient):
                self.not_finite[name] = self.steps
            elif name not in self.nonzero and _any_nonzero(gradient):
                self.nonzero.add(name)

        note.__torch_unserializable__ = True  # type: ignore[attr-defined]  # pickling leaves it out
        return note

    def _hook(self, name: str, tensor: torch.Tensor, kept: bool = False) -> None:
        flag = tensor.requires_grad
        if id(tensor) in self._hooked or not tensor.is_leaf or not anatomy.differentiable(tensor):
            return
        if not flag and kept:
            return
        try:
            tensor.requires_grad_(True)  # torch hooks only what requires grad
            self._handles.append(tensor.register_hook(self._on_gradient(name, kept)))
            self._hooked.add(id(tensor))
        except RuntimeError:
            self.notes.append(f"{name}: torch refuses a hook, so its gradients are not watched")
        finally:
            tensor.requires_grad_(flag)

    def _hook_optimizers(self) -> None:
        for optimizer in self.recipe.optimizers if STEP_HOOKS else ():
            if id(optimizer) in self._hooked:
                continue
            self._hooked.add(id(optimizer))
            self._handles.append(optimizer.register_step_pre_hook(self._before_step))
            self._handles.append(optimizer.register_step_post_hook(self._after_step))

    def _before_step(self, optimizer: Any, *_: Any) -> None:
        self._kinds = {
            name: _gradient_kind(parameter)
            for name, parameter in self._frozen_in(optimizer)
            if not self.watch.moved(name, parameter)
        }

    def _after_step(self, optimizer: Any, *_: Any) -> None:
        self.optimizer_steps += 1
        for name, parameter in self._frozen_in(optimizer):
            if name in self._kinds and name not in self.hands and self.watch.moved(name, parameter):
                self.hands[name] = self._hand(optimizer, parameter, self._kinds[name])

    def _hand(self, optimizer: Any, parameter: torch.Tensor, kind: str) -> Hand:
        group = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
        options = {key: value for key, value in group.items() if key != "params"}
        state = optimizer.state.get(parameter, {})
        moving = any(
            isinstance(value, torch.Tensor) and value.dim() and bool((value != 0).any())
            for value in state.values()
        )
        return Hand(type(optimizer).__name__, kind, options, moving)

    def _frozen_in(self, optimizer: Any) -> Iterator[Tuple[str, torch.Tensor]]:
        inside = {id(parameter) for parameter in _listed(optimizer)}
        for name in sorted(self.frozen):
            parameter = self.parameters[name]
            if id(parameter) in inside:
                yield name, parameter

    # the run

    def run(self) -> "Examination":
        """Do the steps and judge them."""
        recipe = self.recipe
        self.parameters = self._named()
        self.frozen = {n for n, p in self.parameters.items() if not p.requires_grad}
        self.trainable = set(self.parameters) - self.frozen
        self.buffers = anatomy.frozen_buffers(recipe.module)
        self.keep = dict(flattened("", recipe.keep))
        self._look_at_the_setup()
        for name, tensor in {**self.parameters, **self.buffers}.items():
            self.watch.remember(name, tensor)
            if name in self.parameters:
                self._hook(name, tensor)
        for name, tensor in self.keep.items():
            self.watch.remember(f"keep {name}", tensor)
            self._hook(name, tensor, kept=True)
        self._hook_optimizers()
        self.still = set(self.trainable)
        try:
            for _ in range(self.wanted_steps * PATIENCE):
                if self.steps >= self.wanted_steps and (
                    not self.trainable or self.still != self.trainable
                ):
                    break
                if not self._one_step():
                    break
        finally:
            for handle in self._handles:
                handle.remove()
        if self.steps:
            self._judge_the_trainable()
            self._judge_gradients()
        for name in self.watch.unreadable:
            self.notes.append(f"{name}: has no plain memory to compare, not checked")
        return self

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
            self._find("R7", f"step {self.steps}", f"raised {said(problem)}")
            self.steps -= 1
            return False
        if isinstance(result, torch.Tensor) and not _finite(result):
            self._find("R6", "the step's loss", f"is not finite at step {self.steps}")
        if self.steps == 1:
            known = {id(optimizer) for optimizer in self.recipe.optimizers}
            inside = {id(p) for p in self.parameters.values()}
            for optimizer in _all_optimizers():
                if id(optimizer) not in known and _holds(optimizer, inside):
                    self.recipe.optimizers.append(optimizer)
            self._hook_optimizers()
        now = self._named()
        self._compare_parameters(now, flags, versions)
        self._compare_buffers()
        self._compare_keep()
        for name, parameter in now.items():
            if name not in self.parameters:
                self.parameters[name] = parameter
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
                # a schedule that unfreezes, or a step that switches the flag itself
                self.frozen.discard(name)
                self.watch.forget(name)
                self.notes.append(f"{name} was unfrozen in step {self.steps}")
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
            if may_differ and not _finite(parameter):
                self._not_finite(name)

    def _not_finite(self, name: str) -> None:
        if not any(f.law == "R6" and f.subject == name for f in self.findings):
            self._find("R6", name, f"holds NaN or infinity after step {self.steps}")

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
        self._find("R1", name, f"is frozen{since}, but moved in step {self.steps}{by}", cause)
        self.frozen.discard(name)
        self.watch.forget(name)

    def _cause_of_move(
        self,
        name: str,
        was: torch.Tensor,
        parameter: torch.Tensor,
        version: int,
        change: Optional[float],
    ) -> str:
        if parameter is not was:
            return (
                "the parameter was replaced by a new one under the same name: write into it with "
                "copy_ under no_grad, or freeze the new one"
            )
        hand = self.hands.get(name)
        if hand is not None:
            return self._cause_by_optimizer(hand)
        for other, tensor in self.parameters.items():
            if other != name and tensor is not was and tensor.requires_grad:
                if anatomy.overlaps(tensor, was):
                    return (
                        f"shared storage: it lies in the memory of {other}, which trains; "
                        "clone the values, or tie by using one Parameter and freeze that"
                    )
        if not STEP_HOOKS:
            kind = _gradient_kind(parameter)
            for optimizer in self.recipe.optimizers:
                drives = kind != "none" or "LBFGS" in type(optimizer).__name__
                if drives and _holds(optimizer, {id(parameter)}):
                    return self._cause_by_optimizer(self._hand(optimizer, parameter, kind))
        largest = float(parameter.detach().abs().max()) if parameter.numel() else 0.0
        if change is not None and largest and change <= 1e-5 * largest:
            return (
                "an in-place write outside the optimizer that only rounds: an average (EMA) that "
                "shares this memory, averaging the parameter with itself; clone what it starts from"
            )
        if parameter._version == version:
            return (
                "an in-place write through .data or an alias of its memory, outside the optimizer "
                "(an init, a copy, an average): leave frozen parameters out of it"
            )
        return (
            "an in-place write outside the optimizer (an init, copy_, load_state_dict, EMA, weight "
            "clipping): leave frozen parameters out of it"
        )

    @staticmethod
    def _cause_by_optimizer(hand: Hand) -> str:
        clear = "set its grad to None when you freeze it (zero_grad(set_to_none=True))"
        if hand.gradient == "nonzero":
            return f"a stale gradient: {hand.name} found one from before it was frozen; {clear}"
        if hand.gradient == "none":
            if "LBFGS" in hand.name:
                return (
                    "LBFGS moves what has no gradient along its old directions: leave frozen "
                    "parameters out of the optimizer"
                )
            return f"{hand.name} moves parameters that have no gradient: leave it out of the optimizer"
        reasons = []
        if hand.options.get("weight_decay"):
            reasons.append(f"weight decay {hand.options['weight_decay']:g}")
        if hand.has_state:
            reasons.append("momentum (optimizer state from before it was frozen)")
        why = " and ".join(reasons) or "its rule"
        return (
            f"a zeroed gradient: {hand.name} takes a gradient of zeros as a gradient, and {why} "
            f"moved it; {clear}, or leave it out of the optimizer"
        )

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
            _, by = self._change(name, buffer)
            owner = anatomy.owner_of(self.recipe.module, name)
            kind = type(owner).__name__
            where = name.rpartition(".")[0] or "the module"
            if owner is not None and owner.training:
                cause = (
                    f"{kind} is in train mode, where its buffers follow the data although its "
                    "parameters are frozen: call eval() on it after every train()"
                )
            else:
                cause = (
                    f"{kind} was in train mode during the step, or something wrote into the buffer: "
                    "keep it in eval mode"
                )
            self._find(
                "R2",
                name,
                f"buffer of a frozen module ({where}), but moved in step {self.steps}{by}",
                cause,
            )
            self.watch.forget(name)

    def _compare_keep(self) -> None:
        now = dict(flattened("", self.recipe.keep))
        for name, was in list(self.keep.items()):
            key = f"keep {name}"
            if name not in now:
                self._find("R4", name, f"to be kept, but gone after step {self.steps}")
                del self.keep[name]
                continue
            tensor = now[name]
            if not self.watch.moved(key, tensor):
                continue
            _, by = self._change(key, tensor)
            self._find(
                "R4",
                name,
                f"is to be kept, but moved in step {self.steps}{by}",
                self._cause_of_loss(name, tensor, was),
            )
            self.watch.forget(key)

    def _cause_of_loss(self, name: str, tensor: torch.Tensor, was: torch.Tensor) -> str:
        if tensor is not was and not anatomy.overlaps(tensor, was):
            return "it was replaced by another tensor: keep a copy of what must not change"
        live = {**self.parameters, **dict(self.recipe.module.named_buffers())}
        for other, parameter in live.items():
            if parameter is tensor:
                return f"it is {other} itself, not a copy: use copy.deepcopy or clone"
            if anatomy.overlaps(tensor, parameter):
                return (
                    f"shared storage: it lies in the memory of {other}; state_dict(), detach() and "
                    ".data are aliases that follow training: clone each value, or deepcopy"
                )
        for optimizer in self.recipe.optimizers:
            if _holds(optimizer, {id(tensor)}):
                return f"{type(optimizer).__name__} trains it: leave it out of the optimizer"
        if name.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked"):
            return "its BatchNorm runs in train mode: call eval() on what is kept"
        return "an in-place write in the step (an average, copy_, load_state_dict)"

    # judging

    def _look_at_the_setup(self) -> None:
        module = self.recipe.module
        for path in anatomy.attribute_flags(module):
            self._find(
                "R5",
                path or "the module",
                "has an attribute requires_grad of its own",
                "a module has no such flag, so this froze nothing: call requires_grad_(...) on it",
            )
        for name in anatomy.thawed_by_reparametrization(module):
            self._find(
                "R5",
                name,
                "is trainable, though everything else of its layer is frozen",
                "weight_norm (or another reparametrization) after freezing made a new parameter, "
                "which requires grad: freeze after it",
            )
        if not self.trainable:
            self._find(
                "R3",
                "the model",
                f"has nothing to train: all {len(self.frozen)} parameters are frozen",
                "requires_grad is False everywhere: unfreeze the part that should train",
            )
        for name, others in anatomy.aliases(module).items():
            self.notes.append(f"{name} is tied to {named(others)}: they freeze together")
        hidden = anatomy.hidden_parameters(module)
        if hidden:
            self.notes.append(
                f"outside named_parameters: {named(list(hidden))}: "
                "freezing the module does not reach them"
            )

    def _judge_the_trainable(self) -> None:
        groups = [group for optimizer in self.recipe.optimizers for group in optimizer.param_groups]
        held = {id(parameter): group for group in groups for parameter in group["params"]}
        mine = {id(parameter) for parameter in self.parameters.values()}
        strangers = [p for group in groups for p in group["params"] if id(p) not in mine]
        order = [name for name in self.parameters if name in self.trainable]
        starved = [name for name in order if name not in self.ever and name not in self.frozen_since]
        prefix = order[: len(starved)] == starved and len(starved) < len(order)
        for name in order:
            if name in self.frozen_since or name not in self.still:
                continue  # what moved without autograd trains too
            parameter = self.parameters[name]
            if name not in self.ever:
                self._starved(name, parameter, prefix, held)
            else:
                self._unmoved(name, parameter, held, strangers)

    def _starved(self, name: str, parameter: torch.Tensor, prefix: bool, held: Dict[int, Any]) -> None:
        if not self.ever:
            cause = (
                "no parameter got a gradient: the step calls no backward, or its loss is cut off "
                "(detach, no_grad, item) from all of them"
            )
        elif prefix:
            cause = (
                "everything up to here is cut off from the loss: a detach() or no_grad between this "
                "part and the loss"
            )
        else:
            cause = (
                "the loss does not depend on it: it is unused in forward (dead), or behind a detach(), "
                "no_grad or argmax"
            )
        if self.recipe.optimizers and id(parameter) not in held:
            cause += "; no optimizer holds it either"
        self._find("R3", name, f"is trainable, but got no gradient in {self.steps} steps", cause)

    def _unmoved(
        self, name: str, parameter: torch.Tensor, held: Dict[int, Any], strangers: List[torch.Tensor]
    ) -> None:
        sentence = f"is trainable and gets gradients, but did not move in {self.steps} steps"
        if self.recipe.optimizers and id(parameter) not in held:
            cause = "no optimizer holds it: build the optimizer from the parameters that should train"
            if any(tuple(other.shape) == tuple(parameter.shape) for other in strangers):
                cause = (
                    "the optimizer holds another tensor of its shape that is not in the model: the "
                    "parameter was re-created after the optimizer was built; build the optimizer last"
                )
        elif name not in self.nonzero:
            sentence = f"is trainable, but its gradient was exactly zero in all of {self.steps} steps"
            cause = "a dead unit (ReLU below zero, a zero factor before it), or a loss that ignores it"
        elif id(parameter) in held and not float(held[id(parameter)].get("lr", 1)):
            cause = "its learning rate is 0"
        elif not self.recipe.optimizers:
            cause = "no torch optimizer was found that holds it"
        elif STEP_HOOKS and not self.optimizer_steps:
            cause = "optimizer.step() is never called (or a GradScaler skips it)"
        elif parameter.dtype in (torch.bfloat16, torch.float16):
            cause = (
                f"the update is smaller than the spacing of {parameter.dtype}: keep a float32 copy "
                "of the weights, or a larger learning rate"
            )
        else:
            cause = "the update rounds away, or something writes the old value back"
            if not STEP_HOOKS:
                cause = f"optimizer.step() is never called, or {cause}"
        self._find("R3", name, sentence, cause)

    def _judge_gradients(self) -> None:
        scalers = any(type(thing).__name__ == "GradScaler" for thing in gc.get_objects())
        for name, step in self.not_finite.items():
            if not scalers or step == self.steps:  # a scaler skips such steps until its scale fits
                self._find("R6", name, f"got a gradient with NaN or infinity in step {step}")
        for name in sorted(self.kept_with_gradient):
            self._find(
                "R4",
                name,
                "is to be kept, but gets gradients",
                "a forgotten detach() or no_grad round what is kept (a target network, a teacher)",
            )


def examine(recipe: Recipe, steps: int = 6) -> Examination:
    """Run a recipe's steps under watch."""
    return Examination(recipe, steps).run()
