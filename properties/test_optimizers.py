"""Every optimizer against its reference: what moves, by how much, and what must not."""

import contextlib
import dataclasses
import random
from itertools import combinations
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import pytest
import torch
from hypothesis import event, given
from hypothesis import strategies as st

from frostproof.properties.harness.core.bits import read_bits
from frostproof.properties.harness.core.checks import (
    check,
    check_close,
    check_equal,
    check_same_bits,
    count_cases,
    fail,
)
from frostproof.properties.harness.core.law import COMPLEX, FLOATING, PRECISE, law
from frostproof.properties.harness.reference import oracle
from frostproof.properties.harness.reference.lbfgs import LBFGS, Bowl, lbfgs_steps, lbfgs_tolerance
from frostproof.properties.harness.reference.update_rules import (
    Rule,
    SparseAdam,
    allowed_error,
    referenced,
    rule_for,
)
from frostproof.properties.harness.running import workarounds
from frostproof.properties.harness.running.known_defects import version_tuple
from frostproof.properties.harness.running.scenario import ListingRun, gradient_like, state_bits
from frostproof.properties.harness.running.trainer import Trainer
from frostproof.strategies import (
    MLP,
    Layer,
    OptimizerScenario,
    OptimizerSpec,
    TrainingRun,
    freeze_masks,
    mlps,
    optimizer_scenarios,
    optimizers,
    training_runs,
)
from frostproof.strategies.networks import ACTIVATION_MODULES, WIDE
from frostproof.strategies.optimizer_scenarios import (
    BUILT_AT_ONCE,
    CAST_WHEN_LOADED,
    SHAPES,
    SLOW_TO_CHANGE,
    options_beside,
)
from frostproof.strategies.optimizers import (
    IMPLEMENTATIONS,
    MATRICES,
    choices,
    constrained,
    implementations,
)


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
    widths=st.tuples(st.sampled_from((1, *WIDE, 600, 1030)), st.sampled_from((1, *WIDE))),
    batch=st.sampled_from((1, 2, 5, 8, 16, 33)),
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


@law("F3", "the formulas in the torch.nn documentation", FLOATING)
@pytest.mark.parametrize("name", ACTIVATION_MODULES)
def test_slopes_of_activations(device: str, dtype: torch.dtype, name: str) -> None:
    """F3: each activation's value and slope, from -40 to 40, are those of its formula."""
    points = activation_points(device, dtype)
    exact, slopes = oracle.activate(name, oracle.as_float64(points))
    unit = 32 * float(torch.finfo(dtype).eps)
    for step in (1, 2, 401):  # all, every second, and two elements: kernels go by size and stride
        taken = points[::step].requires_grad_()
        value = ACTIVATION_MODULES[name]()(taken)
        (found,) = torch.autograd.grad(value.sum(), taken)
        check_close(value, exact[::step], f"{name} of {len(taken)} numbers", unit, unit)
        check_close(found, slopes[::step], f"slope of {name} at {len(taken)} numbers", unit, unit)
        count_cases(len(taken))


def activation_points(device: str, dtype: torch.dtype) -> torch.Tensor:
    """Numbers from -40 to 40, densest around zero, and zero itself: (801,)."""
    even = torch.arange(-400, 401, dtype=torch.float64) / 400
    return (40 * even * even.abs()).to(device=device, dtype=dtype)


# Rounding of a norm, in units of its dtype's eps and its magnitude: seen at most 3.3, 2.2, 1.1, 1.4.
NORM_ROUNDINGS = {"output": 14, "input": 9, "weight": 5, "bias": 6}


@law("F3", "the formulas in the torch.nn.LayerNorm and BatchNorm1d documentation", FLOATING)
@given(
    kind=st.sampled_from(("layer", "batch")),
    rows=st.integers(3, 9),
    width=st.integers(3, 40),
    seed=st.integers(0, 1023),
)
def test_norms_alone(
    device: str, dtype: torch.dtype, kind: str, rows: int, width: int, seed: int
) -> None:
    """F3: a norm's output and its three gradients are those of its formula, in every precision."""
    norm, value, upstream = norm_case(kind, rows, width, seed, device, dtype)
    output = norm(value)
    output.backward(upstream)
    exact = [oracle.as_float64(t) for t in (value, upstream, norm.weight, norm.bias)]
    found = {"output": output, "input": value.grad, "weight": norm.weight.grad, "bias": norm.bias.grad}
    for what, (expected, size) in oracle.normalize(kind, *exact).items():
        ours = found[what]
        if ours is None:
            fail(f"{kind} norm: no gradient of {what}")
        unit = NORM_ROUNDINGS[what] * float(torch.finfo(dtype).eps)
        gap = (oracle.as_float64(ours) - expected).abs() / (unit * (size + size.max() / 10))
        check(
            bool((gap <= 1).all()),
            f"{kind} norm of {rows} rows: {what} is {float(gap.max()):.3g} times the allowed error off",
        )


def norm_case(
    kind: str, rows: int, width: int, seed: int, device: str, dtype: torch.dtype
) -> Tuple[Any, torch.Tensor, torch.Tensor]:
    """A norm with a drawn weight and bias, an input that requires grad, a gradient to feed back."""
    generator = torch.Generator()
    generator.manual_seed(seed)
    drawn = torch.rand(2 * rows + 2, width, generator=generator, dtype=torch.float64)
    drawn = drawn.to(device=device, dtype=dtype)
    norm = {"layer": torch.nn.LayerNorm, "batch": torch.nn.BatchNorm1d}[kind](width)
    norm = norm.to(device=device, dtype=dtype)
    with torch.no_grad():
        norm.weight.copy_(drawn[-1] / 2 + 1)
        norm.bias.copy_(drawn[-2])
    return norm, (drawn[:rows] * 4 - 2).requires_grad_(), drawn[rows : 2 * rows] * 2 - 1


@dataclasses.dataclass(frozen=True)
class LinearCase:
    """A linear layer, an input (*leading, inputs) and what of "input", "weight", "bias" is frozen."""

    leading: Tuple[int, ...]
    inputs: int
    outputs: int
    frozen: Tuple[str, ...]
    seed: int

    def build(
        self, device: str, dtype: torch.dtype
    ) -> Tuple[torch.nn.Linear, torch.Tensor, torch.Tensor]:
        """Layer, input, and a gradient to feed back: whole numbers from -2 to 2.

        No sum of their products exceeds 162, so that every one is exact, in bfloat16 too.
        """
        generator = torch.Generator()
        generator.manual_seed(self.seed)

        def numbers(*shape: int) -> torch.Tensor:
            return torch.randint(-2, 3, shape, generator=generator).to(device=device, dtype=dtype)

        layer = torch.nn.Linear(self.inputs, self.outputs).to(device=device, dtype=dtype)
        with torch.no_grad():
            layer.weight.copy_(numbers(self.outputs, self.inputs))
            layer.bias.copy_(numbers(self.outputs))
        return layer, numbers(*self.leading, self.inputs), numbers(*self.leading, self.outputs)


LINEAR_CASES = st.builds(
    LinearCase,
    leading=st.lists(st.integers(1, 3), max_size=3).map(tuple),
    inputs=st.integers(1, 40),
    outputs=st.integers(1, 40),
    frozen=st.sets(st.sampled_from(("input", "weight", "bias"))).map(
        lambda names: tuple(sorted(names))
    ),
    seed=st.integers(0, 1023),
)


@law("F3 F2", "the formula in the torch.nn.Linear documentation", FLOATING)
@given(case=LINEAR_CASES)
def test_linear_of_every_rank(device: str, dtype: torch.dtype, case: LinearCase) -> None:
    """F3: a linear layer's output and gradients are exact on small whole numbers, of every rank."""
    check_linear(case, device, dtype)


if hasattr(torch, "autocast"):  # since 1.10

    @law("F3 F2", "the formula in the torch.nn.Linear documentation; torch.amp documentation")
    @pytest.mark.parametrize("evaluated", [False, True], ids=["trained", "evaluated-first"])
    @given(case=LINEAR_CASES)
    def test_linear_under_autocast(device: str, evaluated: bool, case: LinearCase) -> None:
        """F3: autocast to bfloat16 gives exact gradients of small whole numbers."""
        check_linear(case, device, torch.float32, autocast=True, evaluated=evaluated)


def check_linear(
    case: LinearCase,
    device: str,
    dtype: torch.dtype,
    autocast: bool = False,
    evaluated: bool = False,
) -> None:
    """Output and gradients by the formula; no gradient of what is frozen."""
    __tracebackhide__ = True
    layer, value, upstream = case.build(device, dtype)
    leaves = {"input": value, "weight": layer.weight, "bias": layer.bias}
    for name, leaf in leaves.items():
        leaf.requires_grad_(name not in case.frozen)
    kind = torch.device(device).type
    with torch.autocast(kind, dtype=torch.bfloat16) if autocast else contextlib.nullcontext():
        if evaluated:  # what autocast keeps of this must not be taken for what trains
            with torch.no_grad():
                layer(value)
        output = layer(value)
    rows, slopes, weight, bias = (
        oracle.as_float64(t).reshape(-1, t.shape[-1])
        for t in (value, upstream, layer.weight, layer.bias)
    )
    exact = oracle.product(rows, weight.t()) + bias
    check_close(output.reshape(exact.shape), exact, "the output", rtol=0, atol=0)
    if len(case.frozen) < len(leaves):
        output.backward(upstream.to(output.dtype))
    gradients = {
        "input": oracle.product(slopes, weight),
        "weight": oracle.product(slopes.t(), rows),
        "bias": slopes.sum(0),
    }
    for name, leaf in leaves.items():
        what = f"the gradient of {name} on an input of {len(case.leading) + 1} dimensions"
        check((leaf.grad is None) == (name in case.frozen), f"{what} exists: {leaf.grad is not None}")
        if leaf.grad is not None:
            check_equal(leaf.grad.dtype, leaf.dtype, f"dtype of {what}")
            exact = gradients[name]
            check_close(leaf.grad.reshape(exact.shape), exact, what, rtol=0, atol=0)


@law("F3 F8", "torch.nn.BatchNorm1d documentation, evaluation", PRECISE)
@given(network=mlps(max_depth=3, max_width=40), batch=st.integers(3, 6))
def test_gradients_in_eval_mode(device: str, dtype: torch.dtype, network: MLP, batch: int) -> None:
    """F3: in eval mode loss and gradients are those of the reference with the kept statistics."""
    network = with_batch_norm(network)
    trainer = Trainer(TrainingRun(network, batch=batch, seed=network.seed), device, dtype)
    trainer.output()  # in train mode: the statistics are no longer those of the start
    trainer.network.eval()
    statistics = {name: b for name, b in trainer.network.named_buffers() if b.is_floating_point()}
    expected = oracle.expect(
        network, trainer.named, trainer.inputs, trainer.targets, statistics=statistics
    )
    unit = float(torch.finfo(dtype).eps) * 1000 * expected.condition
    loss = torch.tensor(expected.loss, dtype=torch.float64)
    check_close(trainer.loss(), loss, "loss in eval mode", unit, unit)
    trainer.backward()
    check_gradients(trainer, expected, dtype)


def with_batch_norm(network: MLP) -> MLP:
    """The net with a BatchNorm in its last layer, and in its first."""
    layers = list(network.layers)
    for place in (0, -1):
        layers[place] = dataclasses.replace(layers[place], norm="batch")
    return dataclasses.replace(network, layers=tuple(layers))


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


ORDINARY = 1e12  # gradients beyond belong to a run that diverges; float32 holds their squares


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
        if step > 1 and not all(float(slope.abs().max()) <= ORDINARY for slope in gradients.values()):
            return  # it diverges: the next numbers may be none
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
    if bool((gap <= allowed).all()):
        check(True, where)
        return
    worst = int((gap / allowed).argmax())
    fail(
        f"{where}: element {worst} of {tuple(actual.shape)} went "
        f"from {before.flatten()[worst].item()!r} to "
        f"{actual.flatten()[worst].item()!r}, by the rule to {expected.flatten()[worst].item()!r} "
        f"(gradient {gradient.flatten()[worst].item()!r}, {rule.options})",
    )


# The squares that the others keep of their gradients vanish in float16.
WITHOUT_SQUARES = ("SGD", "ASGD", "Rprop", "Adamax")


@law("F3 F1 F6 F7 F9", "the formulas in the torch.optim documentation", FLOATING)
@given(data=st.data())
def test_rule_on_given_gradients(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F3: fed plain gradients, every option of each group acts as documented, on its own group."""
    # Muon's own bfloat16 leaves nothing to compare in a low precision
    names = referenced(1.0 if dtype in (torch.float32, torch.float64) else 1e-3)
    if dtype is torch.float16:
        names = [name for name in names if name in WITHOUT_SQUARES]
    follow_the_rule(
        data.draw(optimizer_scenarios(names=names, device=device, dtype=dtype)), device, dtype
    )


@law("F3 F1", "torch.optim documentation; complex numbers are pairs of real ones", COMPLEX)
@given(data=st.data())
def test_rule_on_complex_gradients(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F3: a complex parameter moves as its real and imaginary parts would by themselves."""
    names = [name for name in complex_names() if implementations(name, device, dtype)]
    follow_the_rule(
        data.draw(optimizer_scenarios(names=names, device=device, dtype=dtype)), device, dtype
    )


def complex_names() -> List[str]:
    """The optimizers of this torch that treat complex parameters so."""
    # before, Adam and others squared |g|, or had no complex arithmetic at all
    return referenced(1e-3) if version_tuple(str(torch.__version__)) >= (2, 1) else ["SGD"]


def follow_the_rule(scenario: OptimizerScenario, device: str, dtype: torch.dtype) -> None:
    """Each step of each parameter against its rule; without a gradient it stands still, state too."""
    __tracebackhide__ = True
    run = ListingRun(scenario, device, dtype)
    scenario, name = run.scenario, run.spec.name
    for step, kind in enumerate(scenario.steps, 1):
        run.prepare(step)
        run.feed(kind)
        before = run.look()
        run.apply()
        check_equal(run.rates(), before.rates, f"the rates after step {step} of {name}")
        for place, parameter in enumerate(run.parameters):
            where = f"parameter {place} after step {step} of {name}"
            check_equal(parameter.requires_grad, scenario.live(place, step), f"{where}: requires_grad")
            gradient = run.exact[place]
            if gradient is None:
                check(parameter.grad is None, f"{where} has a gradient, and had none before")
            elif run.keeps_gradient(place):
                check_same_bits(parameter.grad, before.gradients[place], f"the gradient of {where}")  # type: ignore[arg-type]
            if gradient is not None and run.listed(place, step):
                check_update(parameter, before.values[place], gradient, run.rules[place], where)
                continue
            check_same_bits(parameter, before.bits[place], f"{where}, without a gradient,")
            # Adagrad makes state for all when it is built; none may grow or change
            check_equal(state_bits(run.optimizer, parameter), before.states[place], f"state of {where}")


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


def frozen_midway(scenario: OptimizerScenario) -> Tuple[bool, ...]:
    """Which parameters are frozen after two steps: as listed, or the first."""
    return scenario.frozen if any(scenario.frozen) else (True, *scenario.frozen[1:])


def without_history(scenario: OptimizerScenario, device: str, dtype: torch.dtype) -> OptimizerScenario:
    """The same optimizer and parameters: no group comes late, nothing is loaded, no flag turns."""
    spec = workarounds.sound(scenario.spec, device, dtype)
    return dataclasses.replace(scenario, spec=spec, turns=(), late=0, reload=0)


def steps_with_left_behind(
    scenario: OptimizerScenario, left: str, device: str, dtype: torch.dtype
) -> Iterator[Fed]:
    """Two steps on all, two with some frozen and a gradient left behind; after each step, all."""
    generator = torch.Generator()
    generator.manual_seed(scenario.seed)
    parameters = dataclasses.replace(scenario, frozen=(False,) * len(scenario.shapes)).parameters(
        device, dtype
    )
    optimizer = scenario.build(parameters)
    for step in range(1, 5):
        for parameter, frozen in zip(parameters, frozen_midway(scenario)):
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
        workarounds.step(optimizer)
        yield from fed


@law("F6 F3", "the formulas in the torch.optim documentation", PRECISE)
@given(data=st.data())
def test_what_is_left_behind_moves_by_the_rule(
    device: str, dtype: torch.dtype, data: st.DataObject
) -> None:
    """F6: frozen midway, a parameter moves as its rule makes of a gradient left behind; else not."""
    scenario: OptimizerScenario = data.draw(
        optimizer_scenarios(names=referenced(), device=device, dtype=dtype)
    )
    left = data.draw(st.sampled_from(LEFT_BEHIND))
    event(left)
    scenario = without_history(scenario, device, dtype)
    rules = [rule_for(scenario.spec_of(place), dtype) for place in range(len(scenario.shapes))]
    for fed in steps_with_left_behind(scenario, left, device, dtype):
        state = "live" if fed.parameter.requires_grad else f"frozen with {left} gradient"
        where = f"parameter {fed.place}, {state}, after step {fed.step} of {scenario.spec.name}"
        rule = rules[fed.place]
        assert rule is not None
        if fed.gradient is None:
            check_same_bits(fed.parameter, fed.bits, where)
        else:
            check_update(fed.parameter, fed.before, fed.gradient, rule, where)


def pairwise(table: Sequence[Tuple[str, Sequence[Any]]], name: str) -> Iterator[Dict[str, Any]]:
    """Few rows of options in which every two values of two options meet, where the rules allow it."""
    source = random.Random(name)
    rows = [{option: source.choice(values) for option, values in table} for _ in range(400)]
    valid = [constrained(name, row) for row in rows]
    pairs = [set(combinations(sorted(row.items(), key=repr), 2)) for row in valid]
    missing = set().union(*pairs)
    while missing:
        best = max(range(len(rows)), key=lambda place: len(pairs[place] & missing))
        missing -= pairs[best]
        yield valid[best]


def option_rows(name: str, device: str, dtype: torch.dtype) -> Iterator[OptimizerSpec]:
    """The simplest options, and every pair of values of two options, in every implementation."""
    table = choices(name, dtype)
    simplest = constrained(name, {option: values[0] for option, values in table})
    for way in implementations(name, device, dtype):
        # capturable ones correct biases in float32 in every dtype; for-loop is the CPU's default
        if IMPLEMENTATIONS[way].get("capturable") or (way == "for-loop" and device == "cpu"):
            continue
        for options in (simplest, *pairwise(table, name)):
            yield OptimizerSpec(name, tuple(sorted({**options, **IMPLEMENTATIONS[way]}.items())))


def option_listings(name: str, device: str, dtype: torch.dtype) -> Iterator[OptimizerScenario]:
    """Each row beside the next in a history: zeros first, flags that turn, a late group, a reload."""
    steps = ("zero", "ordinary", "ordinary", "half zero", "ordinary", "some", *("ordinary",) * 3)
    matrices = ((3, 2), (300, 2), (1, 1), (2, 4), (2, 3))  # wide: to meet faults that go by size
    shapes = matrices if name in MATRICES else (*matrices[:3], (2, 2, 2), (3,))
    frozen = (False, True, True, False, False)
    turns = (0, 7, 2, 4, 0)  # the second and third are unfrozen late, the fourth is frozen midway
    loads = dtype is torch.float32 or name not in CAST_WHEN_LOADED
    rows = list(option_rows(name, device, dtype))
    if dtype is not torch.float32:  # which options meet matters less there than how exact they are
        rows = rows[::2]
    for seed, (spec, other) in enumerate(zip(rows, (*rows[1:], rows[0]))):
        more = 20 if seed == 0 else 0
        late = 3 if seed % 3 == 1 and name not in BUILT_AT_ONCE else 0
        yield OptimizerScenario(
            spec,
            shapes,
            frozen,
            tuple(sorted({**options_beside(spec, dict(other.options)), "lr": 0.05}.items())),
            steps + ("ordinary",) * more,
            seed,
            turns,
            late=late,
            reload=5 if seed % 2 and loads else 0,
            halved=6 if seed % 4 == 3 and name not in SLOW_TO_CHANGE else 0,
            turned=seed % 5 == 4,
            tensor_rate=seed % 4 == 2 and takes_tensor_rate(spec),
        )


def takes_tensor_rate(spec: OptimizerSpec) -> bool:
    """Whether an optimizer of this torch takes a tensor for its rate."""
    refuses = spec.name in ("Adam", "AdamW") and bool(dict(spec.options).get("foreach"))
    return version_tuple(str(torch.__version__)) >= (2, 7) and not refuses


@law("F3 F1 F6 F7 F9", "the formulas in the torch.optim documentation", PRECISE)
@pytest.mark.parametrize("name", referenced())
def test_every_option(device: str, dtype: torch.dtype, name: str) -> None:
    """F3: every pair of options of every optimizer, enumerated: each step as documented."""
    for scenario in option_listings(name, device, dtype):
        follow_the_rule(scenario, device, dtype)
        count_cases(1)


@law("F3 F1", "torch.optim.LBFGS documentation; Nocedal and Wright, algorithm 7.4", PRECISE)
@given(
    count=st.integers(1, 3),
    seed=st.integers(0, 1023),
    frozen=st.integers(0, 3),
    options=st.sampled_from(
        [
            (rate, iterations, history)
            for history in (1, 2, 10)
            for rate in (0.5, 0.2)
            for iterations in (1, 4)
        ]
    ),
)
def test_lbfgs_recursion(
    device: str,
    dtype: torch.dtype,
    count: int,
    seed: int,
    frozen: int,
    options: Tuple[float, int, int],
) -> None:
    """F3: LBFGS steps by its two-loop recursion over all it lists; the frozen stand still."""
    bowl = Bowl(count, seed, frozen, device, dtype)
    rate, iterations, history = options
    optimizer = torch.optim.LBFGS(bowl.parameters, lr=rate, max_iter=iterations, history_size=history)
    rule = LBFGS(rate, iterations, history)
    unit = lbfgs_tolerance(dtype)
    for step in range(1, 1 + lbfgs_steps(dtype)):
        bowl.check_frozen()
        expected = rule.step(bowl.point(), bowl.slope)
        if rule.near_the_bottom:
            break
        optimizer.step(bowl.closure)  # type: ignore[arg-type]
        check_close(bowl.point(), expected, f"all parameters after step {step} of LBFGS", unit, unit)
    bowl.check_frozen()


@law("F3 F1", "torch.optim.LBFGS documentation, line_search_fn", PRECISE)
@given(count=st.integers(1, 3), seed=st.integers(0, 1023), frozen=st.integers(0, 3))
def test_lbfgs_line_search(device: str, dtype: torch.dtype, count: int, seed: int, frozen: int) -> None:
    """F3: with strong_wolfe no step of LBFGS raises the loss, even at a rate that overshoots."""
    bowl = Bowl(count, seed, frozen, device, dtype)
    optimizer = torch.optim.LBFGS(bowl.parameters, lr=3.0, max_iter=3, line_search_fn="strong_wolfe")
    for step in (1, 2):
        before = bowl.loss()
        optimizer.step(bowl.closure)  # type: ignore[arg-type]
        after = bowl.loss()
        check(after <= before * (1 + 1e-5), f"step {step} took the loss from {before} to {after}")
        check(step > 1 or after < before, f"the first step left the loss at {before}")
    bowl.check_frozen()


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
    parameters = OptimizerScenario(spec, (first, (3, 2)), (False, False), seed=seed).parameters(
        device, dtype
    )
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
    scenario = OptimizerScenario(OptimizerSpec("SparseAdam"), shapes, (False, True), seed=seed)
    parameter, frozen = scenario.parameters(device, dtype)
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
    parameter = OptimizerScenario(spec, ((size,),), (False,), seed=seed).parameters(device, dtype)[0]
    before = oracle.as_float64(parameter)
    parameter.grad = torch.ones(size, dtype=dtype, device=device)
    spec.build([parameter]).step()
    still = (oracle.as_float64(parameter) == before).nonzero().flatten().tolist()
    check(not still, f"elements {still[:5]} of {size} did not move by lr 0.5 times gradient 1")
