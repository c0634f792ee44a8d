"""Every optimizer against its reference: what moves, by how much, and what must not."""

from typing import Dict

import torch
from hypothesis import event, given
from hypothesis import strategies as st

from properties.harness import oracle
from properties.harness.checks import check, check_close, check_same_bits, fail
from properties.harness.law import PRECISE, law
from properties.harness.trainer import Trainer
from properties.harness.update_rules import Rule, check_tolerance, referenced, rule_for
from strategies import TrainingRun, training_runs


def expected_of(trainer: Trainer) -> oracle.Expected:
    """What the oracle expects of the trainer's next forward and backward."""
    run = trainer.run
    return oracle.expect(
        run.network,
        trainer.named,
        trainer.inputs,
        trainer.targets,
        frozen=frozenset(run.frozen),
        cuts=run.cuts.positions,
        cut_by=run.cuts.by,
    )


def check_gradients(trainer: Trainer, expected: oracle.Expected, dtype: torch.dtype) -> None:
    """Each parameter's gradient is the oracle's, within rounding; None where none must be."""
    __tracebackhide__ = True
    for name, parameter in trainer.named.items():
        if name not in expected.gradients:
            check(parameter.grad is None, f"{name} must get no gradient, but has one")
            continue
        if parameter.grad is None:
            fail(f"{name} must get a gradient, but has none")
        allowed = oracle.gradient_tolerance(dtype, expected, name)
        if allowed is None:
            continue
        gap = (oracle.as_float64(parameter.grad) - expected.gradients[name]).abs()
        worst = int((gap / allowed).argmax())
        check(
            bool((gap <= allowed).all()),
            f"gradient of {name}: element {worst} is {parameter.grad.flatten()[worst].item()!r}, "
            f"the reference {expected.gradients[name].flatten()[worst].item()!r} (allowed error "
            f"{allowed.flatten()[worst].item():.3g})",
        )


@law("F3", "closed form: backward written by hand", PRECISE)
@given(data=st.data())
def test_gradients_match_the_oracle(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F3: every gradient, and the loss, are those of an independent float64 reference."""
    run: TrainingRun = data.draw(training_runs(device=device, dtype=dtype, learns=True))
    trainer = Trainer(run, device, dtype)
    expected = expected_of(trainer)
    unit = float(torch.finfo(dtype).eps) * 1000 * expected.condition
    loss = trainer.loss()
    check_close(loss, torch.tensor(expected.loss, dtype=torch.float64), "loss", rtol=unit, atol=unit)
    loss.backward()
    check_gradients(trainer, expected, dtype)


@law("F3", "the formulas in the torch.optim documentation", PRECISE)
@given(data=st.data())
def test_values_follow_the_rule(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F3: at every step each live parameter moves by exactly its optimizer's published rule."""
    run: TrainingRun = data.draw(
        training_runs(names=referenced(), max_depth=4, device=device, dtype=dtype, learns=True)
    )
    spec = run.optimizer
    event(f"optimizer {spec.name}")
    trainer = Trainer(run, device, dtype)
    rules: Dict[str, Rule] = {}
    for step in range(1, run.steps + 1):
        trainer.clear()
        trainer.backward()
        values = {name: oracle.as_float64(p) for name, p in trainer.named.items()}
        gradients = {
            name: oracle.as_float64(p.grad) for name, p in trainer.named.items() if p.grad is not None
        }
        bits = trainer.bits()
        trainer.apply()
        for name, parameter in trainer.named.items():
            where = f"{name} after step {step} of {spec.name}"
            if name not in gradients or name not in trainer.listed:
                check_same_bits(parameter, bits[name], where)
                continue
            rule = rules.get(name) or rule_for(spec)
            assert rule is not None
            rules[name] = rule
            check_update(parameter, values[name], gradients[name], rule, where)


def check_update(
    parameter: torch.Tensor,
    before: torch.Tensor,
    gradient: torch.Tensor,
    rule: Rule,
    where: str,
) -> None:
    """The parameter moved as the rule says; elements with a gradient near eps are given room."""
    __tracebackhide__ = True
    expected = rule.step(before, gradient)
    relative, unit = check_tolerance(parameter.dtype)
    actual = oracle.as_float64(parameter)
    # An adaptive rule divides by the gradient's size: rounding of a gradient that has all
    # but cancelled is amplified up to the size of a whole step.
    allowed = relative * (expected - before).abs() + unit * (before.abs() + expected.abs())
    allowed = allowed + relative * 1e-3 * float(rule.lr) + 1e-300
    gap = (actual - expected).abs()
    worst = int((gap / allowed).argmax())
    check(
        bool((gap <= allowed).all()),
        f"{where}: element {worst} went from {before.flatten()[worst].item()!r} to "
        f"{actual.flatten()[worst].item()!r}, by the rule to {expected.flatten()[worst].item()!r} "
        f"(gradient {gradient.flatten()[worst].item()!r}, {rule.options})",
    )
