"""Different ways to train the same part of a net, compared bit for bit."""

import dataclasses
from typing import List

import torch
from hypothesis import given
from hypothesis import strategies as st

from properties.harness.checks import check, check_same_bits
from properties.harness.law import FLOATING, law
from properties.harness.trainer import Trainer
from strategies import Cuts, OptimizerSpec, TrainingRun, mlps, optimizers, training_runs
from strategies.optimizers import IMPLEMENTATIONS, implementations

SOURCE = "PyTorch notes, Autograd mechanics"


def check_same_end(one: Trainer, other: Trainer, what: str) -> None:
    """Every parameter of two trained nets has the same bits."""
    __tracebackhide__ = True
    expected = one.bits()
    for name, parameter in other.named.items():
        check_same_bits(parameter, expected[name], f"{name}, {what}")


@law("F4", SOURCE, FLOATING)
@given(data=st.data())
def test_ways_to_freeze_a_prefix(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F4: freezing a prefix, detaching after it, and running it under no_grad end alike."""
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
    """F4: the default, for-loop, foreach and fused implementations move the same parameters."""
    run: TrainingRun = data.draw(training_runs(device=device, dtype=dtype, learns=True))
    spec = run.optimizer
    if spec.needs_closure:
        spec = OptimizerSpec("Adam", (("lr", 0.1),))
    options = dict(spec.options)
    options.pop("foreach", None)
    options.pop("fused", None)
    bare = OptimizerSpec(spec.name, tuple(sorted(options.items())))
    moved = {}
    for way in implementations(spec.name, device, dtype):
        trainer = Trainer(
            dataclasses.replace(run, optimizer=bare),
            device,
            dtype,
            options=dict(IMPLEMENTATIONS[way]),
        ).train()
        after = trainer.bits()
        moved[way] = {name for name in after if after[name] != trainer.before[name]}
        stray = moved[way] - run.gets_gradient()
        check(not stray, f"{spec.name} ({way}) moved {sorted(stray)}, frozen or cut off")
