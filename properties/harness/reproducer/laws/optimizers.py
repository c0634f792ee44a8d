"""Programs for the laws against the reference: its numbers are written into the program."""

import contextlib
import dataclasses
from typing import Dict, List, Optional, Tuple

import torch

from frostproof.properties.harness.core.checks import LawBroken
from frostproof.properties.harness.reference import oracle
from frostproof.properties.harness.reference.update_rules import allowed_error, rule_for
from frostproof.properties.harness.reproducer.case import Case
from frostproof.properties.harness.reproducer.literals import FEW, numbers
from frostproof.properties.harness.reproducer.networks import MODULES
from frostproof.properties.harness.reproducer.registry import reproduces
from frostproof.properties.harness.reproducer.script import Script
from frostproof.properties.harness.reproducer.training import Recipe, options_text
from frostproof.properties.harness.running.trainer import Trainer
from frostproof.properties.harness.running.workarounds import sound
from frostproof.properties.test_gradients import (
    NORM_ROUNDINGS,
    STEADY,
    LinearCase,
    activation_points,
    expected_of,
    norm_case,
    wide_run,
    with_batch_norm,
)
from frostproof.strategies import OptimizerSpec, TrainingRun
from frostproof.strategies.networks import ACTIVATION_MODULES

FILE = "test_optimizers.py::"


def emit_gradient_checks(
    script: Script,
    recipe: Recipe,
    trainer: Trainer,
    expected: Optional[oracle.Expected] = None,
) -> None:
    """Each gradient against the reference, at the element that is furthest off now."""
    expected = expected or expected_of(trainer)
    trainer.optimizer.zero_grad(set_to_none=True)
    with contextlib.suppress(LawBroken):
        trainer.backward()
    for name, parameter in trainer.named.items():
        place = recipe.place(name)
        if name not in expected.gradients:
            script.check(f"{place}.grad is None", f"{recipe.names[name]} must get no gradient")
            continue
        emit_gradient_check(script, place, recipe.names[name], parameter, expected, name)


def emit_gradient_check(
    script: Script,
    place: str,
    shown: str,
    tensor: torch.Tensor,
    expected: oracle.Expected,
    name: str,
) -> None:
    """One gradient against the reference, at the element that is furthest off now."""
    script.check(f"{place}.grad is not None", f"{shown} got no gradient")
    allowed = oracle.gradient_tolerance(tensor.dtype, expected, name)
    if allowed is None or tensor.grad is None:
        return
    gap = (oracle.as_float64(tensor.grad) - expected.gradients[name]).abs()
    worst = int((gap / allowed).argmax())
    wanted = expected.gradients[name].flatten()[worst].item()
    room = allowed.flatten()[worst].item()
    script.check_after(
        f"got = {place}.grad.flatten()[{worst}].item()",
        f"abs(got - {wanted!r}) <= {room:.3g}",
        f"gradient of {shown}, element {worst}: {{got}}, by hand {wanted!r}",
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


@reproduces(FILE + "test_gradients_of_wide_nets")
def gradients_of_wide_nets(case: Case, script: Script) -> None:
    """The gradients of one backward of a wide net."""
    run = wide_run(case["widths"], case["batch"], case["seed"])
    recipe = Recipe(script, case, run).setup(optimizer=False)
    script.add(f"{recipe.loss}.backward()")
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
    worst: int  # the element that is furthest off, in flat order


def furthest(
    parameter: torch.Tensor, expected: torch.Tensor, allowed: torch.Tensor
) -> Tuple[float, int]:
    """How far the worst element is off, as a multiple of what is allowed, and its place."""
    gaps = ((oracle.as_float64(parameter) - expected).abs() / allowed).flatten()
    return float(gaps.max()), int(gaps.argmax())


def moves(case: Case, run: TrainingRun) -> Tuple[List[Move], Optional[str]]:
    """Every parameter's worst step against its rule; the name of one that moved without cause."""
    trainer = Trainer(run, case.device, case.dtype)
    rules: Dict[str, object] = {}
    first = {name: oracle.as_float64(p) for name, p in trainer.named.items()}
    history: Dict[str, List[torch.Tensor]] = {name: [] for name in trainer.named}
    found: Dict[str, Move] = {}
    stray = None
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
            rule = rules.get(name) or rule_for(trainer.spec, case.dtype)
            assert rule is not None
            rules[name] = rule
            history[name].append(gradients[name])
            expected = rule.step(before[name], gradients[name])  # type: ignore[attr-defined]
            allowed = allowed_error(rule, case.dtype, before[name], expected)  # type: ignore[arg-type]
            excess, worst = furthest(parameter, expected, allowed)
            if name not in found or excess > found[name].excess:
                past = list(history[name])
                found[name] = Move(name, first[name], past, expected, allowed, excess, step, worst)
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
    emit_alone(script, case, move, sound(run.optimizer, case.device, case.dtype))


def emit_alone(script: Script, case: Case, move: Move, spec: OptimizerSpec) -> None:
    """One parameter in an optimizer of its own, given the gradients of its history."""
    first, gradients, expected, allowed = move.first, move.gradients, move.expected, move.allowed
    if first.numel() > FEW and not spec.traits.mixes:
        first, expected, allowed = (
            t.flatten()[move.worst : move.worst + 1] for t in (first, expected, allowed)
        )
        gradients = [gradient.flatten()[move.worst : move.worst + 1] for gradient in gradients]
    value = numbers(first.to(case.dtype))
    script.add(
        f"p = torch.tensor({value}, dtype=dtype, device=device, requires_grad=True)",
        f"optimizer = torch.optim.{spec.name}([p]{options_text(spec)})",
    )
    lists = ", ".join(numbers(gradient.to(case.dtype)) for gradient in gradients)
    with script.block(f"for gradient in [{lists}]:"):
        script.add("p.grad = torch.tensor(gradient, dtype=dtype, device=device)", "optimizer.step()")
    room = allowed * (1 + 3 * (move.step > 1))
    _check_end(script, "p", expected, room, f"{spec.name}: the value")


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
        place = f"{place}.flatten()[{move.worst}]"
        expected, allowed = expected.flatten()[move.worst], allowed.flatten()[move.worst]
    # each step before this one was within its own tolerance
    room = allowed * (1 + 3 * (move.step - 1))
    _check_end(script, place, expected, room, f"{recipe.names[move.name]} after step {move.step}")


@reproduces(FILE + "test_gradients_of_small_nets")
def gradients_of_small_nets(case: Case, script: Script) -> None:
    """The gradients of one backward, in any precision."""
    network = case["network"]
    layers = tuple(
        layer if layer.activation in STEADY else dataclasses.replace(layer, activation="softplus")
        for layer in network.layers
    )
    network = dataclasses.replace(network, layers=layers)
    run = TrainingRun(network, batch=case["batch"], seed=network.seed)
    recipe = Recipe(script, case, run).setup(optimizer=False)
    recipe.backward()
    emit_gradient_checks(script, recipe, Trainer(run, case.device, case.dtype))


@reproduces(FILE + "test_input_gradients_pass_the_frozen")
def input_gradients(case: Case, script: Script) -> None:
    """The gradient of the input of a net with frozen parameters."""
    network, mask = case.draws(None, ())
    run = TrainingRun(network, mask, batch=4, seed=network.seed)
    recipe = Recipe(script, case, run).setup(optimizer=False)
    script.add("x.requires_grad_()", f"{recipe.loss}.backward()")
    trainer = Trainer(run, case.device, case.dtype)
    trainer.inputs.requires_grad_()
    emit_gradient_checks(script, recipe, trainer)
    expected = expected_of(trainer)
    emit_gradient_check(script, "x", "the input", trainer.inputs, expected, oracle.INPUTS)


@reproduces(FILE + "test_gradients_in_eval_mode")
def gradients_in_eval_mode(case: Case, script: Script) -> None:
    """The loss and gradients in eval mode, after one forward in train mode."""
    network = with_batch_norm(case["network"])
    run = TrainingRun(network, batch=case["batch"], seed=network.seed)
    recipe = Recipe(script, case, run).setup(optimizer=False)
    trainer = Trainer(run, case.device, case.dtype)
    trainer.output()
    trainer.network.eval()
    buffers = {name: b for name, b in trainer.network.named_buffers() if b.is_floating_point()}
    expected = oracle.expect(
        network, trainer.named, trainer.inputs, trainer.targets, statistics=buffers
    )
    script.add(recipe.output, "net.eval()", f"loss = {recipe.loss}")
    room = float(torch.finfo(case.dtype).eps) * 1000 * expected.condition * (1 + expected.loss)
    script.check(
        f"abs(loss.item() - {expected.loss!r}) <= {room:.3g}",
        f"loss {{loss.item()}} in eval mode, by hand {expected.loss!r}",
    )
    script.add("loss.backward()")
    emit_gradient_checks(script, recipe, trainer, expected)


@reproduces(FILE + "test_slopes_of_activations")
def slopes_of_activations(case: Case, script: Script) -> None:
    """One activation, at the number where its slope or value is furthest off."""
    name = case["name"]
    points = activation_points(case.device, case.dtype)
    exact, slopes = oracle.activate(name, oracle.as_float64(points))
    unit = 32 * float(torch.finfo(case.dtype).eps)
    script.add(
        "even = torch.arange(-400, 401, dtype=torch.float64) / 400",
        "points = (40 * even * even.abs()).to(device, dtype)",
    )
    for step in (1, 2, 401):
        taken = points[::step].requires_grad_()
        value = ACTIVATION_MODULES[name]()(taken)
        (found,) = torch.autograd.grad(value.sum(), taken)
        script.add(
            f"x = points[::{step}].requires_grad_()",
            f"y = {MODULES.get(name, 'nn.Identity()')}(x)",
            "slope = torch.autograd.grad(y.sum(), x)[0]",
        )
        for what, target, ours in (("y", exact[::step], value), ("slope", slopes[::step], found)):
            gaps = (oracle.as_float64(ours) - target).abs() / (1 + target.abs())
            worst = int(torch.where(gaps == gaps, gaps, gaps * 0 + 1e300).argmax())
            wanted = target[worst].item()
            script.check(
                f"abs({what}[{worst}].item() - {wanted!r}) <= {unit * (1 + abs(wanted))!r}",
                f"{name}: {what} at {{x[{worst}].item()}} is {{{what}[{worst}].item()}}, "
                f"by its formula {wanted!r}",
            )


@reproduces(FILE + "test_linear_of_every_rank")
def linear_of_every_rank(case: Case, script: Script) -> None:
    """A linear layer alone, on small whole numbers."""
    drawn: LinearCase = case["case"]
    leading, inputs, outputs = drawn.leading, drawn.inputs, drawn.outputs
    places = {"input": "x", "weight": "layer.weight", "bias": "layer.bias"}
    script.add(
        f"generator = torch.Generator().manual_seed({drawn.seed})",
        "numbers = lambda *shape: torch.randint(-2, 3, shape, generator=generator).to(device, dtype)",
        f"layer = nn.Linear({inputs}, {outputs}).to(device, dtype)",
    )
    with script.block("with torch.no_grad():"):
        script.add(f"layer.weight.copy_(numbers({outputs}, {inputs}))")
        script.add(f"layer.bias.copy_(numbers({outputs}))")
    script.add(f"x = numbers(*{leading}, {inputs})", f"slopes = numbers(*{leading}, {outputs})")
    for name, place in places.items():
        script.add(f"{place}.requires_grad_({name not in drawn.frozen})")
    if "evaluated" in case.values:
        with script.block("with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):"):
            if case["evaluated"]:
                with script.block("with torch.no_grad():"):
                    script.add("layer(x)")
            script.add("y = layer(x)")
    else:
        script.add("y = layer(x)")
    script.add(
        f"rows, g = x.detach().double().reshape(-1, {inputs}), slopes.double().reshape(-1, {outputs})",
        "weight, bias = layer.weight.detach().double(), layer.bias.detach().double()",
    )
    rules = {"input": "g @ weight", "weight": "g.T @ rows", "bias": "g.sum(0)"}
    equal = "torch.equal({0}.double().reshape(({1}).shape), {1})"
    script.check(
        equal.format("y.detach()", "rows @ weight.T + bias"), "the output is not x @ weight.T + bias"
    )
    if len(drawn.frozen) < len(places):
        script.add("y.backward(slopes.to(y.dtype))")
    for name, place in places.items():
        if name in drawn.frozen:
            script.check(f"{place}.grad is None", f"{name} is frozen, but got a gradient")
        else:
            script.check(f"{place}.grad is not None", f"{name} got no gradient")
            script.check(
                f"{place}.grad.dtype is dtype", f"{name} got a gradient of {{{place}.grad.dtype}}"
            )
            script.check(
                equal.format(f"{place}.grad", rules[name]),
                f"the gradient of {name} is not {rules[name]}",
            )


if hasattr(torch, "autocast"):
    reproduces(FILE + "test_linear_under_autocast")(linear_of_every_rank)


@reproduces(FILE + "test_norms_alone")
def norms_alone(case: Case, script: Script) -> None:
    """A norm alone, at the elements that are furthest off."""
    kind, rows, width, seed = case["kind"], case["rows"], case["width"], case["seed"]
    norm, value, upstream = norm_case(kind, rows, width, seed, case.device, case.dtype)
    module = {"layer": "LayerNorm", "batch": "BatchNorm1d"}[kind]
    script.add(
        f"generator = torch.Generator().manual_seed({seed})",
        f"drawn = torch.rand({2 * rows + 2}, {width}, generator=generator, dtype=torch.float64)",
        "drawn = drawn.to(device, dtype)",
        f"norm = nn.{module}({width}).to(device, dtype)",
    )
    with script.block("with torch.no_grad():"):
        script.add("norm.weight.copy_(drawn[-1] / 2 + 1)", "norm.bias.copy_(drawn[-2])")
    script.add(
        f"x = (drawn[:{rows}] * 4 - 2).requires_grad_()",
        "y = norm(x)",
        f"y.backward(drawn[{rows}:{2 * rows}] * 2 - 1)",
    )
    output = norm(value)
    output.backward(upstream)
    exact = [oracle.as_float64(t) for t in (value, upstream, norm.weight, norm.bias)]
    places = {
        "output": ("y", output),
        "input": ("x.grad", value.grad),
        "weight": ("norm.weight.grad", norm.weight.grad),
        "bias": ("norm.bias.grad", norm.bias.grad),
    }
    for what, (expected, size) in oracle.normalize(kind, *exact).items():
        place, ours = places[what]
        script.check(f"{place} is not None", f"{module}: no gradient of {what}")
        if ours is None:
            continue
        room = NORM_ROUNDINGS[what] * float(torch.finfo(case.dtype).eps) * (size + size.max() / 10)
        worst = int(((oracle.as_float64(ours) - expected).abs() / room).argmax())
        wanted = expected.flatten()[worst].item()
        script.check_after(
            f"got = {place}.flatten()[{worst}].item()",
            f"abs(got - {wanted!r}) <= {room.flatten()[worst].item():.3g}",
            f"{module}: {what}, element {worst}: {{got}}, by its formula {wanted!r}",
        )
