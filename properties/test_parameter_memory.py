"""A step changes the elements of its parameters, by the rule, and not a byte beside them."""

import random
from typing import Any, Dict, List

import pytest
import torch
from hypothesis import settings

from frostproof.properties.harness.core.checks import check, check_raises, count_cases, fail
from frostproof.properties.harness.core.law import PRECISE, law
from frostproof.properties.harness.running.parameter_memory import StorageRun
from frostproof.properties.harness.running.worker_processes import WorkerDied, Workers
from frostproof.properties.harness.session import evidence
from frostproof.strategies import OptimizerSpec, optimizer_names
from frostproof.strategies.capabilities import NotOffered
from frostproof.strategies.optimizer_traits import traits_of
from frostproof.strategies.optimizers import (
    IMPLEMENTATIONS,
    choices,
    constrained,
    implementations,
)
from frostproof.strategies.parameter_layouts import (
    FAMILIES,
    GRADIENTS,
    PARAMETER_LAYOUTS,
    ParameterLayout,
    small_layouts,
)

SOURCE = "torch.optim documentation: the update rules, element by element"
# What takes dense parameters of any shape, and no closure.
ORDINARY = [
    name
    for name in optimizer_names()
    if not any((traits_of(name).closure, traits_of(name).sparse, traits_of(name).matrices))
]
FUSED = ("SGD", "Adam", "AdamW", "Adagrad")  # what has a fused implementation on the CPU


def implemented(spec: OptimizerSpec, way: str) -> OptimizerSpec:
    """The optimizer in one of the IMPLEMENTATIONS."""
    options: Dict[str, Any] = {
        key: value for key, value in spec.options if key not in ("foreach", "fused", "capturable")
    }
    return OptimizerSpec(spec.name, tuple(sorted({**options, **IMPLEMENTATIONS[way]}.items())))


def some_options(name: str, dtype: torch.dtype, source: random.Random) -> OptimizerSpec:
    """An optimizer with options picked by ``source``."""
    picked = {option: source.choice(values) for option, values in choices(name, dtype)}
    return OptimizerSpec(name, tuple(sorted(constrained(name, picked).items())))


def mixed_layouts(source: random.Random) -> List[ParameterLayout]:
    """Every kind with some gradient, and every gradient with some kind of matrix; small ones first."""
    pairs = [(kind, source.choice(GRADIENTS)) for kind in PARAMETER_LAYOUTS if kind != "empty"]
    pairs += [(source.choice(("dense", "transposed", "rows")), gradient) for gradient in GRADIENTS]
    sizes = sorted((source.randint(2, 6), source.randint(2, 6)) for _ in pairs)
    source.shuffle(pairs)
    return [
        ParameterLayout(kind, rows, columns, gradient, seed=source.randrange(256))
        for (kind, gradient), (rows, columns) in zip(pairs, sizes)
    ]


@law("M1 M2", SOURCE, PRECISE)
@pytest.mark.parametrize("way", ["default", "foreach"])
def test_step_stays_in_its_elements(device: str, dtype: torch.dtype, way: str) -> None:
    """M1: whatever the strides, elements move by the rule and no byte beside them; or it refuses."""
    names = [name for name in ORDINARY if way in implementations(name, device, dtype)]
    if not names:
        raise NotOffered(f"this torch has no {way} implementation")
    source = random.Random(evidence.Current.seed)
    for _ in range(max(1, (settings.default or settings()).max_examples // 60)):
        for name in names:
            for layout in mixed_layouts(source):
                spec = implemented(some_options(name, dtype, source), way)
                run = StorageRun(layout, spec, device, dtype)
                if run.step() is None:
                    run.step()
                count_cases(1)


@law("M1 M2", SOURCE, "float32")
@pytest.mark.parametrize("name", ORDINARY)
def test_step_takes_empty_parameters(device: str, dtype: torch.dtype, name: str) -> None:
    """M1: a parameter without elements is stepped over, and its neighbour is updated."""
    for way in implementations(name, device, dtype):
        spec = implemented(OptimizerSpec(name, (("lr", 0.1),)), way)
        run = StorageRun(ParameterLayout("empty", 1, 2), spec, device, dtype)
        try:
            refused = run.step()
        except (ValueError, ArithmeticError) as problem:
            refused = f"{type(problem).__name__}: {problem}"
        check(refused is None, f"{name} does not step over an empty parameter: {refused}")
        count_cases(1)


def fused_names(device: str, dtype: torch.dtype) -> List[str]:
    """The optimizers with a fused implementation for a device and dtype."""
    return [
        name
        for name in FUSED
        if hasattr(torch.optim, name) and "fused" in implementations(name, device, dtype)
    ]


@law("M1 M2", SOURCE, "float32")
@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("name", FUSED)
def test_fused_step_stays_in_its_elements(
    device: str, dtype: torch.dtype, name: str, family: str
) -> None:
    """M1: so with the fused implementations, over every layout from the smallest on."""
    if name not in fused_names(device, dtype):
        raise NotOffered(f"this torch has no fused {name} on {device}")
    source = random.Random(evidence.Current.seed)
    kinds, gradients = FAMILIES[family]
    for layout in small_layouts(kinds, gradients):
        spec = implemented(some_options(name, dtype, source), "fused")
        run = StorageRun(layout, spec, device, dtype)
        for _ in range(2):
            if run.step() is not None:
                break
        count_cases(1)


def expanded_step(name: str, columns: int, rows: int) -> str:
    """In a process of its own: a fused step over one row that is expanded to many."""
    whole = torch.ones(columns)
    parameter = torch.nn.Parameter(whole.expand(rows, columns))
    optimizer = getattr(torch.optim, name)([parameter], lr=0.1, fused=True)
    parameter.grad = torch.ones(rows, columns)
    try:
        optimizer.step()
    except RuntimeError as problem:
        return f"refused: {problem}"
    return "stepped"


@law("M1", SOURCE, "float32")
def test_fused_step_keeps_the_process_alive(device: str, dtype: torch.dtype) -> None:
    """M1: a fused step over a view that is larger than its storage is refused, and ends no process."""
    names = fused_names("cpu", dtype)
    if not names:
        raise NotOffered("this torch has no fused optimizer on the CPU")
    with Workers(1, evidence.Current.plugins) as workers:
        for name, rows in [(name, rows) for name in names for rows in (2, 4096)]:
            case = f"fused {name} over torch.ones(64).expand({rows}, 64)"
            try:
                (answer,) = workers.ask(expanded_step, name, 64, rows)
            except WorkerDied as death:
                fail(f"{case}: {death}")
            check(answer.startswith("refused"), f"{case} is not refused: it wrote past the storage")
            count_cases(1)


GRAPHS = "PyTorch documentation, Autograd mechanics: in-place correctness checks"


def check_bumps(spec: OptimizerSpec, device: str) -> None:
    """A step bumps the version of what it moves alone, and a graph made before it refuses backward."""
    moved, frozen = (torch.nn.Parameter(torch.ones(2, 2, device=device)) for _ in range(2))
    frozen.requires_grad_(False)
    optimizer = spec.build([moved, frozen])
    for _ in range(2):
        moved.grad = torch.ones_like(moved)
        loss = (moved * moved).sum()
        versions = moved._version, frozen._version
        optimizer.step()
        what = f"a step of {spec.name} with {dict(spec.options)}"
        check(moved._version > versions[0], f"{what} has not bumped the version of what it moved")
        check(frozen._version == versions[1], f"{what} has bumped the version of what is frozen")
        check_raises(RuntimeError, loss.backward, f"backward through values before {what}", "inplace")
        count_cases(1)


@law("M3", GRAPHS, "float32")
@pytest.mark.parametrize("name", ORDINARY)
def test_step_bumps_the_version(device: str, dtype: torch.dtype, name: str) -> None:
    """M3: a step bumps the version of what it moves, so that an older graph refuses backward."""
    for way in implementations(name, device, dtype):
        if "fused" not in way:
            check_bumps(implemented(OptimizerSpec(name, (("lr", 0.1),)), way), device)


@law("M3", GRAPHS, "float32")
@pytest.mark.parametrize("name", FUSED)
def test_fused_step_bumps_the_version(device: str, dtype: torch.dtype, name: str) -> None:
    """M3: so does a fused step."""
    if name not in fused_names(device, dtype):
        raise NotOffered(f"this torch has no fused {name} on {device}")
    check_bumps(implemented(OptimizerSpec(name, (("lr", 0.1),)), "fused"), device)
