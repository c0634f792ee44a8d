"""Programs for the laws of optimizers over plain parameters, without a net."""

import dataclasses
from typing import Any, List, Optional, Tuple

import torch

from frostproof.properties.harness.core.bits import read_bits
from frostproof.properties.harness.reference import oracle
from frostproof.properties.harness.reference.lbfgs import LBFGS, Bowl, lbfgs_steps, lbfgs_tolerance
from frostproof.properties.harness.reference.update_rules import SparseAdam, allowed_error, rule_for
from frostproof.properties.harness.reproducer.case import Case
from frostproof.properties.harness.reproducer.laws.optimizers import (
    Move,
    _check_end,
    emit_alone,
    furthest,
)
from frostproof.properties.harness.reproducer.literals import FEW, numbers
from frostproof.properties.harness.reproducer.registry import reproduces
from frostproof.properties.harness.reproducer.script import Script
from frostproof.properties.harness.reproducer.training import emit_guarded_step, options_text
from frostproof.properties.harness.running import workarounds
from frostproof.properties.harness.running.known_defects import known
from frostproof.properties.harness.running.scenario import ListingRun, gradient_like, state_bits
from frostproof.properties.test_optimizers import (
    LEFT_BEHIND,
    Fed,
    frozen_midway,
    option_scenarios,
    sparse_options,
    steps_with_left_behind,
    without_history,
)
from frostproof.strategies import OptimizerScenario, OptimizerSpec
from frostproof.strategies.optimizers import implementations

FILE = "test_optimizers.py::"
GIVEN = FILE + "test_rule_on_given_gradients"
COMPLEX = FILE + "test_rule_on_complex_gradients"
EVERY = FILE + "test_every_option"


@dataclasses.dataclass
class Stray:
    """What a step changed that it must leave alone: "value", "state", "gradient", "flag" or "rates"."""

    place: int
    step: int
    what: str


def worst_move(case: Case, scenario: OptimizerScenario) -> Tuple[Optional[Move], Optional[Stray]]:
    """The step that is furthest from its rule, and the first that changed what it must not."""
    run = ListingRun(scenario, case.device, case.dtype)
    scenario = run.scenario
    first = run.values()
    history: List[List[torch.Tensor]] = [[] for _ in run.parameters]
    found: Optional[Move] = None
    for step, kind in enumerate(scenario.steps, 1):
        run.prepare(step)
        run.feed(kind)
        before = run.look()
        run.apply()
        if run.rates() != before.rates:
            return found, Stray(0, step, "rates")
        for place, parameter in enumerate(run.parameters):
            rule, gradient = run.rules[place], run.exact[place]
            now = None if parameter.grad is None else read_bits(parameter.grad)
            if parameter.requires_grad != scenario.live(place, step):
                return found, Stray(place, step, "flag")
            if now != before.gradients[place] and (gradient is None or run.keeps_gradient(place)):
                return found, Stray(place, step, "gradient")
            if gradient is None or not run.listed(place, step):
                if read_bits(parameter) != before.bits[place]:
                    return found, Stray(place, step, "value")
                if state_bits(run.optimizer, parameter) != before.states[place]:
                    return found, Stray(place, step, "state")
                continue
            history[place].append(gradient)
            expected = rule.step(before.values[place], gradient)
            allowed = allowed_error(rule, case.dtype, before.values[place], expected)
            excess, worst = furthest(parameter, expected, allowed)
            if found is None or excess > found.excess:
                past = list(history[place])
                found = Move(str(place), first[place], past, expected, allowed, excess, step, worst)
    return found, None


def listing_of(case: Case) -> OptimizerScenario:
    """The scenario that broke the law; of an enumeration, the first that breaks it now."""
    if case.test != EVERY:
        (scenario,) = case.drawn
        return ListingRun(scenario, case.device, case.dtype).scenario
    optimizer_scenarios = [
        ListingRun(scenario, case.device, case.dtype).scenario
        for scenario in option_scenarios(case["name"], case.device, case.dtype)
    ]
    for scenario in optimizer_scenarios:
        move, stray = worst_move(case, scenario)
        if stray is not None or (move is not None and move.excess > 1):
            return scenario
    return optimizer_scenarios[0]


@reproduces(GIVEN)
@reproduces(EVERY)
def alone(case: Case, script: Script) -> None:
    """The parameter that is furthest off, in an optimizer of its own."""
    scenario = listing_of(case)
    move, stray = worst_move(case, scenario)
    if move is not None and stray is None:
        emit_alone(script, case, move, scenario.spec_of(int(move.name)))


def emit_parameters(script: Script, scenario: OptimizerScenario, complex_values: bool = False) -> None:
    """``parameters`` and ``generator`` as the scenario's."""
    script.add(
        f"generator = torch.Generator().manual_seed({scenario.seed})",
        "parameters = []",
    )
    with script.block(f"for shape, frozen in {list(zip(scenario.shapes, scenario.frozen))}:"):
        shape = "(*shape, 2)" if complex_values else "shape"
        script.add(f"value = torch.rand({shape}, generator=generator, dtype=torch.float64) * 2 - 1")
        if complex_values:
            script.add("value = torch.view_as_complex(value)")
        if scenario.turned:
            script.add("value = value.t().contiguous().t() if len(shape) == 2 else value")
        script.add(
            "p = nn.Parameter(value.to(device, dtype), requires_grad=not frozen)",
            "parameters.append(p)",
        )
    script.add(f"generator = torch.Generator().manual_seed({scenario.seed})")


def emit_gradient_like(
    script: Script,
    kinds: Tuple[str, ...],
    target: str = "gradient",
    complex_values: bool = False,
) -> None:
    """The made-up gradient of ``p``, as ``gradient_like`` draws it."""
    shape = "(*p.shape, 2)" if complex_values else "p.shape"
    script.add(f"{target} = torch.rand({shape}, generator=generator, dtype=torch.float64) * 2 - 1")
    script.add(f"{target} = torch.sign({target}) * (0.05 + 0.95 * {target}.abs())")
    if any(kind in ("half zero", "zero") for kind in kinds):
        with script.block('if kind in ("half zero", "zero"):'):
            script.add(
                f"keep = torch.rand({shape}, generator=generator) < 0.5",
                f'{target} = {target} * (keep & torch.tensor(kind != "zero"))',
            )
    if complex_values:
        script.add(f"{target} = torch.view_as_complex({target})")


def _value(scenario: OptimizerScenario, option: str, value: Any) -> str:
    rate = scenario.tensor_rate and option == "lr"
    return f"torch.tensor({value!r}, dtype=torch.float64)" if rate else repr(value)


def _options(scenario: OptimizerScenario, **more: Any) -> str:
    """The optimizer's options as keyword arguments, each after a comma."""
    options = sorted({**dict(scenario.spec.options), **more}.items())
    return "".join(f", {option}={_value(scenario, option, value)}" for option, value in options)


def _group(scenario: OptimizerScenario, number: int) -> str:
    second = "".join(f', "{o}": {_value(scenario, o, value)}' for o, value in scenario.second)
    return f'{{"params": parameters[{number}::2]{second if number else ""}}}'


def _emit_events(script: Script, scenario: OptimizerScenario, steps: Tuple[str, ...]) -> None:
    """What ``ListingRun.prepare`` does before a step."""
    if any(0 < turn <= len(steps) for turn in scenario.turns):
        with script.block(f"for p, turn in zip(parameters, {scenario.turns}):"):
            with script.block("if step == turn:"):
                script.add("p.requires_grad = not p.requires_grad")
    if 0 < scenario.late <= len(steps):
        with script.block(f"if step == {scenario.late}:"):
            script.add(f"optimizer.add_param_group({_group(scenario, 1)})")
    if 0 < scenario.halved <= len(steps):
        with script.block(f"if step == {scenario.halved}:"):
            with script.block("for group in optimizer.param_groups:"):
                script.add('group["lr"] = group["lr"] / 2')
    if 0 < scenario.reload <= len(steps):
        groups = f"[{_group(scenario, 0)}, {_group(scenario, 1)}]"
        options = _options(scenario, lr=0.7)
        with script.block(f"if step == {scenario.reload}:"):
            script.add(
                "saved = copy.deepcopy(optimizer.state_dict())",
                f"optimizer = torch.optim.{scenario.spec.name}({groups}{options})",
                "optimizer.load_state_dict(saved)",
            )


STRAYS = {
    "rates": ("[float(group['lr']) for group in optimizer.param_groups]", "the rate beside the step"),
    "flag": ("p.requires_grad", "requires_grad"),
    "gradient": ("repr(p.grad if p.grad is None else p.grad.tolist())", "the gradient"),
    "value": ("repr(p.tolist())", "the value"),
    "state": (
        "repr([(k, v.tolist() if torch.is_tensor(v) else v) "
        "for k, v in sorted(optimizer.state.get(p, {}).items())])",
        "the optimizer state",
    ),
}


@reproduces(GIVEN)
@reproduces(COMPLEX)
@reproduces(EVERY)
def together(case: Case, script: Script) -> None:
    """All parameters, in two groups."""
    scenario = listing_of(case)
    pairs = case.dtype.is_complex
    move, stray = worst_move(case, scenario)
    emit_parameters(script, scenario, pairs)
    numbers_now = (0,) if scenario.late else (0, 1)
    groups = ", ".join(_group(scenario, number) for number in numbers_now)
    script.add(f"optimizer = torch.optim.{scenario.spec.name}([{groups}]{_options(scenario)})")
    last = stray.step if stray is not None else len(scenario.steps) if move is None else move.step
    steps = scenario.steps[:last]
    with script.block(f"for step, kind in enumerate({steps}, 1):"):
        _emit_events(script, scenario, steps)
        with script.block("for p in parameters:"):
            emit_gradient_like(script, steps, complex_values=pairs)
            script.add("p.grad = torch.empty_like(p.data).copy_(gradient) if p.requires_grad else None")
            if "some" in steps:
                with script.block('if kind == "some" and torch.rand((), generator=generator) < 0.5:'):
                    script.add("p.grad = None")
        if stray is not None:
            script.add(f"p = parameters[{stray.place}]", f"before = {STRAYS[stray.what][0]}")
        if known(workarounds.EMPTY_STEP):
            emit_guarded_step(script)
        else:
            script.add("optimizer.step()")
    if stray is not None:
        script.add(f"now = {STRAYS[stray.what][0]}")
        script.check(
            "now == before",
            f"{STRAYS[stray.what][1]} of parameter {stray.place} went from {{before}} to {{now}} in "
            f"step {stray.step} of {scenario.spec.name}",
        )
        return
    if move is None:
        return
    place = f"parameters[{move.name}]"
    place = f"torch.view_as_real({place})" if pairs else place
    expected, allowed = move.expected, move.allowed
    if expected.numel() > FEW:
        place = f"{place}.flatten()[{move.worst}]"
        expected, allowed = expected.flatten()[move.worst], allowed.flatten()[move.worst]
    room = allowed * (1 + 3 * (move.step > 1))
    what = f"parameter {move.name} after step {move.step} of {scenario.spec.name}"
    _check_end(script, place, expected, room, what)


def emit_bowl(script: Script, case: Case) -> Bowl:
    """``parameters`` and ``closure`` as the law's."""
    bowl = Bowl(case["count"], case["seed"], case["frozen"], case.device, case.dtype)
    emit_parameters(script, bowl.scenario)
    script.add(
        f"generator = torch.Generator().manual_seed({case['seed']})",
        "size = sum(p.numel() for p in parameters)",
        "steep = 0.5 + torch.rand(size, generator=generator, dtype=torch.float64)",
        "live = torch.cat([torch.full((p.numel(),), float(p.requires_grad)) for p in parameters])",
        "steep = (steep * 16).round() / 16 * live",
    )
    with script.block("def flat():"):
        script.add("return torch.cat([p.data.double().cpu().flatten() for p in parameters])")
    with script.block("def closure():"):
        script.add("x = flat()", "slopes = (steep * (x + x**3)).split([p.numel() for p in parameters])")
        with script.block("for p, slope in zip(parameters, slopes):"):
            script.add("p.grad = slope.view(p.shape).to(device, dtype) if p.requires_grad else None")
        script.add("return (steep * (x**2 / 2 + x**4 / 4)).sum().item()")
    script.note("frozen", "frozen = [(p, repr(p.tolist())) for p in parameters if not p.requires_grad]")
    return bowl


def check_frozen(script: Script) -> None:
    """The frozen parameter has its value."""
    with script.block("for p, old in frozen:"):
        script.check("repr(p.tolist()) == old", "a frozen parameter moved under LBFGS from {old}")


@reproduces(FILE + "test_lbfgs_recursion")
def lbfgs_recursion(case: Case, script: Script) -> None:
    """Some steps of LBFGS; what the recursion says is written into the program."""
    rate, iterations, history = case["options"]
    bowl = emit_bowl(script, case)
    script.add(
        f"optimizer = torch.optim.LBFGS(parameters, lr={rate}, max_iter={iterations}, "
        f"history_size={history})"
    )
    optimizer = torch.optim.LBFGS(bowl.parameters, lr=rate, max_iter=iterations, history_size=history)
    rule = LBFGS(rate, iterations, history)
    unit = lbfgs_tolerance(case.dtype)
    for step in range(1, 1 + lbfgs_steps(case.dtype)):
        expected = rule.step(bowl.point(), bowl.slope)
        if rule.near_the_bottom:
            break
        optimizer.step(bowl.closure)  # type: ignore[arg-type]
        gaps = (bowl.point() - expected).abs() / (1 + expected.abs())
        place = int(gaps.argmax())
        wanted = expected[place].item()
        script.add("optimizer.step(closure)")
        script.check(
            f"abs(flat()[{place}].item() - {wanted!r}) <= {4 * unit * (1 + abs(wanted))!r}",
            f"step {step} of LBFGS took element {place} to {{flat()[{place}]}}, by its recursion "
            f"it comes to {wanted}",
        )
    check_frozen(script)


@reproduces(FILE + "test_lbfgs_line_search")
def lbfgs_line_search(case: Case, script: Script) -> None:
    """Two steps of LBFGS with a line search, at a rate that overshoots."""
    emit_bowl(script, case)
    script.add(
        'optimizer = torch.optim.LBFGS(parameters, lr=3.0, max_iter=3, line_search_fn="strong_wolfe")'
    )
    with script.block("for step in (1, 2):"):
        script.add("before = closure()", "optimizer.step(closure)", "after = closure()")
        script.check(
            "after <= before * (1 + 1e-5)", "step {step} took the loss from {before} to {after}"
        )
        script.check("step > 1 or after < before", "the first step left the loss at {before}")
    check_frozen(script)


@reproduces(FILE + "test_lbfgs_moves_frozen_by_its_formula")
def lbfgs_by_formula(case: Case, script: Script) -> None:
    """Two iterations, one parameter frozen between them, against the formula."""
    spec = OptimizerSpec("LBFGS", (("lr", 0.5), ("max_iter", 1)))
    scenario = OptimizerScenario(spec, (case["first"], (3, 2)), (False, False), seed=case["seed"])
    emit_parameters(script, scenario)
    script.add("gradients, frozen = [], parameters[0]")
    with script.block("for p in parameters:"):
        emit_gradient_like(script, ())
        script.add("gradients.append(gradient.to(device, dtype))")
    with script.block("def closure():"):
        with script.block("for p, gradient in zip(parameters, gradients):"):
            with script.block("if p.requires_grad:"):
                script.add("p.grad = gradient")
        script.add("return 1.0")
    script.add(
        "start = torch.cat([p.detach().double().flatten() for p in parameters])",
        "one = torch.cat([g.double().flatten() for g in gradients])",
        "optimizer = torch.optim.LBFGS(parameters, lr=0.5, max_iter=1)",
        "optimizer.step(closure)",
        "frozen.requires_grad = False",
        *(() if case["stale"] else ("frozen.grad = None",)),
        "gradients[1] = gradients[1] * 0.5",
        f"two = torch.cat([gradients[0].double().flatten() * {int(case['stale'])}, "
        "gradients[1].double().flatten()])",
        "optimizer.step(closure)",
        "# the first step, the change of the gradient over it, and the direction they make",
        "taken = -one * 0.5 * min(1, 1 / one.abs().sum().item())",
        "change = two - one",
        "curvature = (change @ taken).item()",
        "along = -(taken @ two).item() / curvature",
        "direction = (-two - along * change) * (curvature / (change @ change).item())",
        "along -= (change @ direction).item() / curvature",
        "wanted = start + taken + 0.5 * (direction + along * taken)",
        "got = torch.cat([p.detach().double().flatten() for p in parameters])",
    )
    unit = float(torch.finfo(case.dtype).eps) * 1e4
    script.check(
        f"((got - wanted).abs() <= {unit:.3g} * (1 + wanted.abs())).all()",
        "LBFGS went to {got.tolist()}, by its formula to {wanted.tolist()}",
    )


@reproduces(FILE + "test_what_is_left_behind_moves_by_the_rule")
def left_behind(case: Case, script: Script) -> None:
    """Two steps, some frozen, two more; the value that is furthest from its rule."""
    scenario, left = case.draws(OptimizerScenario(OptimizerSpec("SGD")), LEFT_BEHIND[0])
    scenario = without_history(scenario, case.device, case.dtype)
    spec = scenario.spec
    rules = [rule_for(scenario.spec_of(place), case.dtype) for place in range(len(scenario.shapes))]
    worst: Tuple[float, Optional[Fed], Any, Any, int] = (-1.0, None, None, None, 0)
    for fed in steps_with_left_behind(scenario, left, case.device, case.dtype):
        rule = rules[fed.place]
        if rule is None or fed.gradient is None:
            continue
        wanted = rule.step(fed.before, fed.gradient)
        allowed = allowed_error(rule, case.dtype, fed.before, wanted)
        excess, element = furthest(fed.parameter, wanted, allowed)
        if excess > worst[0]:
            worst = (excess, fed, wanted, allowed, element)
    _, fed_worst, wanted, allowed, element = worst
    emit_parameters(script, dataclasses.replace(scenario, frozen=(False,) * len(scenario.shapes)))
    second = "".join(f', "{option}": {value!r}' for option, value in scenario.second)
    groups = f'[{{"params": parameters[0::2]}}, {{"params": parameters[1::2]{second}}}]'
    script.add(f"optimizer = torch.optim.{spec.name}({groups}{options_text(spec)})")
    last = fed_worst.step if fed_worst is not None and worst[0] > 1 else 4
    with script.block(f"for step in range(1, {last + 1}):"):
        with script.block(f"for p, frozen in zip(parameters, {frozen_midway(scenario)}):"):
            with script.block("if step == 3 and frozen:"):
                script.add("p.requires_grad = False")
                if left != "stale":
                    script.add("p.grad.zero_()" if left == "zeros" else "p.grad = None")
            with script.block("if p.requires_grad:"):
                emit_gradient_like(script, ())
                script.add("p.grad = gradient.to(device, dtype)")
        script.note("before", "before = [repr(p.tolist()) for p in parameters]")
        if known(workarounds.EMPTY_STEP):
            emit_guarded_step(script)
        else:
            script.add("optimizer.step()")
        with script.block("for p, old in zip(parameters, before):"):
            script.check(
                "p.grad is not None or repr(p.tolist()) == old",
                "frozen midway, its gradient cleared, a parameter moved from {old} to {p.tolist()}",
            )
    if fed_worst is None or fed_worst.step != last:
        return
    place = f"parameters[{fed_worst.place}]"
    if wanted.numel() > FEW:
        place = f"{place}.flatten()[{element}]"
        wanted, allowed = wanted.flatten()[element], allowed.flatten()[element]
    what = f"parameter {fed_worst.place} after step {last} of {spec.name}"
    _check_end(script, place, wanted, 4 * allowed, what)


@reproduces(FILE + "test_sparse_adam")
def sparse_adam(case: Case, script: Script) -> None:
    """SparseAdam on some rows."""
    rows, width, seed = case["rows"], case["width"], case["seed"]
    shape = (rows + 1, width)
    scenario = OptimizerScenario(OptimizerSpec("SparseAdam"), (shape, shape), (False, True), seed=seed)
    parameter, _ = scenario.parameters(case.device, case.dtype)
    generator = torch.Generator()
    generator.manual_seed(seed)
    touched = sorted(set(torch.randint(0, rows, (rows,), generator=generator).tolist()))
    maximize = bool(sparse_options(seed, case.dtype))
    option = ", maximize=True" if maximize else ""
    rule, value = SparseAdam({"lr": 0.1}, case.dtype), oracle.as_float64(parameter)
    gradients = []
    allowed = torch.zeros(shape, dtype=torch.float64)
    for _ in range(case["steps"]):
        values = gradient_like(parameter, "ordinary", generator)[: len(touched)]
        gradients.append(values)
        dense = torch.zeros(shape, dtype=torch.float64)
        dense[touched] = oracle.as_float64(values) * (-1 if maximize else 1)
        old, value = value, rule.step(value, dense)
        allowed = allowed + 2 * allowed_error(rule, case.dtype, old, value)
    emit_parameters(script, scenario)
    script.note("still", "still = repr(parameters[1].tolist())")
    script.note("before", "before = parameters[0].tolist()")
    script.add(
        "p, frozen = parameters", f"optimizer = torch.optim.SparseAdam(parameters, lr=0.1{option})"
    )
    lists = ", ".join(numbers(values) for values in gradients)
    with script.block(f"for gradient in [{lists}]:"):
        script.add("values = torch.tensor(gradient, dtype=dtype, device=device)")
        index = f"torch.tensor([{touched}], device=device)"
        script.add(f"p.grad = torch.sparse_coo_tensor({index}, values, {shape})", "optimizer.step()")
    _check_end(script, "p", value, allowed, "SparseAdam: the value")
    with script.block("for row, (old, new) in enumerate(zip(before, p.tolist())):"):
        script.check(
            f"row in {touched} or repr(old) == repr(new)", "row {row} moved without a gradient"
        )
    script.check("repr(frozen.tolist()) == still", "a frozen parameter moved under SparseAdam")


@reproduces(FILE + "test_goes_downhill")
def goes_downhill(case: Case, script: Script) -> None:
    """Three steps on a bowl."""
    (spec,) = case.drawn
    options = {**dict(spec.options), "lr": 0.01}
    spec = OptimizerSpec(spec.name, tuple(sorted(options.items())) if spec.options else ())
    full = "torch.full((2, 2), 0.75, dtype=dtype, device=device)"
    script.add(f"frozen = nn.Parameter({full}, requires_grad=False)")
    script.add(f"live, losses = nn.Parameter({full}), []")
    script.add(f"optimizer = torch.optim.{spec.name}([frozen, live]{options_text(spec)})")
    with script.block("def closure():"):
        script.add(
            "live.grad = None",
            "loss = (live * live).sum() + (frozen * frozen).sum()",
            "loss.backward()",
            "losses.append(loss.item())",
            "return loss",
        )
    with script.block("for step in range(3):"):
        if spec.needs_closure:
            script.add("optimizer.step(closure)")
        else:
            script.add("closure()", "optimizer.step()")
    script.add("closure()")
    script.check("(frozen == 0.75).all()", f"a frozen parameter moved under {spec.name}")
    sign = ">" if options.get("maximize") else "<"
    script.check(
        f"losses[-1] {sign} losses[0]",
        f"{spec.name} took the loss from {{losses[0]}} to {{losses[-1]}}",
    )


@reproduces(FILE + "test_fused_sgd_moves_every_element")
def fused_sgd(case: Case, script: Script) -> None:
    """One step on many elements."""
    size, seed = case["size"], case["seed"]
    fused = ", fused=True" if "fused" in implementations("SGD", case.device, case.dtype) else ""
    script.add(
        f"generator = torch.Generator().manual_seed({seed})",
        f"value = torch.rand({size}, generator=generator, dtype=torch.float64) * 2 - 1",
        "p = nn.Parameter(value.to(device, dtype))",
        "before = p.tolist()",
        f"p.grad = torch.ones({size}, dtype=dtype, device=device)",
        f"torch.optim.SGD([p]{fused}, lr=0.5, momentum={case['momentum']}).step()",
        "still = [place for place, value in enumerate(p.tolist()) if value == before[place]]",
    )
    script.check(
        "not still", f"{{len(still)}} of {size} elements did not move by lr 0.5 times gradient 1"
    )
