"""Every optimizer against its reference: what moves, by how much, and what must not."""

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
    check_equal,
    check_same_bits,
    check_within,
    count_cases,
)
from frostproof.properties.harness.core.law import COMPLEX, FLOATING, PRECISE, law
from frostproof.properties.harness.defects.known import version_tuple
from frostproof.properties.harness.reference import oracle
from frostproof.properties.harness.reference.update_rules import (
    Rule,
    SparseAdam,
    allowed_error,
    referenced,
    rule_for,
)
from frostproof.properties.harness.running import workarounds
from frostproof.properties.harness.running.scenario import ListingRun, gradient_like, state_bits
from frostproof.properties.harness.running.trainer import Trainer
from frostproof.properties.harness.session import evidence
from frostproof.strategies import (
    OptimizerScenario,
    OptimizerSpec,
    TrainingRun,
    mlps,
    optimizer_scenarios,
    optimizers,
    training_runs,
)
from frostproof.strategies.optimizer_scenarios import (
    options_beside,
)
from frostproof.strategies.optimizer_traits import traits_of
from frostproof.strategies.optimizers import (
    IMPLEMENTATIONS,
    choices,
    constrained,
    implementations,
)

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
    allowed = allowed_error(rule, parameter.dtype, before, expected)
    actual = torch.view_as_real(parameter) if parameter.is_complex() else parameter
    check_within(actual, expected, allowed, f"{where}, by the rule of {rule.options}")


@law("F3 F1 F6 F7 F9", "the formulas in the torch.optim documentation", FLOATING)
@given(data=st.data())
def test_rule_on_given_gradients(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """F3: fed plain gradients, every option of each group acts as documented, on its own group."""
    # Muon's own bfloat16 leaves nothing to compare in a low precision
    names = referenced(1.0 if dtype in (torch.float32, torch.float64) else 1e-3)
    if dtype is torch.float16:
        names = [name for name in names if not traits_of(name).squares]
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


def option_scenarios(name: str, device: str, dtype: torch.dtype) -> Iterator[OptimizerScenario]:
    """Each row beside the next in a history: zeros first, flags that turn, a late group, a reload."""
    traits = traits_of(name)
    steps = ("zero", "ordinary", "ordinary", "half zero", "ordinary", "some", *("ordinary",) * 3)
    matrices = ((3, 2), (300, 2), (1, 1), (2, 4), (2, 3))  # wide: to meet faults that go by size
    shapes = matrices if traits.matrices else (*matrices[:3], (2, 2, 2), (3,))
    frozen = (False, True, True, False, False)
    turns = (0, 7, 2, 4, 0)  # the second and third are unfrozen late, the fourth is frozen midway
    loads = dtype is torch.float32 or not traits.casts_state
    rows = list(option_rows(name, device, dtype))
    if dtype is not torch.float32:  # which options meet matters less there than how exact they are
        rows = rows[::2]
    for seed, (spec, other) in enumerate(zip(rows, (*rows[1:], rows[0]))):
        more = 20 if seed == 0 else 0
        late = 3 if seed % 3 == 1 and not traits.eager_state else 0
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
            halved=6 if seed % 4 == 3 and not traits.remembers_rate else 0,
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
    for scenario in option_scenarios(name, device, dtype):
        with evidence.case(scenario):
            follow_the_rule(scenario, device, dtype)
        count_cases(1)


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
