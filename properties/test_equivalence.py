"""Different ways to train the same part of a net, compared bit for bit."""

import dataclasses
from typing import Any, List

import torch
from hypothesis import given
from hypothesis import strategies as st

from frostproof.properties.harness.core.bits import read_bits
from frostproof.properties.harness.core.checks import check, check_equal, check_moved, check_same_bits
from frostproof.properties.harness.core.law import FLOATING, PRECISE, law, part
from frostproof.properties.harness.reference import oracle
from frostproof.properties.harness.reference.update_rules import allowed_error, rule_for
from frostproof.properties.harness.running.trainer import Trainer
from frostproof.strategies import Cuts, OptimizerSpec, TrainingRun, mlps, optimizers, training_runs
from frostproof.strategies.optimizers import IMPLEMENTATIONS, implementations

SOURCE = "PyTorch notes, Autograd mechanics"


def check_same_end(one: Trainer, other: Trainer, what: str) -> None:
    """Every parameter of two trained nets has the same bits."""
    __tracebackhide__ = True
    expected = one.bits()
    for name, parameter in other.named.items():
        check_same_bits(parameter, expected[name], f"{name}, {what}")


class OnFeatures(Trainer):
    """Trains the layers from ``place`` on, on features that the others computed once."""

    def __init__(self, run: TrainingRun, device: str, dtype: torch.dtype, place: int) -> None:
        super().__init__(run, device, dtype)
        blocks = list(self.network.blocks())
        self.tail = blocks[place:]
        self.features = self.inputs
        with torch.no_grad():
            for block in blocks[:place]:
                self.features = block(self.features)

    def output(self) -> torch.Tensor:
        value = self.features
        for block in self.tail:
            value = block(value)
        return value


@law("F4", SOURCE, FLOATING)
@given(data=st.data())
def test_ways_to_freeze_a_prefix(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F4: a prefix frozen, detached, under no_grad, or replaced by its features: the same end."""
    network = data.draw(mlps(min_depth=2, skips=False, tied=False))
    spec = data.draw(optimizers(device=device, dtype=dtype))
    if spec.needs_closure:
        spec = OptimizerSpec("SGD", (("lr", 0.1), ("momentum", 0.9)))
    place = data.draw(st.integers(1, network.depth - 1))
    names = network.parameters_by_layer()[:place]
    prefix = tuple(name for layer in names for name in layer)
    base = TrainingRun(network, optimizer=spec, batch=4, steps=3, seed=network.seed)
    frozen = Trainer(dataclasses.replace(base, frozen=prefix), device, dtype).train()
    ways = {
        "left out of the optimizer": dataclasses.replace(base, frozen=prefix, listed="trainable"),
        "detached after": dataclasses.replace(base, cuts=Cuts((place,))),
        "run under no_grad": dataclasses.replace(base, cuts=Cuts((place,), "no_grad")),
    }
    for what, run in ways.items():
        check_same_end(frozen, Trainer(run, device, dtype).train(), f"{what} against frozen")
    tail = OnFeatures(ways["left out of the optimizer"], device, dtype, place).train()
    check_same_end(frozen, tail, "trained on features against frozen")
    for name in prefix:
        check_same_bits(frozen.named[name], frozen.before[name], f"frozen {name}")


@law("F4", SOURCE, FLOATING)
@given(data=st.data())
def test_order_and_groups_do_not_matter(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F4: the order of an optimizer's parameters, and their split into groups, change no bit."""
    run: TrainingRun = data.draw(training_runs(device=device, dtype=dtype, learns=True))
    if run.optimizer.needs_closure:
        run = dataclasses.replace(run, optimizer=OptimizerSpec("Adam", (("lr", 0.1),)))

    def backwards(names: List[str]) -> List[str]:
        return names[::-1]

    plain = Trainer(dataclasses.replace(run, groups=1), device, dtype).train()
    check_same_end(plain, Trainer(run, device, dtype, order=backwards).train(), "other order")
    split = dataclasses.replace(run, groups=2)
    check_same_end(plain, Trainer(split, device, dtype).train(), "split into groups")


@law("F4", "torch.optim documentation, foreach and fused implementations", FLOATING)
@given(data=st.data())
def test_the_frozen_stay_in_every_implementation(
    device: str, dtype: torch.dtype, data: st.DataObject
) -> None:
    """F4: the default, for-loop, foreach and fused implementations move the same, and equally far."""
    run: TrainingRun = data.draw(training_runs(device=device, dtype=dtype, learns=True))
    spec = run.optimizer
    if spec.needs_closure:
        spec = OptimizerSpec("Adam", (("lr", 0.1),))
    options = dict(spec.options)
    options.pop("foreach", None)
    options.pop("fused", None)
    bare = OptimizerSpec(spec.name, tuple(sorted(options.items())))
    run = dataclasses.replace(run, optimizer=bare)
    for way in implementations(spec.name, device, dtype):
        trainer = Trainer(run, device, dtype, options=dict(IMPLEMENTATIONS[way]))
        old = {name: oracle.as_float64(parameter) for name, parameter in trainer.named.items()}
        trainer.clear()
        trainer.backward()
        slopes = {
            name: oracle.as_float64(parameter.grad)
            for name, parameter in trainer.named.items()
            if parameter.grad is not None and name in trainer.listed
        }
        trainer.apply()
        # capturable ones keep the step, and so the bias corrections, in float32
        rough = dtype is torch.float64 and IMPLEMENTATIONS[way].get("capturable")
        unit = torch.float32 if rough else dtype
        for name, slope in slopes.items():
            check_first_step(trainer, name, old[name], slope, unit, f"{spec.name} ({way}): {name}")
        for _ in range(run.steps - 1):
            trainer.step()
        after = trainer.bits()
        moved = {name for name in after if after[name] != trainer.before[name]}
        stray = moved - run.gets_gradient()
        check(not stray, f"{spec.name} ({way}) moved {sorted(stray)}, frozen or cut off")


@law("F1 F4", "torch.optim.Optimizer.step documentation", PRECISE)
@part(2, least=10)
@given(data=st.data())
def test_step_takes_a_closure(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F4: step(closure) calls it once, in grad mode, gives its loss, and moves as step() after it."""
    spec: OptimizerSpec = data.draw(optimizers(device=device, dtype=dtype))
    if spec.needs_closure:  # LBFGS calls it as often as it likes
        spec = OptimizerSpec("SGD", (("lr", 0.1), ("momentum", 0.9)))
    steps, recording = data.draw(st.integers(1, 3)), data.draw(st.booleans())
    plain, closed = Cube(spec, device, dtype), Cube(spec, device, dtype)
    for step in range(1, steps + 1):
        before = plain.closure().tolist()
        plain.optimizer.step()
        with torch.set_grad_enabled(recording):
            loss: Any = closed.optimizer.step(closed.closure)  # type: ignore[arg-type]
        what = f"step {step} of {spec.name} with a closure"
        check_equal(closed.modes, [True] * step, f"{what}: the grad modes that it was called in")
        check(isinstance(loss, torch.Tensor), f"{what} returned {loss}, not the loss")
        check_equal(loss.tolist(), before, f"{what} returned another loss")
        check_same_bits(closed.live, read_bits(plain.live), f"after {what} the live parameter")
        check_same_bits(closed.frozen, torch.full_like(closed.frozen, 0.75), f"after {what} the frozen")


class Cube:
    """A live and a frozen parameter, (2, 2) each, their optimizer, and their loss as a closure."""

    def __init__(self, spec: OptimizerSpec, device: str, dtype: torch.dtype) -> None:
        full = torch.full((2, 2), 0.75, device=device, dtype=dtype)
        self.live = torch.nn.Parameter(full * 1)
        self.frozen = torch.nn.Parameter(full * 1, requires_grad=False)
        self.optimizer = spec.build([self.live, self.frozen])
        self.modes: List[bool] = []  # whether grad mode was on at each call

    def closure(self) -> torch.Tensor:
        self.modes.append(torch.is_grad_enabled())
        self.live.grad = None
        loss = (self.live * self.live * self.live).sum() + self.frozen.sum()
        if loss.requires_grad:
            loss.backward()
        return loss


def check_first_step(
    trainer: Trainer, name: str, old: torch.Tensor, slope: torch.Tensor, unit: torch.dtype, what: str
) -> None:
    """A live parameter went where the rule says; it moved for certain where that is far enough.

    Low precisions say too little of small gradients, and so do rough optimizers. unit: the
    dtype whose rounding the update may show.
    """
    __tracebackhide__ = True
    parameter = trainer.named[name]
    rule = rule_for(trainer.spec, parameter.dtype)
    if rule is None or rule.roughness > 1e-3 or parameter.element_size() < 4:
        return
    expected = rule.step(old, slope)
    allowed = allowed_error(rule, unit, old, expected)
    if bool(((expected - old).abs() > 2 * allowed).any()):
        check_moved(parameter, trainer.before[name], what)
    gap = (oracle.as_float64(parameter) - expected).abs()
    check(
        bool((gap <= allowed).all()),
        f"{what} is up to {float((gap / allowed).max()):.3g} times the allowed error off its rule",
    )
