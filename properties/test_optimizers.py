"""Every optimizer against its reference: what moves, by how much, and what must not."""

import dataclasses
import random
from typing import Any, Dict, Iterator, Optional, Tuple

import pytest
import torch
from hypothesis import event, given
from hypothesis import strategies as st

from properties.harness import detours, oracle
from properties.harness.bits import read_bits
from properties.harness.checks import (
    check,
    check_close,
    check_same_bits,
    count_cases,
    fail,
)
from properties.harness.law import FLOATING, PRECISE, law
from properties.harness.trainer import Trainer
from properties.harness.update_rules import Rule, SparseAdam, allowed_error, referenced, rule_for
from strategies import (
    MLP,
    Layer,
    Listing,
    OptimizerSpec,
    TrainingRun,
    freeze_masks,
    listings,
    mlps,
    optimizers,
    training_runs,
)
from strategies.listings import SHAPES
from strategies.networks import WIDE
from strategies.optimizers import IMPLEMENTATIONS, choices, constrained, implementations


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
        if name in expected.gradients:
            check_gradient(parameter, expected, name, dtype)
        else:
            check(parameter.grad is None, f"{name} must get no gradient, but has one")


def check_gradient(
    tensor: torch.Tensor, expected: oracle.Expected, name: str, dtype: torch.dtype
) -> None:
    """One gradient is the oracle's, within rounding."""
    __tracebackhide__ = True
    if tensor.grad is None:
        fail(f"{name} must get a gradient, but has none")
    allowed = oracle.gradient_tolerance(dtype, expected, name)
    if allowed is None:
        return
    gap = (oracle.as_float64(tensor.grad) - expected.gradients[name]).abs()
    worst = int((gap / allowed).argmax())
    check(
        bool((gap <= allowed).all()),
        f"gradient of {name}: element {worst} is {tensor.grad.flatten()[worst].item()!r}, "
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
    trainer.backward()
    check_gradients(trainer, expected, dtype)


def wide_run(widths: Tuple[int, int], batch: int, seed: int) -> TrainingRun:
    """Two layers of these widths."""
    layers = (Layer(widths[0], activation="relu"), Layer(widths[1]))
    return TrainingRun(MLP(2, layers, seed=seed), batch=batch, seed=seed)


@law("F3", "closed form: backward written by hand", PRECISE)
@given(
    widths=st.tuples(st.sampled_from((1, *WIDE)), st.sampled_from((1, *WIDE))),
    batch=st.sampled_from((1, 2, 5)),
    seed=st.integers(0, 255),
)
def test_gradients_of_wide_nets(
    device: str, dtype: torch.dtype, widths: Tuple[int, int], batch: int, seed: int
) -> None:
    """F3: at sizes where kernels change their ways gradients are those of the reference too."""
    trainer = Trainer(wide_run(widths, batch, seed), device, dtype)
    expected = expected_of(trainer)
    trainer.backward()
    check_gradients(trainer, expected, dtype)


STEADY = ("identity", "relu", "leaky_relu", "softplus")


@law("F3", "closed form: backward written by hand", FLOATING)
@given(network=mlps(max_depth=3, max_width=8, norms=False), batch=st.integers(1, 8))
def test_gradients_of_small_nets(device: str, dtype: torch.dtype, network: MLP, batch: int) -> None:
    """F3: gradients are those of the reference in low precision too, as far as it can tell."""
    # the slopes of the others cancel: in low precision nothing is left to compare
    layers = tuple(
        layer if layer.activation in STEADY else dataclasses.replace(layer, activation="softplus")
        for layer in network.layers
    )
    network = dataclasses.replace(network, layers=layers)
    trainer = Trainer(TrainingRun(network, batch=batch, seed=network.seed), device, dtype)
    expected = expected_of(trainer)
    trainer.backward()
    check_gradients(trainer, expected, dtype)


@law("F2", "PyTorch notes, Autograd mechanics", PRECISE)
@given(data=st.data())
def test_input_gradients_pass_the_frozen(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F2: an input that requires grad gets its whole gradient, whatever is frozen on the way."""
    network = data.draw(mlps())
    mask = data.draw(freeze_masks(network))
    run = TrainingRun(network, mask, batch=4, seed=network.seed)
    trainer = Trainer(run, device, dtype)
    trainer.inputs.requires_grad_()
    expected = expected_of(trainer)
    trainer.backward()
    check_gradients(trainer, expected, dtype)
    check_gradient(trainer.inputs, expected, oracle.INPUTS, dtype)


@law("F3 F1", "the formulas in the torch.optim documentation", PRECISE)
@given(data=st.data())
def test_values_follow_the_rule(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F3: at every step each live parameter moves by exactly its optimizer's published rule."""
    run: TrainingRun = data.draw(
        training_runs(
            networks=mlps(max_depth=4, max_width=40),
            names=referenced(1e-3),
            device=device,
            dtype=dtype,
            learns=True,
        )
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
            rule = rules.get(name) or rule_for(spec, dtype)
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
    """The parameter moved as the rule says, within rounding."""
    __tracebackhide__ = True
    expected = rule.step(before, gradient)
    actual = oracle.as_float64(parameter)
    allowed = allowed_error(rule, parameter.dtype, before, expected)
    gap = (actual - expected).abs()
    worst = int((gap / allowed).argmax())
    check(
        bool((gap <= allowed).all()),
        f"{where}: element {worst} of {tuple(actual.shape)} went "
        f"from {before.flatten()[worst].item()!r} to "
        f"{actual.flatten()[worst].item()!r}, by the rule to {expected.flatten()[worst].item()!r} "
        f"(gradient {gradient.flatten()[worst].item()!r}, {rule.options})",
    )


def gradient_like(parameter: torch.Tensor, kind: str, generator: torch.Generator) -> torch.Tensor:
    """A gradient of size 0.05 to 1, "half zero" or all "zero", in the parameter's dtype."""
    drawn = torch.rand(parameter.shape, generator=generator, dtype=torch.float64) * 2 - 1
    drawn = torch.sign(drawn) * (0.05 + 0.95 * drawn.abs())
    if kind != "ordinary":
        keep = torch.rand(parameter.shape, generator=generator) < 0.5
        drawn = torch.where(keep & (torch.tensor(kind != "zero")), drawn, drawn * 0)
    return drawn.to(device=parameter.device, dtype=parameter.dtype)


# The squares that the others keep of their gradients vanish in float16.
WITHOUT_SQUARES = ("SGD", "ASGD", "Rprop", "Adamax")


@law("F3 F1", "the formulas in the torch.optim documentation", FLOATING)
@given(data=st.data())
def test_rule_on_given_gradients(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F3: fed plain gradients, every option of each group acts as documented, on its own group."""
    # Muon's own bfloat16 leaves nothing to compare in a low precision
    names = referenced(1.0 if dtype in (torch.float32, torch.float64) else 1e-3)
    if dtype is torch.float16:
        names = [name for name in names if name in WITHOUT_SQUARES]
    listing: Listing = data.draw(listings(names=names, device=device, dtype=dtype))
    spec = detours.sound(listing.spec, device, dtype)
    listing = dataclasses.replace(listing, spec=spec)
    follow_the_rule(listing, device, dtype)


def follow_the_rule(listing: Listing, device: str, dtype: torch.dtype) -> None:
    """Check each step of each parameter against its rule; the frozen stand still, stateless."""
    __tracebackhide__ = True
    spec = listing.spec
    generator = torch.Generator()
    generator.manual_seed(listing.seed)
    parameters = listing.parameters(device, dtype)
    optimizer = listing.build(parameters)
    rules = [rule_for(listing.spec_of(place), dtype) for place in range(len(parameters))]
    for step, kind in enumerate(listing.steps, 1):
        old = [oracle.as_float64(parameter) for parameter in parameters]
        bits = [read_bits(parameter) for parameter in parameters]
        gradients = [gradient_like(parameter, kind, generator) for parameter in parameters]
        exact = [oracle.as_float64(gradient) for gradient in gradients]
        for parameter, gradient in zip(parameters, gradients):
            parameter.grad = gradient if parameter.requires_grad else None
        detours.step(optimizer)
        for place, parameter in enumerate(parameters):
            where = f"parameter {place} after step {step} of {spec.name}"
            rule = rules[place]
            assert rule is not None
            if parameter.requires_grad:
                check_update(parameter, old[place], exact[place], rule, where)
                continue
            check_same_bits(parameter, bits[place], f"frozen {where}")
            if spec.name != "Adagrad":  # which makes state for all when it is built
                check(not optimizer.state.get(parameter), f"frozen {where} has state")


LEFT_BEHIND = ("stale", "zeros", "none")  # what freezing midway leaves in .grad


@dataclasses.dataclass
class Fed:
    """One parameter in one step: its value (float64) and bits before it, the gradient it was fed."""

    place: int
    step: int
    parameter: torch.nn.Parameter
    before: torch.Tensor
    bits: bytes
    gradient: Optional[torch.Tensor]


def frozen_midway(listing: Listing) -> Tuple[bool, ...]:
    """Which parameters are frozen after two steps: as listed, or the first."""
    return listing.frozen if any(listing.frozen) else (True, *listing.frozen[1:])


def steps_with_left_behind(
    listing: Listing, left: str, device: str, dtype: torch.dtype
) -> Iterator[Fed]:
    """Two steps on all, two with some frozen and a gradient left behind; after each step, all."""
    generator = torch.Generator()
    generator.manual_seed(listing.seed)
    parameters = dataclasses.replace(listing, frozen=(False,) * len(listing.shapes)).parameters(
        device, dtype
    )
    optimizer = listing.build(parameters)
    for step in range(1, 5):
        for parameter, frozen in zip(parameters, frozen_midway(listing)):
            if step == 3 and frozen:
                parameter.requires_grad = False
                if left == "zeros" and parameter.grad is not None:
                    parameter.grad.zero_()
                elif left == "none":
                    parameter.grad = None
            if parameter.requires_grad:
                parameter.grad = gradient_like(parameter, "ordinary", generator)
        fed = [
            Fed(
                place,
                step,
                parameter,
                oracle.as_float64(parameter),
                read_bits(parameter),
                None if parameter.grad is None else oracle.as_float64(parameter.grad),
            )
            for place, parameter in enumerate(parameters)
        ]
        detours.step(optimizer)
        yield from fed


@law("F6 F3", "the formulas in the torch.optim documentation", PRECISE)
@given(data=st.data())
def test_what_is_left_behind_moves_by_the_rule(
    device: str, dtype: torch.dtype, data: st.DataObject
) -> None:
    """F6: frozen midway, a parameter moves as its rule makes of a gradient left behind; else not."""
    listing: Listing = data.draw(listings(names=referenced(), device=device, dtype=dtype))
    left = data.draw(st.sampled_from(LEFT_BEHIND))
    event(left)
    listing = dataclasses.replace(listing, spec=detours.sound(listing.spec, device, dtype))
    rules = [rule_for(listing.spec_of(place), dtype) for place in range(len(listing.shapes))]
    for fed in steps_with_left_behind(listing, left, device, dtype):
        state = "live" if fed.parameter.requires_grad else f"frozen with {left} gradient"
        where = f"parameter {fed.place}, {state}, after step {fed.step} of {listing.spec.name}"
        rule = rules[fed.place]
        assert rule is not None
        if fed.gradient is None:
            check_same_bits(fed.parameter, fed.bits, where)
        else:
            check_update(fed.parameter, fed.before, fed.gradient, rule, where)


# Without these an option says nothing.
NEEDED: Dict[str, Dict[str, Any]] = {
    "dampening": {"momentum": 0.9},
    "decoupled_weight_decay": {"weight_decay": 0.1},
}


def single_options(name: str, device: str, dtype: torch.dtype) -> Iterator[OptimizerSpec]:
    """Every value of every option alone and some mixtures, in every implementation."""
    table = choices(name, dtype)
    simplest = {option: values[0] for option, values in table}
    chosen = [
        {**simplest, **NEEDED.get(option, {}), option: value}
        for option, values in table
        for value in values[1:]
    ]
    source = random.Random(name)
    mixed = [{option: source.choice(values) for option, values in table} for _ in range(10)]
    for way in implementations(name, device, dtype):
        # capturable ones correct biases in float32 in every dtype; for-loop is the CPU's default
        if IMPLEMENTATIONS[way].get("capturable") or (way == "for-loop" and device == "cpu"):
            continue
        for options in [simplest, *chosen, *mixed]:
            valid = {**constrained(name, options), **IMPLEMENTATIONS[way]}
            yield OptimizerSpec(name, tuple(sorted(valid.items())))


def enumerated(name: str, device: str, dtype: torch.dtype) -> Iterator[Listing]:
    """Eight steps for each of ``single_options``.

    What is frozen is wide, to meet faults that go by size.
    """
    steps = ("ordinary", "ordinary", "half zero", "ordinary", "zero", *("ordinary",) * 3)
    shapes, frozen = ((3, 2), (300, 2), (1, 1), (2, 4)), (False, True, False, False)
    for seed, spec in enumerate(single_options(name, device, dtype)):
        spec = detours.sound(spec, device, dtype)
        yield Listing(spec, shapes, frozen, (("lr", 0.05),), steps, seed)


@law("F3 F1", "the formulas in the torch.optim documentation", PRECISE)
@pytest.mark.parametrize("name", referenced())
def test_every_option(device: str, dtype: torch.dtype, name: str) -> None:
    """F3: every option of every optimizer, enumerated: eight steps as documented."""
    for listing in enumerated(name, device, dtype):
        follow_the_rule(listing, device, dtype)
        count_cases(1)


@law("F3 F1", "the formula in the torch.optim.LBFGS documentation", PRECISE)
@given(count=st.integers(1, 3), seed=st.integers(0, 1023), frozen=st.integers(0, 3))
def test_lbfgs_first_iteration(
    device: str, dtype: torch.dtype, count: int, seed: int, frozen: int
) -> None:
    """F3: LBFGS begins with a step of lr * min(1, 1 / |g|) down the gradient, over all it lists."""
    generator = torch.Generator()
    generator.manual_seed(seed)
    spec = OptimizerSpec("LBFGS", (("lr", 0.5), ("max_iter", 1)))
    flags = tuple(place == frozen for place in range(count + 1))
    listing = Listing(spec, SHAPES[: count + 1], flags, seed=seed)
    parameters = listing.parameters(device, dtype)
    optimizer = spec.build(parameters)
    bits = [read_bits(parameter) for parameter in parameters]
    old = [oracle.as_float64(parameter) for parameter in parameters]
    gradients = [gradient_like(parameter, "ordinary", generator) for parameter in parameters]
    exact = [oracle.as_float64(gradient) for gradient in gradients]

    def closure() -> float:
        for parameter, gradient in zip(parameters, gradients):
            parameter.grad = gradient if parameter.requires_grad else None
        return 1.0

    optimizer.step(closure)
    size = sum(float(g.abs().sum()) for g, p in zip(exact, parameters) if p.requires_grad)
    rate = 0.5 * min(1.0, 1 / size)
    unit = float(torch.finfo(dtype).eps) * 1000
    for place, parameter in enumerate(parameters):
        expected = old[place] - (rate * exact[place] if parameter.requires_grad else 0)
        check_close(parameter, expected, f"parameter {place} after LBFGS", rtol=unit, atol=unit)
        if not parameter.requires_grad:
            check_same_bits(parameter, bits[place], "a frozen parameter under LBFGS")


def lbfgs_second(
    old: torch.Tensor, first: torch.Tensor, second: torch.Tensor, rate: float
) -> Tuple[torch.Tensor, torch.Tensor]:
    """All values after one and after two iterations from ``old``, with these gradients (float64)."""
    taken = -first * (rate * min(1.0, 1 / float(first.abs().sum())))
    change = second - first
    curvature = float((change * taken).sum())
    at = old + taken
    if curvature <= 1e-10:
        return at, at - rate * second
    scale = curvature / float((change * change).sum())
    along = float((taken * -second).sum()) / curvature
    direction = (-second - along * change) * scale
    along -= float((change * direction).sum()) / curvature
    return at, at + rate * (direction + along * taken)


@law("F6 F3", "the formula in the torch.optim.LBFGS documentation; Nocedal, 1980", PRECISE)
@given(seed=st.integers(0, 1023), first=st.sampled_from(SHAPES[:3]), stale=st.booleans())
def test_lbfgs_moves_frozen_by_its_formula(
    device: str, dtype: torch.dtype, seed: int, first: Tuple[int, ...], stale: bool
) -> None:
    """F6: frozen midway, a parameter still moves under LBFGS, exactly along its formula's direction."""
    generator = torch.Generator()
    generator.manual_seed(seed)
    rate = 0.5
    spec = OptimizerSpec("LBFGS", (("lr", rate), ("max_iter", 1)))
    parameters = Listing(spec, (first, (3, 2)), (False, False), seed=seed).parameters(device, dtype)
    frozen, live = parameters
    old = torch.cat([oracle.as_float64(parameter).flatten() for parameter in parameters])
    gradients = [gradient_like(parameter, "ordinary", generator) for parameter in parameters]
    exact = torch.cat([oracle.as_float64(gradient).flatten() for gradient in gradients])
    optimizer = spec.build(parameters)

    def closure() -> float:
        for parameter, gradient in zip(parameters, gradients):
            if parameter.requires_grad:
                parameter.grad = gradient
        return 1.0

    optimizer.step(closure)
    frozen.requires_grad = False
    if not stale:
        frozen.grad = None
    with torch.no_grad():
        gradients[1] = gradients[1] * 0.5
    later = torch.cat([oracle.as_float64(gradient).flatten() for gradient in gradients])
    if not stale:
        later[: frozen.numel()] = 0
    bits = read_bits(frozen)
    optimizer.step(closure)
    at, wanted = lbfgs_second(old, exact, later, rate)
    unit = float(torch.finfo(dtype).eps) * 1e4
    size = frozen.numel()
    for parameter, part in ((frozen, wanted[:size]), (live, wanted[size:])):
        what = f"{'live' if parameter is live else 'frozen'} parameter after two steps of LBFGS"
        check_close(parameter, part.reshape(tuple(parameter.shape)), what, rtol=unit, atol=unit)
    if bool(((wanted - at)[:size].abs() > 0.01).any()):
        check(read_bits(frozen) != bits, "LBFGS left a parameter alone that was frozen midway")


def sparse_options(seed: int, dtype: torch.dtype) -> Dict[str, Any]:
    """SparseAdam's options beside lr: every second seed maximizes, where this torch can."""
    can_maximize = "maximize" in dict(choices("SparseAdam", dtype))
    return {"maximize": True} if seed % 2 and can_maximize else {}


@law("F3 F1", "torch.optim.SparseAdam documentation", PRECISE)
@given(
    rows=st.integers(1, 6), width=st.integers(1, 5), steps=st.integers(1, 4), seed=st.integers(0, 1023)
)
def test_sparse_adam(
    device: str, dtype: torch.dtype, rows: int, width: int, steps: int, seed: int
) -> None:
    """F3: SparseAdam moves the rows that have a gradient, by Adam's rule, and no other row."""
    generator = torch.Generator()
    generator.manual_seed(seed)
    shapes = ((rows + 1, width),) * 2
    listing = Listing(OptimizerSpec("SparseAdam"), shapes, (False, True), seed=seed)
    parameter, frozen = listing.parameters(device, dtype)
    still = read_bits(frozen)
    options = sparse_options(seed, dtype)
    optimizer = torch.optim.SparseAdam([parameter, frozen], lr=0.1, **options)
    touched = sorted(set(torch.randint(0, rows, (rows,), generator=generator).tolist()))
    rule = SparseAdam({"lr": 0.1}, dtype)
    index = torch.tensor([touched], device=device)
    for step in range(1, steps + 1):
        old, bits = oracle.as_float64(parameter), read_bits(parameter)
        values = gradient_like(parameter, "ordinary", generator)[: len(touched)]
        dense = torch.zeros(rows + 1, width, dtype=torch.float64)
        dense[touched] = oracle.as_float64(values) * (-1 if options else 1)
        parameter.grad = torch.sparse_coo_tensor(index, values, (rows + 1, width))
        optimizer.step()
        check_update(parameter, old, dense, rule, f"step {step} of SparseAdam")
        size = len(bits) // (rows + 1)
        for row in set(range(rows + 1)) - set(touched):
            part = slice(row * size, (row + 1) * size)
            check(read_bits(parameter)[part] == bits[part], f"row {row} moved without a gradient")
        check_same_bits(frozen, still, "a frozen parameter under SparseAdam")


@law("F3 F1", "torch.optim documentation", PRECISE)
@given(data=st.data())
def test_goes_downhill(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F3: a small step of any optimizer, known or new, lowers the loss (raises it to maximize)."""
    spec = data.draw(optimizers(device=device, dtype=dtype))
    options = {**dict(spec.options), "lr": 0.01}
    spec = OptimizerSpec(spec.name, tuple(sorted(options.items())) if spec.options else ())
    live, frozen = (
        torch.nn.Parameter(torch.full((2, 2), 0.75, dtype=dtype, device=device)) for _ in range(2)
    )
    frozen.requires_grad = False
    still = read_bits(frozen)
    optimizer = spec.build([frozen, live])
    losses = []

    def closure() -> torch.Tensor:
        live.grad = None
        loss = (live * live).sum() + (frozen * frozen).sum()
        loss.backward()
        losses.append(loss.item())
        return loss

    for _ in range(3):
        if spec.needs_closure:
            optimizer.step(closure)  # type: ignore[arg-type]
        else:
            closure()
            optimizer.step()
    closure()
    check_same_bits(frozen, still, f"a frozen parameter under {spec.name}")
    up = bool(options.get("maximize"))
    check(
        losses[-1] > losses[0] if up else losses[-1] < losses[0],
        f"three steps of {spec} took the loss from {losses[0]} to {losses[-1]}",
    )


@law("F3", "torch.optim documentation, fused implementations", FLOATING)
@given(size=st.integers(1, 200), momentum=st.sampled_from((0.0, 0.9)), seed=st.integers(0, 1023))
def test_fused_sgd_moves_every_element(
    device: str, dtype: torch.dtype, size: int, momentum: float, seed: int
) -> None:
    """F3: fused SGD moves every element that has a gradient, whatever its place in a vector."""
    fused = "fused" in implementations("SGD", device, dtype)
    options = (("fused", True),) if fused else ()
    spec = OptimizerSpec("SGD", (*options, ("lr", 0.5), ("momentum", momentum)))
    parameter = Listing(spec, ((size,),), (False,), seed=seed).parameters(device, dtype)[0]
    before = oracle.as_float64(parameter)
    parameter.grad = torch.ones(size, dtype=dtype, device=device)
    spec.build([parameter]).step()
    still = (oracle.as_float64(parameter) == before).nonzero().flatten().tolist()
    check(not still, f"elements {still[:5]} of {size} did not move by lr 0.5 times gradient 1")
