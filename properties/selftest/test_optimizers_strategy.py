"""The strategy of optimizers: valid everywhere, whole, and simple when it shrinks."""

import importlib
import itertools
import os
import subprocess
import sys
from typing import Any, Dict, Iterator, List, Set, Tuple

import pytest
import torch
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st

from frostproof.properties.selftest import PACKAGE
from frostproof.strategies import OptimizerSpec, optimizer_names, optimizers
from frostproof.strategies.optimizer_traits import traits_of
from frostproof.strategies.optimizers import (
    CHOICES,
    IMPLEMENTATIONS,
    choices,
    constrained,
    implementations,
)

# the package exports a function of the same name
module = importlib.import_module("frostproof.strategies.optimizers")
DTYPES = ("float32", "float64", "bfloat16", "float16")
MANY = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), database=None)
GRADIENT_KINDS = ("zero", "constant", "random", "tiny", "large", "half zero")


def gradient_of(kind: str, like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A gradient of one kind, float64."""
    drawn = torch.rand(tuple(like.shape), generator=generator, dtype=torch.float64) * 2 - 1
    if kind == "zero":
        return drawn * 0
    if kind == "constant":
        return drawn * 0 + 0.3
    if kind == "half zero":
        return torch.where(drawn > 0, drawn, drawn * 0)
    return drawn * {"random": 1.0, "tiny": 1e-3, "large": 30.0}[kind]


def train(spec: OptimizerSpec, dtype: torch.dtype, kind: str, steps: int = 8) -> None:
    """Some steps; asserts that every value stays finite."""
    generator = torch.Generator()
    generator.manual_seed(1)
    shapes: List[Tuple[int, ...]] = [(3, 2), (1, 1)]
    if not spec.matrices_only:
        shapes += [(4,)]
    params = [
        torch.nn.Parameter(
            (torch.rand(shape, generator=generator, dtype=torch.float64) - 0.5).to(dtype)
        )
        for shape in shapes
    ]
    optimizer = spec.build(params)

    def closure() -> torch.Tensor:
        loss = sum((p * p).sum() for p in params)
        assert isinstance(loss, torch.Tensor)
        optimizer.zero_grad()
        loss.backward()
        return loss.data

    for _ in range(steps):
        if spec.needs_closure:
            optimizer.step(closure)  # type: ignore[arg-type]
            continue
        for parameter in params:
            gradient = gradient_of(kind, parameter, generator).to(dtype)
            parameter.grad = gradient.to_sparse() if spec.sparse_only else gradient
        optimizer.step()
    for parameter in params:
        assert bool(torch.isfinite(parameter.data.float()).all()), (spec, kind)


def simple_specs(name: str, dtype: torch.dtype) -> Iterator[OptimizerSpec]:
    """Every pair of values of two options, the others simplest, by every implementation."""
    table = choices(name, dtype)
    simplest = {option: values[0] for option, values in table}
    seen: Set[OptimizerSpec] = set()
    for (one, firsts), (two, seconds) in itertools.product(table, repeat=2):
        for first, second in itertools.product(firsts, seconds):
            options = constrained(name, {**simplest, one: first, two: second})
            for way in implementations(name, "cpu", dtype):
                valid = {**options, **IMPLEMENTATIONS[way]}
                seen.add(OptimizerSpec(name, tuple(sorted(valid.items()))))
    return iter(sorted(seen, key=repr))


@pytest.mark.parametrize("dtype_name", DTYPES)
@pytest.mark.parametrize("name", optimizer_names())
def test_every_pair_of_options_works(name: str, dtype_name: str) -> None:
    """Brute force: nothing raises, warns or makes a value that is not finite."""
    dtype = getattr(torch, dtype_name)
    if not implementations(name, "cpu", dtype):
        assert name != "SGD"
        assert dtype_name in ("bfloat16", "float16")
        pytest.skip(f"torch {torch.__version__} has no {name} in {dtype_name} on cpu")
    if (name, dtype_name) == ("LBFGS", "float16"):
        pytest.skip("infinite in float16: drawn only where it is named")
    for index, spec in enumerate(simple_specs(name, dtype)):
        train(spec, dtype, GRADIENT_KINDS[index % len(GRADIENT_KINDS)])


@pytest.mark.parametrize("dtype_name", DTYPES)
def test_drawn_ones_work_and_print_as_themselves(dtype_name: str) -> None:
    dtype = getattr(torch, dtype_name)

    @MANY
    @given(optimizers(dtype=dtype_name), st.sampled_from(GRADIENT_KINDS))
    def check(spec: OptimizerSpec, kind: str) -> None:
        assert eval(repr(spec), {"OptimizerSpec": OptimizerSpec}) == spec
        assert list(spec.options) == sorted(spec.options) and hash(spec) is not None
        assert not spec.sparse_only
        train(spec, dtype, kind)

    check()


def drawn(count: int = 4000, **arguments: Any) -> List[OptimizerSpec]:
    found: List[OptimizerSpec] = []

    @settings(MANY, max_examples=count, derandomize=True)
    @given(optimizers(**arguments))
    def collect(spec: OptimizerSpec) -> None:
        found.append(spec)

    collect()
    return found


def test_every_name_is_drawn_often() -> None:
    counts: Dict[str, int] = {}
    specs = drawn(1500)
    for spec in specs:
        counts[spec.name] = counts.get(spec.name, 0) + 1
    expected = {name for name in optimizer_names() if not traits_of(name).sparse}
    assert set(counts) == expected
    assert min(counts.values()) > len(specs) / len(expected) / 4, counts


@pytest.mark.parametrize("name", optimizer_names())
def test_every_option_and_implementation_is_drawn(name: str) -> None:
    specs = drawn(400, names=[name])
    seen = {pair for spec in specs for pair in spec.options}
    for option, values in choices(name, torch.float32):
        for value in values:
            if value is not None:
                assert (option, value) in seen, (option, value)
    for way in implementations(name, "cpu", torch.float32):
        for pair in IMPLEMENTATIONS[way].items():
            assert sum(pair in spec.options for spec in specs) > len(specs) / 12, way


def test_the_options_are_those_of_the_constructor() -> None:
    """An option that is in no table is left at its default: those are named here."""
    apart = {
        "self", "params", "foreach", "fused", "capturable", "differentiable",
        "max_eval", "tolerance_grad", "tolerance_change", "ns_coefficients",
    }  # fmt: skip
    for name in optimizer_names():
        spec = OptimizerSpec(name, (("lr", 0.1),))
        known = set(spec.build([torch.zeros(2, 2)]).defaults)
        assert {"lr"} <= {option for option, _ in choices(name, torch.float32)} <= known
        assert known - set(CHOICES) <= apart, name
        assert traits_of(name).known, f"{name} is new: give it a record, or it keeps its defaults"


def test_shrinks_to_sgd_with_lr_alone() -> None:
    assert find(optimizers(), lambda spec: True) == OptimizerSpec("SGD", (("lr", 0.1),))
    nesterov = find(optimizers(), lambda spec: dict(spec.options).get("nesterov") is True)
    assert dict(nesterov.options) in (
        {"lr": 0.1, "nesterov": True},
        {"lr": 0.1, "momentum": 0.9, "nesterov": True},
    )
    fused = find(
        optimizers(names=["Adam"]),
        lambda spec: dict(spec.options).get("weight_decay") == 0.1,
        settings=settings(MANY, max_examples=2000),
    )
    assert fused == OptimizerSpec("Adam", (("lr", 0.1), ("weight_decay", 0.1)))


def test_properties_come_from_the_tables() -> None:
    assert OptimizerSpec("LBFGS").needs_closure and not OptimizerSpec("SGD").needs_closure
    assert OptimizerSpec("SparseAdam").sparse_only and not OptimizerSpec("Adam").sparse_only
    assert OptimizerSpec("Muon").matrices_only and not OptimizerSpec("Adam").matrices_only


def test_a_new_optimizer_is_picked_up_with_its_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    class Newcomer(torch.optim.SGD):
        def __init__(self, params: Any, lr: float = 0.5, betas: Any = (1, 2, 3)) -> None:
            super().__init__(params, lr=lr)

    monkeypatch.setattr(torch.optim, "Newcomer", Newcomer, raising=False)
    assert "Newcomer" in optimizer_names()
    spec = find(optimizers(names=["Newcomer"]), lambda spec: True)
    assert spec == OptimizerSpec("Newcomer")
    assert isinstance(spec.build([torch.zeros(1)]), Newcomer)


def test_the_class_is_reached_when_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    class Changed(torch.optim.SGD):
        pass

    monkeypatch.setattr(torch.optim, "SGD", Changed)
    assert isinstance(OptimizerSpec("SGD", (("lr", 0.1),)).build([torch.zeros(1)]), Changed)


def forget() -> None:
    """Forget what was tried with the installed torch."""
    for cached in (implementations, module._ways, module._usable):
        cached.cache_clear()  # type: ignore[attr-defined]


def test_only_a_refusal_hides_an_implementation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken optimizer must fail the laws, not drop out of them."""

    def broken(self: Any, closure: Any = None) -> None:
        raise RuntimeError("something broke")

    def refusing(self: Any, closure: Any = None) -> None:
        raise RuntimeError("\"mul\" not implemented for 'Half'")

    forget()
    monkeypatch.setattr(torch.optim.SGD, "step", broken)
    assert "default" in implementations("SGD", "cpu", torch.float32)
    forget()
    monkeypatch.setattr(torch.optim.SGD, "step", refusing)
    assert implementations("SGD", "cpu", torch.float32) == ()
    with pytest.raises(ValueError, match="none of SGD works"):
        find(optimizers(names=["SGD"]), lambda spec: True)
    forget()


def test_a_wrong_name_is_told() -> None:
    with pytest.raises(ValueError, match="Sgd"):
        optimizers(names=["Sgd"])


@pytest.mark.skipif(not hasattr(torch, "compile"), reason="an older torch has fewer of them")
def test_implementations_known_to_exist_are_not_lost() -> None:
    for name in ("SGD", "Adam", "AdamW", "Adagrad"):
        assert "fused" in implementations(name, "cpu", torch.float32)
    for name in optimizer_names():
        if name not in ("LBFGS", "Muon", "SparseAdam"):
            assert {"for-loop", "foreach"} <= set(implementations(name, "cpu", torch.float32))


def test_importing_builds_no_optimizer() -> None:
    """The first optimizer of a process imports torch._dynamo: seconds, not at import."""
    code = (
        "import sys, torch\n"
        "before = 'torch._dynamo' in sys.modules\n"
        "from frostproof import strategies\n"
        "strategies.optimizers()\n"
        "assert before or 'torch._dynamo' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": PACKAGE}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
