"""The reference rules against torch's optimizers, over their options, in every dtype."""

import random
from typing import Any, Dict, Iterator, List

import pytest
import torch

from frostproof.properties.harness.reference.update_rules import (
    REFERENCES,
    allowed_error,
    referenced,
    rule_for,
)
from frostproof.properties.harness.running import workarounds
from frostproof.strategies import OptimizerSpec
from frostproof.strategies.optimizers import IMPLEMENTATIONS, choices, constrained, implementations

STEPS = 5
INSTALLED = [name for name in REFERENCES if hasattr(torch.optim, name)]
# float16 gradients that are zero but for decay underflow in the second moment
DTYPES = ("float64", "float32", "bfloat16")


def specs_of(name: str, dtype: torch.dtype, count: int = 60) -> Iterator[OptimizerSpec]:
    """Every value of every option alone, and ``count`` mixtures, by every implementation."""
    table = choices(name, dtype)
    simplest = {option: values[0] for option, values in table}
    chosen: List[Dict[str, Any]] = [
        {**simplest, option: value} for option, values in table for value in values
    ]
    source = random.Random(name)
    chosen += [{option: source.choice(values) for option, values in table} for _ in range(count)]
    for options in chosen:
        for way in implementations(name, "cpu", dtype):
            valid = {**constrained(name, options), **IMPLEMENTATIONS[way]}
            yield OptimizerSpec(name, tuple(sorted(valid.items())))


def gradients_of(seed: int, dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """Gradients of size 0.1 to 1, a fifth of them exactly zero; one row is zero at times."""
    generator = torch.Generator()
    generator.manual_seed(seed)
    for step in range(STEPS):
        drawn = torch.rand(4, 3, generator=generator, dtype=torch.float64) * 2 - 1
        drawn = torch.sign(drawn) * (0.1 + 0.9 * drawn.abs())
        drawn[torch.rand(4, 3, generator=generator) < 0.2] = 0
        if step % 2 == 0:
            drawn[0] = 0
        yield drawn.to(dtype)


def follow(spec: OptimizerSpec, seed: int, dtype: torch.dtype) -> None:
    """Run the optimizer and its rule side by side; the rule goes on from torch's value."""
    rule = rule_for(spec, dtype)
    assert rule is not None
    parameter = torch.nn.Parameter(torch.linspace(-1, 1, 12).reshape(4, 3).to(dtype))
    optimizer = spec.build([parameter])
    for step, gradient in enumerate(gradients_of(seed, dtype), 1):
        before = parameter.data.to(torch.float64) + 0  # not the parameter's own memory
        # before the step: SGD with foreach and nesterov overwrites the gradient (torch 2.13)
        expected = rule.step(before, gradient.to(torch.float64))
        parameter.grad = gradient
        optimizer.step()
        gap = (parameter.data.to(torch.float64) - expected).abs()
        assert bool((gap <= allowed_error(rule, dtype, before, expected)).all()), (spec, step)


@pytest.mark.parametrize("dtype_name", DTYPES)
@pytest.mark.parametrize("name", INSTALLED)
def test_rules_match_torch(name: str, dtype_name: str) -> None:
    dtype = getattr(torch, dtype_name)
    if not implementations(name, "cpu", dtype):
        pytest.skip(f"torch {torch.__version__} has no {name} in {dtype_name} on cpu")
    if REFERENCES[name].roughness > 1e-3 and dtype is torch.bfloat16:
        return  # nothing is left to compare
    for seed, spec in enumerate(specs_of(name, dtype)):
        follow(workarounds.sound(spec, "cpu", dtype), seed, dtype)


@pytest.mark.parametrize("name", INSTALLED)
def test_documented_defaults_are_the_installed_ones(name: str) -> None:
    """A guard on our table: the defaults written out are those of the torch versions tested."""
    ours = REFERENCES[name].defaults
    theirs = OptimizerSpec(name, (("lr", 0.1),)).build([torch.zeros(1, 1)]).defaults
    for option, value in ours.items():
        if option in theirs and option not in ("lr", "adjust_lr_fn"):
            assert theirs[option] == value, option


@pytest.mark.parametrize("name", INSTALLED)
def test_every_option_matters_to_its_rule(name: str) -> None:
    """A rule that ignored an option would match torch only where torch ignores it too."""
    table = dict(choices(name, torch.float64))
    setting = {"momentum": 0.9, "weight_decay": 0.1, "lambd": 0.1, "betas": (0.5, 0.9)}
    for option, values in table.items():
        results = set()
        for value in values:
            mixed = {key: kept for key, kept in setting.items() if key in table}
            mixed.update({"lr": 0.1, option: value})
            rule = rule_for(OptimizerSpec(name, tuple(sorted(constrained(name, mixed).items()))))
            assert rule is not None
            at = torch.ones(1, 3, dtype=torch.float64)
            for step in range(40):
                steady = torch.tensor([[1.0, 0.5, (-1.0) ** (step // 3)]], dtype=torch.float64)
                at = rule.step(at, steady * 0.8**step)
            results.add(tuple(at[0].tolist()))
        # t0 acts on the running average only; these are small, and their clip does not act
        if option not in ("t0", "d") and len(values) > 1:
            assert len(results) > 1, option


def test_a_wrong_rule_is_seen() -> None:
    spec = OptimizerSpec("SGD", (("lr", 0.1), ("momentum", 0.90001)))
    parameter = torch.nn.Parameter(torch.ones(4, 3, dtype=torch.float64))
    rule = rule_for(OptimizerSpec("SGD", (("lr", 0.1), ("momentum", 0.9))), torch.float64)
    optimizer = spec.build([parameter])
    assert rule is not None
    wrong = []
    for gradient in gradients_of(1, torch.float64):
        before = parameter.data + 0
        parameter.grad = gradient
        optimizer.step()
        expected = rule.step(before, gradient)
        gap = (parameter.data - expected).abs()
        wrong.append(bool((gap > allowed_error(rule, torch.float64, before, expected)).any()))
    assert wrong == [False, True, True, True, True]


def test_what_has_no_reference() -> None:
    assert rule_for(OptimizerSpec("LBFGS")) is None
    assert "SGD" in referenced() and "LBFGS" not in referenced()
    assert set(referenced()) <= set(INSTALLED)


def test_rules_of_two_parameters_are_apart() -> None:
    spec = OptimizerSpec("Adam", (("lr", 0.1),))
    one, two = rule_for(spec), rule_for(spec)
    assert one is not None and two is not None
    at = torch.ones(2, dtype=torch.float64)
    one.step(at, at)
    assert two.steps == 0 and not two.state
