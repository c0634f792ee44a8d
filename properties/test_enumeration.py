"""Every mask and every cut of small nets, enumerated: nothing is left to chance here."""

from itertools import product
from typing import Any, Dict, FrozenSet, Iterable, List

import torch

from frostproof.properties.harness.core.bits import from_bits, has_bits
from frostproof.properties.harness.core.checks import (
    check_equal,
    check_raises,
    check_same_bits,
    check_same_gradient,
    count_cases,
    fail,
)
from frostproof.properties.harness.core.law import PRECISE, law
from frostproof.properties.harness.reference import oracle
from frostproof.properties.harness.reference.update_rules import rule_for
from frostproof.properties.harness.running.trainer import Trainer
from frostproof.properties.test_gradients import check_gradients, expected_of
from frostproof.properties.test_optimizers import check_update
from frostproof.strategies import MLP, Cuts, Layer, OptimizerSpec, TrainingRun

SPECS = (
    OptimizerSpec("SGD", (("lr", 0.1), ("momentum", 0.9), ("weight_decay", 0.1))),
    OptimizerSpec("AdamW", (("lr", 0.1),)),
    OptimizerSpec("Adagrad", (("lr", 0.1), ("weight_decay", 0.1))),
)
WIDTHS = (3, 4, 2, 5, 3, 4, 2)
ACTIVATIONS = ("tanh", "gelu", "identity", "silu", "softplus", "sigmoid")
Bits = Dict[str, bytes]


def network_of(depth: int) -> MLP:
    """A net of a depth with biases: two parameters to freeze in each layer."""
    layers = [Layer(WIDTHS[index + 1], activation=ACTIVATIONS[index]) for index in range(depth)]
    return MLP(WIDTHS[0], tuple(layers), nested=depth % 2 == 0, seed=depth)


class Uncut:
    """What every case is compared with: the same net with nothing frozen and one cut.

    gradients: their bits, of the parameters that get one; after: for each optimizer the
    bits after two steps with these gradients, each checked against its rule.
    """

    def __init__(self, trainer: Trainer, dtype: torch.dtype) -> None:
        self.gradients = {n: bits for n, bits in trainer.gradient_bits().items() if bits is not None}
        check_gradients(trainer, expected_of(trainer), dtype)
        self.start = {
            name: from_bits(trainer.before[name], parameter.shape, parameter.dtype)
            for name, parameter in trainer.named.items()
        }
        self.after: List[Bits] = []
        for spec in SPECS:
            optimizer = spec.build(list(trainer.named.values()))
            rules = {name: rule_for(spec) for name in self.gradients}
            for step in (1, 2) if rules else ():
                old = {name: oracle.as_float64(value) for name, value in trainer.named.items()}
                optimizer.step()
                for name, rule in rules.items():
                    parameter = trainer.named[name]
                    assert rule is not None and parameter.grad is not None
                    gradient = oracle.as_float64(parameter.grad)
                    check_update(parameter, old[name], gradient, rule, f"{name}, step {step}")
            self.after.append(trainer.bits())
            self.restore(trainer, trainer.named)

    def restore(self, trainer: Trainer, names: Iterable[str]) -> None:
        """Put the values of the start back into the named parameters."""
        with torch.no_grad():
            for name in names:
                trainer.named[name].copy_(self.start[name])


class Name:
    """What a case is called; spelled out only where it fails."""

    def __init__(self, trainer: Trainer, frozen: FrozenSet[str]) -> None:
        self.run, self.frozen = trainer.run, frozen

    def __str__(self) -> str:
        cuts = self.run.cuts.positions
        return (
            f"depth {self.run.network.depth}, cut {cuts[0] if cuts else None}, "
            f"frozen {sorted(self.frozen)}"
        )


def check_case(trainer: Trainer, uncut: Uncut, frozen: FrozenSet[str]) -> None:
    """One mask under one cut: gradients, and where two steps of each optimizer lead."""
    __tracebackhide__ = True
    case = Name(trainer, frozen)
    gets = frozenset(uncut.gradients) - frozen
    for name, parameter in trainer.named.items():
        parameter.requires_grad = name not in frozen
        parameter.grad = None
    loss = trainer.loss()
    if gets:
        loss.backward()
    else:
        check_raises(RuntimeError, loss.backward, f"{case}: backward with nothing to reach", "grad")
    for name, parameter in trainer.named.items():
        if name not in gets:
            if parameter.grad is not None:
                fail(f"{case}: {name} must get no gradient, but has one")
        elif parameter.grad is None:
            fail(f"{case}: {name} must get a gradient, but has none")
        elif not has_bits(parameter.grad, uncut.gradients[name]):
            check_same_bits(parameter.grad, uncut.gradients[name], f"{case}: gradient of {name}")
    for spec, after in zip(SPECS, uncut.after):
        versions = {name: trainer.named[name]._version for name in frozen}
        optimizer = spec.build(list(trainer.named.values()))
        if gets:  # torch 1.8 cannot step without any gradient
            optimizer.step()
            optimizer.step()
        for name, parameter in trainer.named.items():
            wanted = after[name] if name in gets else trainer.before[name]
            if not has_bits(parameter, wanted):
                check_same_bits(parameter, wanted, f"{case}: {name} after two steps of {spec.name}")
        if any(trainer.named[name]._version != versions[name] for name in frozen):
            fail(f"{case}: {spec.name} wrote to a frozen parameter (its version counter moved)")
        uncut.restore(trainer, gets)


@law("F1 F2 F3 K1", "the source article; every case enumerated", PRECISE)
def test_every_mask_and_cut(device: str, dtype: torch.dtype, depth: int) -> None:
    """F1, F2, K1: every mask under every single cut: who gets which gradient, and who moves."""
    network = network_of(depth)
    names = network.parameter_names()
    whole: Bits = {}
    for place in (None, *range(depth + 1)):
        cuts = Cuts(() if place is None else (place,))
        trainer = Trainer(TrainingRun(network, cuts=cuts, batch=3, seed=depth), device, dtype)
        trainer.backward()
        check_equal(set(network.reached(cuts.positions)), trainer_got(trainer), f"cut at {place}")
        uncut = Uncut(trainer, dtype)
        whole = whole or uncut.gradients
        for name in uncut.gradients:
            check_same_gradient(trainer.named[name], whole[name], f"cut at {place}: gradient of {name}")
        for flags in product((False, True), repeat=len(names)):
            frozen = frozenset(name for name, flag in zip(names, flags) if flag)
            check_case(trainer, uncut, frozen)
            count_cases(1)


def trainer_got(trainer: Trainer) -> Any:
    """The names that have a gradient."""
    return {name for name, parameter in trainer.named.items() if parameter.grad is not None}
