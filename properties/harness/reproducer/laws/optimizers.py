"""Programs for the laws against the reference: its numbers are written into the program."""

import dataclasses
from typing import Dict, List, Optional, Tuple

import torch

from properties.harness import oracle
from properties.harness.reproducer.case import Case
from properties.harness.reproducer.literals import FEW, numbers
from properties.harness.reproducer.registry import reproduces
from properties.harness.reproducer.script import Script
from properties.harness.reproducer.training import Recipe, options_text
from properties.harness.trainer import Trainer
from properties.harness.update_rules import check_tolerance, rule_for
from properties.test_optimizers import expected_of
from strategies import TrainingRun

FILE = "test_optimizers.py::"


def emit_gradient_checks(script: Script, recipe: Recipe, trainer: Trainer) -> None:
    """Each gradient against the reference, at the element that is furthest off now."""
    expected = expected_of(trainer)
    trainer.optimizer.zero_grad(set_to_none=True)
    trainer.backward()
    for name, parameter in trainer.named.items():
        place = recipe.place(name)
        if name not in expected.gradients:
            script.check(f"{place}.grad is None", f"{recipe.names[name]} must get no gradient")
            continue
        script.check(f"{place}.grad is not None", f"{recipe.names[name]} got no gradient")
        allowed = oracle.gradient_tolerance(trainer.inputs.dtype, expected, name)
        if allowed is None or parameter.grad is None:
            continue
        gap = (oracle.as_float64(parameter.grad) - expected.gradients[name]).abs()
        worst = int((gap / allowed).argmax())
        wanted = expected.gradients[name].flatten()[worst].item()
        room = allowed.flatten()[worst].item()
        script.check_after(
            f"got = {place}.grad.flatten()[{worst}].item()",
            f"abs(got - {wanted!r}) <= {room:.3g}",
            f"gradient of {recipe.names[name]}, element {worst}: {{got}}, by hand {wanted!r}",
        )


@reproduces(FILE + "test_gradients_match_the_oracle")
def gradients_match(case: Case, script: Script) -> None:
    """The loss and the gradients of one backward."""
    (run,) = case.draws(None)
    recipe = Recipe(script, case, run).setup(optimizer=False)
    trainer = Trainer(run, case.device, case.dtype)
    expected = expected_of(trainer)
    unit = float(torch.finfo(case.dtype).eps) * 1000 * expected.condition
    script.add(f"loss = {recipe.loss}")
    room = unit * (1 + abs(expected.loss))
    script.check(
        f"abs(loss.item() - {expected.loss!r}) <= {room:.3g}",
        f"loss {{loss.item()}}, by hand {expected.loss!r}",
    )
    script.add("loss.backward()")
    emit_gradient_checks(script, recipe, Trainer(run, case.device, case.dtype))


@dataclasses.dataclass
class Move:
    """One parameter's history up to a step, and where the rule says that it ends."""

    name: str
    first: torch.Tensor
    gradients: List[torch.Tensor]
    expected: torch.Tensor
    allowed: torch.Tensor
    excess: float
    step: int


def moves(case: Case, run: TrainingRun) -> Tuple[List[Move], Optional[str]]:
    """Every parameter's worst step against its rule; the name of one that moved without cause."""
    trainer = Trainer(run, case.device, case.dtype)
    rules: Dict[str, object] = {}
    first = {name: oracle.as_float64(p) for name, p in trainer.named.items()}
    history: Dict[str, List[torch.Tensor]] = {name: [] for name in trainer.named}
    found: Dict[str, Move] = {}
    stray = None
    relative, unit = check_tolerance(case.dtype)
    for step in range(1, run.steps + 1):
        trainer.clear()
        trainer.backward()
        before = {name: oracle.as_float64(p) for name, p in trainer.named.items()}
        old = trainer.bits()
        gradients = {
            n: oracle.as_float64(p.grad) for n, p in trainer.named.items() if p.grad is not None
        }
        trainer.apply()
        for name, parameter in trainer.named.items():
            if name not in gradients or name not in trainer.listed:
                if stray is None and trainer.bits()[name] != old[name]:
                    stray = name
                continue
            rule = rules.get(name) or rule_for(run.optimizer)
            assert rule is not None
            rules[name] = rule
            history[name].append(gradients[name])
            expected = rule.step(before[name], gradients[name])  # type: ignore[attr-defined]
            allowed = relative * (expected - before[name]).abs()
            allowed = allowed + unit * (before[name].abs() + expected.abs())
            allowed = allowed + relative * 1e-3 * float(rule.lr) + 1e-300  # type: ignore[attr-defined]
            excess = float(((oracle.as_float64(parameter) - expected).abs() / allowed).max())
            if name not in found or excess > found[name].excess:
                found[name] = Move(
                    name, first[name], list(history[name]), expected, allowed, excess, step
                )
    return sorted(found.values(), key=lambda move: -move.excess), stray


def _values_run(case: Case) -> TrainingRun:
    run: TrainingRun = case.drawn[-1]
    return run


@reproduces(FILE + "test_values_follow_the_rule")
def one_parameter(case: Case, script: Script) -> None:
    """One parameter alone, given the gradients that it got in the run."""
    run = _values_run(case)
    found, _ = moves(case, run)
    if not found:
        return
    move = found[0]
    first, gradients, expected, allowed = move.first, move.gradients, move.expected, move.allowed
    if first.numel() > FEW:
        after = (expected - first).abs() / allowed
        place = int(after.argmax())
        first, expected, allowed = (t.flatten()[place : place + 1] for t in (first, expected, allowed))
        gradients = [gradient.flatten()[place : place + 1] for gradient in gradients]
    spec = run.optimizer
    value = numbers(first.to(case.dtype))
    script.add(
        f"p = torch.tensor({value}, dtype=dtype, device=device, requires_grad=True)",
        f"optimizer = torch.optim.{spec.name}([p]{options_text(spec)})",
    )
    lists = ", ".join(numbers(gradient.to(case.dtype)) for gradient in gradients)
    with script.block(f"for gradient in [{lists}]:"):
        script.add("p.grad = torch.tensor(gradient, dtype=dtype, device=device)", "optimizer.step()")
    _check_end(script, "p", expected, allowed * (1 + 3 * (move.step > 1)), f"{spec.name}: the value")


def _check_end(
    script: Script, place: str, expected: torch.Tensor, allowed: torch.Tensor, what: str
) -> None:
    script.add(f"expected = torch.tensor({numbers(expected)}, dtype=torch.float64)")
    room = f"{float(allowed.min()):.3g}"
    if float(allowed.max()) > 2 * float(allowed.min()):
        room = "torch.tensor(" + numbers(allowed) + ", dtype=torch.float64)"
    script.check(
        f"((({place}).cpu().double() - expected).abs() <= {room}).all()",
        f"{what} is {{{place}.tolist()}}, by its published rule {{expected.tolist()}}",
    )


@reproduces(FILE + "test_values_follow_the_rule")
def whole_run(case: Case, script: Script) -> None:
    """The whole run up to the step that was furthest off."""
    run = _values_run(case)
    found, stray = moves(case, run)
    recipe = Recipe(script, case, run).setup()
    recipe.before()
    if stray is not None or not found:
        recipe.steps()
        gets = recipe.gets()
        others = tuple(n for n in recipe.ordered(run.network.parameter_names()) if n not in gets)
        recipe.check_stays(others, "{name}, without a gradient,")
        return
    move = found[0]
    recipe.steps(move.step)
    place = recipe.place(move.name)
    expected, allowed = move.expected, move.allowed
    if expected.numel() > FEW:
        index = int(((expected - move.first).abs() / allowed).argmax())
        place = f"{place}.flatten()[{index}]"
        expected, allowed = expected.flatten()[index], allowed.flatten()[index]
    # each step before this one was within its own tolerance
    room = allowed * (1 + 3 * (move.step - 1))
    _check_end(script, place, expected, room, f"{recipe.names[move.name]} after step {move.step}")
