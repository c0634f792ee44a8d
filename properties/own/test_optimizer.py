"""A user's own optimizer (--optimizer): the laws of freezing, on random nets."""

import dataclasses
from typing import Any, List

import pytest
import torch
from hypothesis import given

from frostproof.properties.harness.core.bits import read_bits
from frostproof.properties.harness.core.checks import (
    check,
    check_equal,
    check_moved,
    check_same_bits,
    check_unchanged,
    snapshot,
)
from frostproof.properties.harness.core.law import PRECISE, law
from frostproof.properties.harness.running.trainer import Trainer
from frostproof.strategies import OptimizerSpec, TrainingRun, training_runs
from frostproof.strategies.optimizers import OWN

SGD = ("SGD",)
NOISE = 1e-4  # gradients below this may be rounded away by an optimizer's eps
WARM_UP = 5  # steps in which an optimizer may begin to move


@pytest.fixture(scope="session")
def own(request: pytest.FixtureRequest) -> OptimizerSpec:
    """The user's optimizer."""
    config: Any = request.config
    spec: OptimizerSpec = config.frostproof_own.optimizer
    return spec


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
        loss.backward()
    return loss


def advance(trainer: Trainer, steps: int = 1) -> Trainer:
    """Training steps; the optimizer steps where it has anything to step with."""
    for _ in range(steps):
        gradients(trainer)
        if not any(parameter.grad is not None for parameter in trainer.named.values()):
            continue
        if trainer.spec.needs_closure:
            trainer.optimizer.step(lambda: gradients(trainer))  # type: ignore
        else:
            trainer.optimizer.step()
    return trainer


def sorted_frozen(run: TrainingRun) -> List[str]:
    """The run's frozen parameters, in parameter order."""
    return [name for name in run.network.parameter_names() if name in run.frozen]


@law("F1", "torch.optim documentation", PRECISE)
@given(run=training_runs(names=SGD))
def test_frozen_stay(device: str, dtype: torch.dtype, own: OptimizerSpec, run: TrainingRun) -> None:
    """F1: after every step a frozen parameter has its bits, no gradient and no state."""
    trainer = Trainer(with_own(run, own), device, dtype)
    still = [name for name in trainer.named if name not in run.gets_gradient()]
    state = trainer.optimizer.state
    eager = [name for name in still if state.get(trainer.named[name])]  # made with the optimizer
    for step in range(1, run.steps + 1):
        advance(trainer)
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
    run = dataclasses.replace(with_own(run, own), groups=1)
    listed = advance(Trainer(run, device, dtype, listed="all"), run.steps)
    left_out = advance(Trainer(run, device, dtype, listed="trainable"), run.steps)
    check_unchanged(left_out.named, listed.bits(), "with the frozen left out")


@law("F3", "torch.optim documentation", PRECISE)
@given(run=training_runs(names=SGD, learns=True))
def test_the_rest_moves(device: str, dtype: torch.dtype, own: OptimizerSpec, run: TrainingRun) -> None:
    """F3: a parameter with a gradient moves and stays finite; one without stands still."""
    trainer = Trainer(with_own(run, own), device, dtype)
    gradients(trainer)
    sizes = {
        name: float(parameter.grad.abs().max())
        for name, parameter in trainer.named.items()
        if parameter.grad is not None
    }
    moving = [name for name in trainer.listed if sizes.get(name, 0.0) > NOISE]
    for _ in range(WARM_UP):
        advance(trainer)
        for name in trainer.listed:
            parameter = trainer.named[name]
            check(bool(torch.isfinite(parameter).all()), f"{name} is not finite after a step")
            if name not in sizes:
                check_same_bits(parameter, trainer.before[name], f"{name}, which got no gradient,")
        if all(read_bits(trainer.named[name]) != trainer.before[name] for name in moving):
            break
    for name in moving:
        what = f"{name}, with gradient {sizes[name]:.3g}, in {WARM_UP} steps"
        check_moved(trainer.named[name], trainer.before[name], what)


@law("F6", "torch.optim documentation", PRECISE)
@given(run=training_runs(names=SGD, learns=True, cuts=False))
def test_frozen_midway_stay(
    device: str, dtype: torch.dtype, own: OptimizerSpec, run: TrainingRun
) -> None:
    """F6: frozen midway, with its gradient cleared to None, a parameter keeps its bits."""
    trainer = Trainer(dataclasses.replace(with_own(run, own), frozen=(), listed="all"), device, dtype)
    advance(trainer, run.steps)
    for name in run.frozen or (trainer.listed[0],):
        trainer.named[name].requires_grad_(False)
    frozen = [name for name, parameter in trainer.named.items() if not parameter.requires_grad]
    before = snapshot({name: trainer.named[name] for name in frozen})
    for step in range(1, 4):
        advance(trainer)
        for name in frozen:
            what = f"{name}, frozen after {run.steps} steps, in step {step} after that"
            check_same_bits(trainer.named[name], before[name], what)


@law("F9", "torch.optim documentation, Optimizer.load_state_dict", PRECISE)
@given(run=training_runs(names=SGD, learns=True))
def test_saving_midway_changes_nothing(
    device: str, dtype: torch.dtype, own: OptimizerSpec, run: TrainingRun
) -> None:
    """F9: a new optimizer that loads the state_dict goes on with the same bits."""
    run = with_own(run, own)
    straight = Trainer(run, device, dtype)
    stopped = Trainer(run, device, dtype)
    advance(straight, run.steps)
    advance(stopped, run.steps)
    saved = stopped.optimizer.state_dict()
    stopped.optimizer = stopped.build_optimizer()
    stopped.optimizer.load_state_dict(saved)
    advance(straight)
    advance(stopped)
    for name, bits in straight.bits().items():
        check_same_bits(stopped.named[name], bits, f"{name} after loading the optimizer's state")
