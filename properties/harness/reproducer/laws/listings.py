"""Programs for the laws of optimizers over plain parameters, without a net."""

import dataclasses
from typing import Any, List, Optional, Tuple

import torch

from properties.harness import detours, oracle
from properties.harness.bits import read_bits
from properties.harness.known_defects import known
from properties.harness.reproducer.case import Case
from properties.harness.reproducer.laws.optimizers import Move, _check_end, emit_alone, furthest
from properties.harness.reproducer.literals import FEW, numbers
from properties.harness.reproducer.registry import reproduces
from properties.harness.reproducer.script import Script
from properties.harness.reproducer.training import emit_guarded_step, options_text
from properties.harness.update_rules import SparseAdam, allowed_error, rule_for
from properties.test_optimizers import (
    LEFT_BEHIND,
    Fed,
    enumerated,
    frozen_midway,
    gradient_like,
    sparse_options,
    steps_with_left_behind,
)
from strategies import Listing, OptimizerSpec
from strategies.listings import SHAPES
from strategies.optimizers import implementations

FILE = "test_optimizers.py::"
GIVEN = FILE + "test_rule_on_given_gradients"
EVERY = FILE + "test_every_option"


def worst_move(case: Case, listing: Listing) -> Tuple[Optional[Move], Optional[int]]:
    """The step that is furthest from its rule, and the place of a frozen one that moved."""
    generator = torch.Generator()
    generator.manual_seed(listing.seed)
    parameters = listing.parameters(case.device, case.dtype)
    optimizer = listing.build(parameters)
    rules = [rule_for(listing.spec_of(place), case.dtype) for place in range(len(parameters))]
    first = [oracle.as_float64(parameter) for parameter in parameters]
    bits = [read_bits(parameter) for parameter in parameters]
    history: List[List[torch.Tensor]] = [[] for _ in parameters]
    found: Optional[Move] = None
    for step, kind in enumerate(listing.steps, 1):
        old = [oracle.as_float64(parameter) for parameter in parameters]
        gradients = [gradient_like(parameter, kind, generator) for parameter in parameters]
        for place, parameter in enumerate(parameters):
            history[place].append(oracle.as_float64(gradients[place]))
            parameter.grad = gradients[place] if parameter.requires_grad else None
        detours.step(optimizer)
        for place, parameter in enumerate(parameters):
            rule = rules[place]
            if not parameter.requires_grad:
                if read_bits(parameter) != bits[place] or optimizer.state.get(parameter):
                    return found, place
                continue
            assert rule is not None
            expected = rule.step(old[place], history[place][-1])
            allowed = allowed_error(rule, case.dtype, old[place], expected)
            excess, worst = furthest(parameter, expected, allowed)
            if found is None or excess > found.excess:
                past = list(history[place])
                found = Move(str(place), first[place], past, expected, allowed, excess, step, worst)
    return found, None


def listing_of(case: Case) -> Listing:
    """The listing that broke the law; of an enumeration, the first that breaks it now."""
    if case.test == GIVEN:
        (listing,) = case.drawn
        spec = detours.sound(listing.spec, case.device, case.dtype)
        return dataclasses.replace(listing, spec=spec)
    listings = list(enumerated(case["name"], case.device, case.dtype))
    for listing in listings:
        move, stray = worst_move(case, listing)
        if stray is not None or (move is not None and move.excess > 1):
            return listing
    return listings[0]


@reproduces(GIVEN)
@reproduces(EVERY)
def alone(case: Case, script: Script) -> None:
    """The parameter that is furthest off, in an optimizer of its own."""
    listing = listing_of(case)
    move, stray = worst_move(case, listing)
    if move is not None and stray is None:
        emit_alone(script, case, move, listing.spec_of(int(move.name)))


def emit_parameters(script: Script, listing: Listing) -> None:
    """``parameters`` and ``generator`` as the listing's."""
    script.add(
        f"generator = torch.Generator().manual_seed({listing.seed})",
        "parameters = []",
    )
    with script.block(f"for shape, frozen in {list(zip(listing.shapes, listing.frozen))}:"):
        script.add(
            "value = torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1",
            "p = nn.Parameter(value.to(device, dtype), requires_grad=not frozen)",
            "parameters.append(p)",
        )
    script.add(f"generator = torch.Generator().manual_seed({listing.seed})")


def emit_gradient_like(script: Script, kinds: Tuple[str, ...], target: str = "gradient") -> None:
    """The made-up gradient of ``p``, as ``gradient_like`` draws it."""
    script.add(f"{target} = torch.rand(p.shape, generator=generator, dtype=torch.float64) * 2 - 1")
    script.add(f"{target} = torch.sign({target}) * (0.05 + 0.95 * {target}.abs())")
    if any(kind != "ordinary" for kind in kinds):
        with script.block('if kind != "ordinary":'):
            script.add(
                "keep = torch.rand(p.shape, generator=generator) < 0.5",
                f'{target} = {target} * (keep & torch.tensor(kind != "zero"))',
            )


@reproduces(GIVEN)
@reproduces(EVERY)
def together(case: Case, script: Script) -> None:
    """All parameters, in two groups."""
    listing = listing_of(case)
    move, stray = worst_move(case, listing)
    emit_parameters(script, listing)
    script.note("before", "before = [repr(p.tolist()) for p in parameters]")
    second = "".join(f', "{option}": {value!r}' for option, value in listing.second)
    groups = f'[{{"params": parameters[0::2]}}, {{"params": parameters[1::2]{second}}}]'
    script.add(f"optimizer = torch.optim.{listing.spec.name}({groups}{options_text(listing.spec)})")
    steps = listing.steps if move is None or stray is not None else listing.steps[: move.step]
    with script.block(f"for kind in {steps}:"):
        with script.block("for p in parameters:"):
            emit_gradient_like(script, steps)
            script.add("p.grad = gradient.to(device, dtype) if p.requires_grad else None")
        if known(detours.EMPTY_STEP):
            emit_guarded_step(script)
        else:
            script.add("optimizer.step()")
    with script.block("for p, old in zip(parameters, before):"):
        script.check(
            "p.requires_grad or repr(p.tolist()) == old", "a frozen parameter moved from {old}"
        )
        if listing.spec.name != "Adagrad":
            script.check(
                "p.requires_grad or not optimizer.state.get(p)", "a frozen parameter has state"
            )
    if move is None or stray is not None:
        return
    place = f"parameters[{move.name}]"
    expected, allowed = move.expected, move.allowed
    if expected.numel() > FEW:
        place = f"{place}.flatten()[{move.worst}]"
        expected, allowed = expected.flatten()[move.worst], allowed.flatten()[move.worst]
    room = allowed * (1 + 3 * (move.step > 1))
    what = f"parameter {move.name} after step {move.step} of {listing.spec.name}"
    _check_end(script, place, expected, room, what)


@reproduces(FILE + "test_lbfgs_first_iteration")
def lbfgs_first(case: Case, script: Script) -> None:
    """The first iteration of LBFGS."""
    count, seed = case["count"], case["seed"]
    spec = OptimizerSpec("LBFGS", (("lr", 0.5), ("max_iter", 1)))
    flags = tuple(place == case["frozen"] for place in range(count + 1))
    emit_parameters(script, Listing(spec, SHAPES[: count + 1], flags, seed=seed))
    script.add("gradients, old = [], [p.tolist() for p in parameters]")
    with script.block("for p in parameters:"):
        emit_gradient_like(script, ())
        script.add("gradients.append(gradient.to(device, dtype))")
    with script.block("def closure():"):
        with script.block("for p, gradient in zip(parameters, gradients):"):
            script.add("p.grad = gradient if p.requires_grad else None")
        script.add("return 1.0")
    script.add("exact = [g.double() * p.requires_grad for p, g in zip(parameters, gradients)]")
    script.add("size = sum(g.abs().sum().item() for g in exact)")
    script.add("torch.optim.LBFGS(parameters, lr=0.5, max_iter=1).step(closure)")
    unit = float(torch.finfo(case.dtype).eps) * 1000
    with script.block("for p, g, value in zip(parameters, exact, old):"):
        script.add("value = torch.tensor(value, dtype=torch.float64, device=device)")
        script.add("expected = value - 0.5 * min(1, 1 / size) * g")
        script.check(
            f"((p.double() - expected).abs() <= {unit:.3g} * (1 + expected.abs())).all()",
            "LBFGS went to {p.tolist()}, by lr * min(1, 1 / |g|) to {expected.tolist()}",
        )
        script.check(
            "p.requires_grad or repr(p.tolist()) == repr(value.tolist())",
            "a frozen parameter moved under LBFGS to {p.tolist()}",
        )


@reproduces(FILE + "test_lbfgs_moves_frozen_by_its_formula")
def lbfgs_by_formula(case: Case, script: Script) -> None:
    """Two iterations, one parameter frozen between them, against the formula."""
    spec = OptimizerSpec("LBFGS", (("lr", 0.5), ("max_iter", 1)))
    listing = Listing(spec, (case["first"], (3, 2)), (False, False), seed=case["seed"])
    emit_parameters(script, listing)
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
    listing, left = case.draws(Listing(OptimizerSpec("SGD")), LEFT_BEHIND[0])
    spec = detours.sound(listing.spec, case.device, case.dtype)
    listing = dataclasses.replace(listing, spec=spec)
    rules = [rule_for(listing.spec_of(place), case.dtype) for place in range(len(listing.shapes))]
    worst: Tuple[float, Optional[Fed], Any, Any, int] = (-1.0, None, None, None, 0)
    for fed in steps_with_left_behind(listing, left, case.device, case.dtype):
        rule = rules[fed.place]
        if rule is None or fed.gradient is None:
            continue
        wanted = rule.step(fed.before, fed.gradient)
        allowed = allowed_error(rule, case.dtype, fed.before, wanted)
        excess, element = furthest(fed.parameter, wanted, allowed)
        if excess > worst[0]:
            worst = (excess, fed, wanted, allowed, element)
    _, fed_worst, wanted, allowed, element = worst
    emit_parameters(script, dataclasses.replace(listing, frozen=(False,) * len(listing.shapes)))
    second = "".join(f', "{option}": {value!r}' for option, value in listing.second)
    groups = f'[{{"params": parameters[0::2]}}, {{"params": parameters[1::2]{second}}}]'
    script.add(f"optimizer = torch.optim.{spec.name}({groups}{options_text(spec)})")
    last = fed_worst.step if fed_worst is not None and worst[0] > 1 else 4
    with script.block(f"for step in range(1, {last + 1}):"):
        with script.block(f"for p, frozen in zip(parameters, {frozen_midway(listing)}):"):
            with script.block("if step == 3 and frozen:"):
                script.add("p.requires_grad = False")
                if left != "stale":
                    script.add("p.grad.zero_()" if left == "zeros" else "p.grad = None")
            with script.block("if p.requires_grad:"):
                emit_gradient_like(script, ())
                script.add("p.grad = gradient.to(device, dtype)")
        script.note("before", "before = [repr(p.tolist()) for p in parameters]")
        if known(detours.EMPTY_STEP):
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
    listing = Listing(OptimizerSpec("SparseAdam"), (shape, shape), (False, True), seed=seed)
    parameter, _ = listing.parameters(case.device, case.dtype)
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
    emit_parameters(script, listing)
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
