"""One description, run in other ways, on other devices, in other processes: the same training."""

import dataclasses
import random
from functools import cache
from typing import Dict, List, Optional

import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st

from frostproof.properties.harness.core.bits import read_bits
from frostproof.properties.harness.core.checks import check, check_equal, check_same_bits, count_cases
from frostproof.properties.harness.core.law import PRECISE, law, part
from frostproof.properties.harness.reference import oracle
from frostproof.properties.harness.reference.update_rules import (
    Rule,
    allowed_error,
    referenced,
    rule_for,
)
from frostproof.properties.harness.running.call_modes import (
    Compile,
    Eager,
    FunctionalCall,
    compiles,
    way_of,
    ways,
)
from frostproof.properties.harness.running.subprocesses import Subprocess, digest
from frostproof.properties.harness.running.trainer import Trainer
from frostproof.properties.harness.session import evidence
from frostproof.properties.test_gradients import check_gradients, expected_of
from frostproof.strategies import MLP, Cuts, Layer, OptimizerSpec, TrainingRun, mlps, training_runs
from frostproof.strategies.networks import ACTIVATIONS, NORMS


def check_alike(plain: Eager, other: Eager, way: str) -> None:
    """Two untrained runs get the same gradients, and in training the same parameters move alike."""
    __tracebackhide__ = True
    bystanders = {name: read_bits(value) for name, value in other.bystanders().items()}
    first: Optional[Dict[str, Optional[bytes]]] = None
    for step in range(1, plain.run.steps + 1):
        plain.step()
        other.step()
        if first is None:
            first = plain.gradient_bits()
            for name, bits in other.gradient_bits().items():
                check(
                    (bits is None) == (first[name] is None),
                    f"{way}: {name} has {'no' if bits is None else 'a'} gradient, but run plainly "
                    f"it has {'a' if bits is None else 'none'}",
                )
                held = other.named[name].grad
                if held is not None:
                    check_same_bits(held, first[name], f"{way}: gradient of {name}")
        moved = {name for name, bits in plain.bits().items() if bits != plain.before[name]}
        also = {name for name, bits in other.bits().items() if bits != other.before[name]}
        check_equal(sorted(also), sorted(moved), f"{way}: what has moved after step {step}")
    expected = plain.bits()
    for name, parameter in other.named.items():
        check_same_bits(parameter, expected[name], f"{way}: {name} at the end")
    for name, bits in bystanders.items():
        left = other.bystanders()[name]
        check_same_bits(left, bits, f"{way}: {name} of the module that was only called")
        check(left.grad is None, f"{way}: {name} of the module that was only called has a gradient")


def on_cpu(run: TrainingRun) -> TrainingRun:
    """The run with the optimizer's default implementation, which the CPU has for certain."""
    ways_of = ("foreach", "fused")
    options = tuple(pair for pair in run.optimizer.options if pair[0] not in ways_of)
    return dataclasses.replace(run, optimizer=OptimizerSpec(run.optimizer.name, options))


@cache
def same_kernels(device: str, dtype: torch.dtype) -> bool:
    """Whether a device computes as the CPU does, to the bit: products, sums, exp, tanh and sqrt.

    There rounding is no reason for another gradient. A device that has kernels of its own
    sums in another order, and a gradient may be off by what rounding makes of that.
    """
    generator = torch.Generator()
    generator.manual_seed(0)
    for rows, columns in ((1, 7), (33, 40), (65, 129)):
        x = torch.rand((rows, columns), generator=generator, dtype=dtype) * 4 - 2
        seen = []
        for place in ("cpu", device):
            y = x.to(place)
            values = (y @ y.t(), y.sum(0), y.mean(), y.exp(), y.tanh(), (y * y + 1).sqrt())
            seen.append([read_bits(value) for value in values])
        if seen[0] != seen[1]:
            return False
    return True


def check_near(
    here: torch.Tensor, there: torch.Tensor, allowed: torch.Tensor, what: str, device: str
) -> None:
    """A value on the CPU and one on another device lie within twice what each may be off."""
    __tracebackhide__ = True
    one, two = oracle.as_float64(here), oracle.as_float64(there)
    gap = (one - two).abs()
    worst = int((gap / allowed).argmax()) if gap.numel() else 0
    check(
        bool((gap <= 2 * allowed).all()),
        f"{what}: element {worst} is {one.flatten()[worst].item()!r} on cpu, "
        f"{two.flatten()[worst].item()!r} on {device}",
    )


@law("X1", "PyTorch documentation, Numerical accuracy", PRECISE, beside_cpu=True)
@given(data=st.data())
def test_devices_train_alike(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """X1: on another device the same parameters move as on the CPU, to values as close as rounding."""
    run: TrainingRun = data.draw(
        training_runs(
            networks=mlps(max_depth=4, max_width=40),
            names=referenced(1e-3),
            device=device,
            dtype=dtype,
            max_steps=3,
            learns=True,
        )
    )
    here, there = Trainer(on_cpu(run), "cpu", dtype), Trainer(run, device, dtype)
    rules: Dict[str, Rule] = {}
    # torch has other formulas for normalization off the CPU
    plain = all(layer.norm == "none" for layer in run.network.layers)
    alike = plain and same_kernels(device, dtype)
    for step in range(1, run.steps + 1):
        expected = expected_of(here)
        for trainer in (here, there):
            trainer.clear()
            trainer.backward()
        for name, parameter in here.named.items():
            ours, theirs = parameter.grad, there.named[name].grad
            if ours is None or theirs is None:
                check(ours is None and theirs is None, f"{name} has a gradient on one device only")
                continue
            tolerance = oracle.gradient_tolerance(dtype, expected, name)
            if tolerance is not None and run.clearing != "keep":
                check_near(ours, theirs, tolerance, f"gradient of {name}", device)
                if alike:
                    check_same_bits(theirs, read_bits(ours), f"gradient of {name}, CPU's kernels")
            # from here on alike: what adaptive rules make of a rounding error is no concern here
            with torch.no_grad():
                theirs.copy_(ours)
        old = {name: oracle.as_float64(parameter) for name, parameter in here.named.items()}
        slopes = {n: oracle.as_float64(p.grad) for n, p in here.named.items() if p.grad is not None}
        bits = here.bits()
        here.apply()
        there.apply()
        for name, parameter in here.named.items():
            what, other = f"{name} after step {step} of {run.optimizer.name}", there.named[name]
            if name not in slopes or name not in here.listed:
                check_same_bits(parameter, bits[name], f"{what} on cpu")
                check_same_bits(other, bits[name], f"{what} on {device}")
                continue
            rule = rules.get(name) or rule_for(run.optimizer, dtype)
            assert rule is not None
            rules[name] = rule
            wanted = rule.step(old[name], slopes[name])
            check_near(parameter, other, allowed_error(rule, dtype, old[name], wanted), what, device)
            with torch.no_grad():
                other.copy_(parameter)


@law("X2", "torch.func and torch.utils.checkpoint documentation", PRECISE)
@part(2, least=10)
@pytest.mark.parametrize("way", list(ways()))
@given(data=st.data())
def test_other_ways_train_alike(device: str, dtype: torch.dtype, way: str, data: st.DataObject) -> None:
    """X2: checkpointed or called functionally, a net's gradients and training keep every bit."""
    run: TrainingRun = data.draw(
        training_runs(device=device, dtype=dtype, max_depth=4, max_steps=3, learns=True)
    )
    event(f"cut by {run.cuts.by}" if run.cuts.positions else "uncut")
    check_alike(Eager(run, device, dtype), way_of(way)(run, device, dtype), way)


@law("X2", "torch.func.grad documentation", PRECISE, needs="torch.func.grad")
@part(2, least=10)
@given(data=st.data())
def test_transformed_gradients(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """X2: torch.func.grad gives the gradients that backward gives, zeros where that gives none."""
    run: TrainingRun = data.draw(training_runs(device=device, dtype=dtype, max_depth=4, learns=True))
    trainer = FunctionalCall(run, device, dtype)
    expected = expected_of(trainer)
    found = trainer.gradients()
    check_equal(sorted(found), sorted(run.unfrozen()), "what torch.func.grad gives gradients of")
    for name, gradient in found.items():
        if name in run.gets_gradient():
            trainer.named[name].grad = gradient
        else:
            check(not bool(gradient.any()), f"torch.func.grad: {name}, cut off, has a gradient")
    check_gradients(trainer, expected, dtype)


def compiled_runs(seed: int) -> List[TrainingRun]:
    """Small nets with frozen layers: uncut, cut in both ways, and with a skip round the cut."""
    source = random.Random(seed)
    found = []
    for cuts, skip in ((Cuts(), 0), (Cuts((1,)), 1), (Cuts((2,)), 0), (Cuts((1,), "no_grad"), 0)):
        width = source.randint(1, 6)
        layers = tuple(
            Layer(width, activation=source.choice(ACTIVATIONS), norm=source.choice(NORMS), skip=each)
            for each in (0, skip, 0)
        )
        network = MLP(source.randint(1, 5), layers, seed=source.randrange(1024))
        frozen = (source.choice(network.parameter_names()[:-4]), "layers.2.linear.weight")
        spec = OptimizerSpec(source.choice(("SGD", "Adam")), (("lr", 0.1),))
        found.append(TrainingRun(network, frozen, cuts, spec, batch=5, steps=2, seed=network.seed))
    return found


@law("X2", "torch.compile documentation", "float32", needs=compiles)
def test_compiled_nets_train_alike(device: str, dtype: torch.dtype) -> None:
    """X2: compiled, a net's gradients and training keep every bit."""
    # tracing costs a tenth of a second for each net: too much for many examples
    for repeat in range(max(1, (settings.default or settings()).max_examples // 100)):
        for run in compiled_runs(evidence.Current.seed + repeat):
            check_alike(Eager(run, device, dtype), Compile(run, device, dtype), "compiled")
            count_cases(1)


def varied_runs(seed: int) -> List[TrainingRun]:
    """One run for each activation: different sizes, norms, masks and optimizers."""
    source = random.Random(seed)
    found = []
    for place, activation in enumerate(ACTIVATIONS):
        widths = [source.randint(2, 70) for _ in range(3)]
        layers = tuple(
            Layer(width, activation=activation, norm=source.choice(NORMS)) for width in widths
        )
        network = MLP(source.randint(1, 9), layers, seed=source.randrange(1024))
        frozen = tuple(name for name in network.parameter_names()[1:] if source.random() < 0.3)
        spec = OptimizerSpec(("SGD", "Adam", "RMSprop", "Adagrad")[place % 4], (("lr", 0.01),))
        found.append(TrainingRun(network, frozen, optimizer=spec, batch=9, steps=3, seed=place))
    return found


@law("X3", "PyTorch documentation, Reproducibility", "float32")
def test_processes_train_alike(device: str, dtype: torch.dtype) -> None:
    """X3: two processes with the same description end with the same bits."""
    runs = varied_runs(evidence.Current.seed)
    other = Subprocess(runs, device, dtype, evidence.Current.plugins)
    here = [digest(run, device, dtype) for run in runs]
    for run, one, two in zip(runs, here, other.digests()):
        check(one == two, f"another process trains this to other bits: {run}")
        count_cases(1)
