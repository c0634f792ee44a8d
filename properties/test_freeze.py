"""Freezing by requires_grad = False: what stands still, and what still learns."""

import dataclasses
import functools
from typing import Any, Dict, Iterator, List

import torch
from hypothesis import event, given
from hypothesis import strategies as st

from frostproof.properties.harness.core.bits import from_bits, read_bits
from frostproof.properties.harness.core.checks import (
    check,
    check_equal,
    check_raises,
    check_same_bits,
    check_same_gradient,
    check_unchanged,
)
from frostproof.properties.harness.core.law import FLOATING, law
from frostproof.properties.harness.running.recording import each_of
from frostproof.properties.harness.running.scenario import state_bits
from frostproof.properties.harness.running.trainer import Trainer, freeze
from frostproof.strategies import (
    OptimizerSpec,
    TrainingRun,
    freeze_masks,
    mlps,
    optimizers,
    training_runs,
)


def _state_bits(trainer: Trainer, name: str) -> Dict[str, Any]:
    """What the optimizer keeps for a parameter, as bits; looking makes no state."""
    return state_bits(trainer.optimizer, trainer.named[name])


def check_frozen(trainer: Trainer, versions: Dict[str, int], states: Dict[str, Any], step: int) -> None:
    """Every frozen parameter: same bits, no gradient, no state, same version, still frozen."""
    __tracebackhide__ = True
    for name in trainer.run.frozen:
        parameter = trainer.named[name]
        where = f"frozen {name} after step {step} of {trainer.spec.name}"
        check_same_bits(parameter, trainer.before[name], where)
        check(parameter.grad is None, f"{where}: has a gradient")
        check(not parameter.requires_grad, f"{where}: requires grad again")
        # Adagrad makes state for every parameter when it is built; none may grow or change
        # LBFGS keeps the state of the whole run with whatever parameter comes first, and adds
        # its direction to every parameter: zeros to the frozen ones
        if not trainer.spec.needs_closure:
            check_equal(_state_bits(trainer, name), states[name], f"{where}: optimizer state")
            check_equal(parameter._version, versions[name], f"{where}: version counter")


def check_live(trainer: Trainer, storages: Dict[str, int], step: int) -> None:
    """Every live parameter that gets a gradient has one, and keeps its storage."""
    __tracebackhide__ = True
    gets = trainer.run.gets_gradient()
    for name, parameter in trainer.named.items():
        where = f"{name} after step {step} of {trainer.spec.name}"
        check_equal(parameter.data_ptr(), storages[name], f"{where}: address of its storage")
        if name in gets:
            check(parameter.grad is not None, f"{where}: is live, but got no gradient")
        elif name not in trainer.run.frozen:
            check(parameter.grad is None, f"{where}: is cut off, but got a gradient")
            check_same_bits(parameter, trainer.before[name], f"{where}: cut off")


@law("F1", "PyTorch notes, Locally disabling gradient computation", FLOATING)
@given(data=st.data())
def test_frozen_stay(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F1: after every step a frozen parameter has its bits, no gradient, no state, its version."""
    drawn: TrainingRun = data.draw(training_runs(device=device, dtype=dtype))
    event(f"optimizer {drawn.optimizer.name}")
    for run in each_of(data, ways(drawn)):
        watch_training(Trainer(run, device, dtype, stays=True))


def ways(run: TrainingRun) -> Iterator[TrainingRun]:
    """A run, with the other parameters frozen, with the frozen ones listed or not: (4) runs."""
    for listed in (run.listed, "trainable" if run.listed == "all" else "all"):
        for frozen in (run.frozen, run.unfrozen()):
            yield dataclasses.replace(run, frozen=frozen, listed=listed)


def watch_training(trainer: Trainer) -> None:
    """Train, and look after every step at what is frozen and what is not."""
    __tracebackhide__ = True
    run = trainer.run
    versions = {name: trainer.named[name]._version for name in run.frozen}
    states = {name: _state_bits(trainer, name) for name in run.frozen}
    if run.optimizer.name != "Adagrad":
        for name in run.frozen:
            check_equal(states[name], {}, f"what the optimizer keeps for frozen {name}")
    storages = {name: parameter.data_ptr() for name, parameter in trainer.named.items()}
    held: Dict[str, Any] = {name: value for name, value in trainer.named.items()}
    for step in range(1, run.steps + 1):
        trainer.step()
        check_frozen(trainer, versions, states, step)
        check_live(trainer, storages, step)
    for name, parameter in trainer.network.named_parameters():
        check(parameter is held[name], f"{name} is another object after training")
    listed = [p for group in trainer.optimizer.param_groups for p in group["params"]]
    check(
        [id(p) for p in listed] == [id(trainer.named[name]) for name in trainer.listed],
        "the optimizer lists other parameters after training than it was given",
    )


@law("F1", "torch.optim.Optimizer.step documentation", FLOATING)
@given(data=st.data())
def test_step_without_gradients(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F1: a step of any optimizer without any gradient moves nothing, weight decay or not."""
    spec = data.draw(optimizers(device=device, dtype=dtype))
    if spec.needs_closure:
        spec = OptimizerSpec("AdamW", (("lr", 0.1),))
    network = data.draw(mlps(max_width=40))
    run = TrainingRun(network, optimizer=spec, batch=4)
    trainer = Trainer(run, device, dtype)
    trainer.optimizer.step()
    check_unchanged(trainer.named, trainer.before, f"a step of {spec.name} without gradients:")


@law("F2", "PyTorch notes, Autograd mechanics", FLOATING)
@given(data=st.data())
def test_others_gradients_do_not_depend_on_the_mask(
    device: str, dtype: torch.dtype, data: st.DataObject
) -> None:
    """F2: freezing some leaves every other gradient of the first backward bit for bit the same."""
    network = data.draw(mlps())
    masks = [data.draw(freeze_masks(network)), data.draw(freeze_masks(network))]
    run = TrainingRun(network, batch=data.draw(st.integers(3, 8)), seed=network.seed)
    whole = Trainer(run, device, dtype)
    whole.backward()
    expected = whole.gradient_bits()
    for name, gradient in expected.items():
        check(gradient is not None, f"{name} is live in the whole net, but got no gradient")
    for mask in masks:
        masked = Trainer(
            TrainingRun(network, frozen=mask, batch=run.batch, seed=run.seed), device, dtype
        )
        masked.backward()
        for name, gradient in masked.gradient_bits().items():
            if name in mask:
                check(gradient is None, f"frozen {name} got a gradient")
            else:
                check_same_gradient(masked.named[name], expected[name], f"gradient of {name}")


@law("F2 K1", "torch.autograd.grad and torch.Tensor.backward documentation", FLOATING)
@given(data=st.data())
def test_ways_to_ask_for_gradients(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F2: autograd.grad, backward(inputs=) and a graph kept for later give backward's own bits."""
    run: TrainingRun = data.draw(
        training_runs(device=device, dtype=dtype, learns=True, max_depth=3, max_steps=1)
    )
    trainer = Trainer(run, device, dtype)
    trainer.backward()
    expected = trainer.gradient_bits()
    names = [name for name in trainer.named if expected[name] is not None]
    trainer.network.zero_grad(set_to_none=True)
    loss = trainer.loss()
    found = torch.autograd.grad(loss, [trainer.named[name] for name in names], retain_graph=True)
    for name, gradient in zip(names, found):
        check_same_bits(gradient, expected[name], f"what autograd.grad gives for {name}")
    check_owners(trainer, [], "autograd.grad")
    for name, parameter in trainer.named.items():
        if name not in names:
            what = f"autograd.grad of {name}, frozen or cut off"
            check_raises(
                RuntimeError,
                lambda p=parameter: torch.autograd.grad(loss, p, retain_graph=True),
                what,
            )
    some = names[:: 2 if len(names) > 1 else 1]
    loss.backward(retain_graph=True, inputs=[trainer.named[name] for name in some])
    check_owners(trainer, some, "backward(inputs=)")
    loss.backward()
    for name in trainer.named:
        wanted = expected[name]
        if wanted is not None and name in some:
            once = from_bits(wanted, trainer.named[name].shape, dtype)
            wanted = read_bits(once + once)
        check_same_gradient(trainer.named[name], wanted, f"gradient of {name}")


def watch_gradients(parameter: torch.Tensor, seen: List[bytes]) -> None:
    """Hooks that note what arrives, and, since torch 2.1, what is in ``.grad`` then."""
    parameter.register_hook(lambda gradient: seen.append(read_bits(gradient)))

    def after(accumulated: torch.Tensor) -> None:
        if accumulated.grad is not None:
            seen.append(read_bits(accumulated.grad))

    if hasattr(parameter, "register_post_accumulate_grad_hook"):
        parameter.register_post_accumulate_grad_hook(after)


def check_owners(trainer: Trainer, names: List[str], after: str) -> None:
    """The named parameters have a gradient, and no others."""
    __tracebackhide__ = True
    for name, parameter in trainer.named.items():
        what = f"whether {name} has a gradient after {after}"
        check_equal(parameter.grad is not None, name in names, what)


@law("F2 F5", "torch.Tensor.requires_grad and register_hook documentation", FLOATING)
@given(data=st.data())
def test_flags_and_hooks_at_backward(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F2: frozen between forward and backward: no gradient, no hook; the others' are called once."""
    network = data.draw(mlps(max_depth=3, max_width=40))
    mask = data.draw(freeze_masks(network))
    late = data.draw(freeze_masks(network))
    run = TrainingRun(network, mask, batch=4, seed=network.seed)
    if not run.gets_gradient():
        run = dataclasses.replace(run, frozen=())
    trainer = Trainer(run, device, dtype)
    trainer.backward()
    expected = trainer.gradient_bits()
    trainer.network.zero_grad(set_to_none=True)
    seen: Dict[str, List[bytes]] = {name: [] for name in trainer.named}
    for name, parameter in trainer.named.items():
        if name in run.frozen:
            hooking = functools.partial(parameter.register_hook, lambda gradient: None)
            check_raises(RuntimeError, hooking, f"register_hook on frozen {name}", "grad")
        else:
            watch_gradients(parameter, seen[name])
    loss = trainer.loss()
    freeze(trainer.named, late, "attribute")
    loss.backward()
    hooks = 2 if hasattr(torch.Tensor, "register_post_accumulate_grad_hook") else 1
    for name, bits in trainer.gradient_bits().items():
        if name in run.frozen or name in late:
            check(bits is None, f"{name} was frozen before backward, but got a gradient")
        else:
            check_same_gradient(trainer.named[name], expected[name], f"gradient of {name}")
            check_equal(seen[name], [expected[name]] * hooks, f"what the hooks of {name} saw")
