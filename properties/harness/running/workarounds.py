"""How laws step round a known defect of the installed torch, so that one defect fails one law."""

import dataclasses

import torch

from frostproof.properties.harness.defects.known import known
from frostproof.strategies import OptimizerScenario, OptimizerSpec

EMPTY_STEP = "test_freeze.py::test_step_without_gradients"
FUSED_SGD = "test_optimizers.py::test_fused_sgd_moves_every_element"
LATE_FUSED_SGD = "test_freeze_midway.py::test_fused_sgd_takes_a_late_gradient"


def step(optimizer: torch.optim.Optimizer) -> None:
    """``optimizer.step()`` without the groups that this torch cannot step: see EMPTY_STEP."""
    if not known(EMPTY_STEP):
        optimizer.step()
        return
    groups = optimizer.param_groups
    optimizer.param_groups = [
        group for group in groups if any(p.grad is not None for p in group["params"])
    ]
    optimizer.step()
    optimizer.param_groups = groups


def sound(spec: OptimizerSpec, device: str, dtype: torch.dtype) -> OptimizerSpec:
    """The optimizer without an implementation that this torch has broken: see FUSED_SGD."""
    if spec.name != "SGD" or not dict(spec.options).get("fused"):
        return spec
    # "torch.bfloat16" is "bfloat16" in a test's id
    if not known(FUSED_SGD, f"{device}-{str(dtype)[6:]}"):
        return spec
    return OptimizerSpec(spec.name, tuple(pair for pair in spec.options if pair[0] != "fused"))


def workable(scenario: OptimizerScenario) -> OptimizerScenario:
    """The scenario without the late first gradients that fused SGD cannot take: LATE_FUSED_SGD."""
    options = dict(scenario.spec.options)
    if scenario.spec.name != "SGD" or not options.get("fused") or not known(LATE_FUSED_SGD):
        return scenario
    if not options.get("momentum") and not dict(scenario.second).get("momentum"):
        return scenario
    steps = tuple("ordinary" if kind == "some" else kind for kind in scenario.steps)
    turns = tuple(turn * (not frozen) for turn, frozen in zip(scenario.turns, scenario.frozen))
    return dataclasses.replace(scenario, steps=steps, turns=turns)
