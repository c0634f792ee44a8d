"""A user's own optimizer (--optimizer): the laws of freezing, on random nets."""

import copy
import dataclasses
from typing import Any, List

import pytest
import torch
from hypothesis import event, given, reject

from frostproof.properties.harness.core.bits import read_bits
from frostproof.properties.harness.core.checks import (
    check,
    check_close,
    check_equal,
    check_moved,
    check_same_bits,
    check_unchanged,
    snapshot,
)
from frostproof.properties.harness.core.law import PRECISE, law
from frostproof.properties.harness.own.optimizer import (
    CAPABILITIES,
    LATEST,
    TooLarge,
    bounded,
    differentiate,
    reseed,
)
from frostproof.properties.harness.running.trainer import Trainer
from frostproof.properties.harness.session.state import of
from frostproof.strategies import OptimizerSpec, TrainingRun, training_runs
from frostproof.strategies.optimizers import OWN

SGD = ("SGD",)
SINCE = 7  # steps after loading: some optimizers do something every fifth or sixth
NOISE = 1e-4  # gradients below this may be rounded away by an optimizer's eps


@pytest.fixture(scope="session")
def own_optimizer(request: pytest.FixtureRequest) -> OptimizerSpec:
    """The user's optimizer."""
    spec: OptimizerSpec = of(request.config).own.of("optimizer", request)
    return spec


@pytest.fixture(scope="session")
def own(own_optimizer: OptimizerSpec) -> OptimizerSpec:
    """The user's optimizer, by the name that the laws use."""
    return own_optimizer


def with_own(run: TrainingRun, own: OptimizerSpec) -> TrainingRun:
    """The run with the user's optimizer in place of SGD."""
    groups = run.groups if OWN[own.name].groups else 1
    return dataclasses.replace(run, optimizer=own, clearing="none", groups=groups)


def gradients(trainer: Trainer) -> torch.Tensor:
    """Fresh gradients, where anything requires grad; the loss."""
    for parameter in trainer.named.values():
        parameter.grad = None
    with torch.enable_grad():
        loss = trainer.loss()
    if loss.requires_grad:
        differentiate(loss, CAPABILITIES[trainer.spec.name].graph)
    return loss


def trainer_of(run: TrainingRun, device: str, dtype: torch.dtype, **options: Any) -> Trainer:
    """A trainer whose optimizer is built with random numbers of its own.

    An optimizer may take what trains alone, and refuse where nothing does: no example then.
    """
    if dtype in CAPABILITIES[run.optimizer.name].refuses:
        pytest.skip(CAPABILITIES[run.optimizer.name].refuses[dtype])
    reseed(run.seed)
    try:
        return Trainer(run, device, dtype, **options)
    except ValueError:
        if set(run.frozen) < set(run.network.parameter_names()):
            raise
        event("left out: it refuses where everything is frozen")
        reject()


def advance(trainer: Trainer, steps: int = 1, first: int = 0) -> Trainer:
    """Training steps; the optimizer steps where it has anything to step with.

    first: the number of steps that were done before; each number has random numbers of its
    own, so that two runs draw the same ones. An example that wants too much memory is left out.
    """
    for step in range(first, first + steps):
        gradients(trainer)
        if not any(parameter.grad is not None for parameter in trainer.named.values()):
            continue
        reseed(step)
        try:
            with bounded():
                if trainer.spec.needs_closure:
                    trainer.optimizer.step(lambda: gradients(trainer))  # type: ignore
                else:
                    trainer.optimizer.step()
        except TooLarge:
            event("left out: a step asked for more than 2 GB")
            reject()
    return trainer


def rounds_away(run: TrainingRun, name: str, dtype: torch.dtype) -> bool:
    """Whether each of the first steps, in float64, moves a parameter by less than float32 keeps."""
    if dtype is not torch.float32 or torch.float64 in CAPABILITIES[run.optimizer.name].refuses:
        return False
    trainer = trainer_of(run, "cpu", torch.float64)
    parameter, eps = trainer.named[name], torch.finfo(torch.float32).eps
    for step in range(LATEST):
        before = parameter.detach().clone()
        advance(trainer, first=step)
        if bool(((parameter.detach() - before).abs() > eps * before.abs()).any()):
            return False
    return read_bits(parameter) != trainer.before[name]


def warm_up(run: TrainingRun, own: OptimizerSpec) -> int:
    """Steps after which the optimizer surely moves what it holds."""
    return run.steps + CAPABILITIES[own.name].warm_up - 1


def dtypes_of(optimizer: Any) -> List[torch.dtype]:
    """The dtypes of all tensors in an optimizer's state, in order."""
    waiting, found = list(optimizer.state.values()), []
    while waiting:
        value = waiting.pop(0)
        if isinstance(value, torch.Tensor):
            found.append(value.dtype)
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, (list, tuple)):
            waiting += value
    return found


def sorted_frozen(run: TrainingRun) -> List[str]:
    """The run's frozen parameters, in parameter order."""
    return [name for name in run.network.parameter_names() if name in run.frozen]


@law("F1", "torch.optim documentation", PRECISE)
@given(run=training_runs(names=SGD))
def test_frozen_stay(device: str, dtype: torch.dtype, own: OptimizerSpec, run: TrainingRun) -> None:
    """F1: after every step a frozen parameter has its bits, no gradient and no state."""
    trainer = trainer_of(with_own(run, own), device, dtype)
    still = [name for name in trainer.named if name not in run.gets_gradient()]
    state = trainer.optimizer.state
    eager = [name for name in still if state.get(trainer.named[name])]  # made with the optimizer
    if own.needs_closure:  # one that steps as a whole keeps its state with whatever comes first
        eager += trainer.listed[:1]
    for step in range(1, warm_up(run, own) + 1):
        advance(trainer, first=step)
        for name in still:
            parameter = trainer.named[name]
            check_same_bits(parameter, trainer.before[name], f"frozen {name} after step {step}")
            check(parameter.grad is None, f"frozen {name} got a gradient in step {step}")
            check(name in eager or not state.get(parameter), f"frozen {name} has state after {step}")
    check_equal(
        [n for n, p in trainer.named.items() if not p.requires_grad], sorted_frozen(run), "frozen"
    )


@law("F4", "torch.optim documentation", PRECISE)
@given(run=training_runs(names=SGD, learns=True))
def test_listing_frozen_ones_changes_nothing(
    device: str, dtype: torch.dtype, own: OptimizerSpec, run: TrainingRun
) -> None:
    """F4: with frozen parameters listed or left out, the others get the same bits."""
    if CAPABILITIES[own.name].random:
        pytest.skip("its random numbers are spread over what it lists: other ones, listed or left out")
    if own.needs_closure and dtype is torch.float32:
        pytest.skip("it measures all that it holds at once: rounding grows; float64 is judged")
    run, steps = dataclasses.replace(with_own(run, own), groups=1), warm_up(run, own)
    listed = advance(trainer_of(run, device, dtype, listed="all"), steps)
    left_out = advance(trainer_of(run, device, dtype, listed="trainable"), steps)
    if own.needs_closure:  # it measures all that it holds at once: zeros change how sums are rounded
        for name, parameter in left_out.named.items():
            check_close(parameter, listed.named[name], f"{name} with the frozen left out", 1e-8, 1e-8)
        return
    check_unchanged(left_out.named, listed.bits(), "with the frozen left out")


@law("F3", "torch.optim documentation", PRECISE)
@given(run=training_runs(names=SGD, learns=True))
def test_the_rest_moves(device: str, dtype: torch.dtype, own: OptimizerSpec, run: TrainingRun) -> None:
    """F3: a parameter with a gradient moves and stays finite; one without stands still."""
    run = with_own(run, own)
    trainer = trainer_of(run, device, dtype)
    gradients(trainer)
    sizes = {
        name: float(parameter.grad.abs().max())
        for name, parameter in trainer.named.items()
        if parameter.grad is not None
    }
    single = CAPABILITIES[own.name].single
    moving = [
        name
        for name in trainer.listed
        if sizes.get(name, 0.0) > NOISE
        and (single or trainer.named[name].dim() < 2 or trainer.named[name].shape[1] > 1)
    ]
    steps = LATEST  # it ends as soon as all of them have moved
    for step in range(steps):
        advance(trainer, first=step)
        for name in trainer.listed:
            parameter = trainer.named[name]
            check(bool(torch.isfinite(parameter).all()), f"{name} is not finite after a step")
            if name not in sizes:
                check_same_bits(parameter, trainer.before[name], f"{name}, which got no gradient,")
        if all(read_bits(trainer.named[name]) != trainer.before[name] for name in moving):
            break
    for name in moving:
        if read_bits(trainer.named[name]) == trainer.before[name] and rounds_away(run, name, dtype):
            event("its steps are shorter than float32 keeps")
            continue
        what = f"{name}, with gradient {sizes[name]:.3g}, in {steps} steps"
        check_moved(trainer.named[name], trainer.before[name], what)


@law("F6", "torch.optim documentation", PRECISE)
@given(run=training_runs(names=SGD, learns=True, cuts=False))
def test_frozen_midway_stay(
    device: str, dtype: torch.dtype, own: OptimizerSpec, run: TrainingRun
) -> None:
    """F6: frozen midway, with its gradient cleared to None, a parameter keeps its bits."""
    unfrozen = dataclasses.replace(with_own(run, own), frozen=(), listed="all")
    trainer, steps = trainer_of(unfrozen, device, dtype), warm_up(run, own)
    advance(trainer, steps)
    for name in run.frozen or (trainer.listed[0],):
        trainer.named[name].requires_grad_(False)
    frozen = [name for name, parameter in trainer.named.items() if not parameter.requires_grad]
    before = snapshot({name: trainer.named[name] for name in frozen})
    for step in range(1, 4):
        advance(trainer, first=steps + step)
        for name in frozen:
            what = f"{name}, frozen after {steps} steps, in step {step} after that"
            check_same_bits(trainer.named[name], before[name], what)


@law("F9", "torch.optim documentation, Optimizer.load_state_dict", PRECISE)
@given(run=training_runs(names=SGD, learns=True))
def test_saving_midway_changes_nothing(
    device: str, dtype: torch.dtype, own: OptimizerSpec, run: TrainingRun
) -> None:
    """F9: a new optimizer that loads the state_dict goes on with the same bits."""
    run = with_own(run, own)
    straight, stopped = trainer_of(run, device, dtype), trainer_of(run, device, dtype)
    steps = warm_up(run, own)
    advance(straight, steps)
    advance(stopped, steps)
    saved = copy.deepcopy(stopped.optimizer.state_dict())
    stopped.optimizer = stopped.build_optimizer()
    stopped.optimizer.load_state_dict(saved)
    cast = dtypes_of(straight.optimizer) != dtypes_of(stopped.optimizer)
    advance(straight, SINCE, first=steps)
    advance(stopped, SINCE, first=steps)
    for name, parameter in straight.named.items():
        what = f"{name} after loading the optimizer's state"
        if cast:  # torch loads float32 state of a float64 parameter as float64
            check_close(stopped.named[name], parameter, what, 1e-5, 1e-6)
        else:
            check_same_bits(stopped.named[name], read_bits(parameter), what)
