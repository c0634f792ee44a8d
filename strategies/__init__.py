"""What to try: Hypothesis strategies and the plain descriptions that they draw.

Every description is a frozen dataclass of plain values: its repr evaluates back
to an equal object, and it builds the same thing on any device and dtype.
"""

from frostproof.strategies.detaching import Cuts, detach_positions
from frostproof.strategies.freezing import freeze_masks
from frostproof.strategies.layer_kinds import LayerCase, layer_cases
from frostproof.strategies.networks import MLP, Layer, Network, mlps
from frostproof.strategies.optimizer_scenarios import OptimizerScenario, optimizer_scenarios
from frostproof.strategies.optimizers import OptimizerSpec, optimizer_names, optimizers
from frostproof.strategies.parameter_layouts import ParameterLayout, parameter_layouts
from frostproof.strategies.programs import Input, Program, Statement, programs
from frostproof.strategies.tensors import TensorSpec, all_dtypes, tensors
from frostproof.strategies.training import TrainingRun, training_runs

__all__ = [
    "MLP",
    "Cuts",
    "Input",
    "Layer",
    "LayerCase",
    "Network",
    "OptimizerScenario",
    "OptimizerSpec",
    "ParameterLayout",
    "Program",
    "Statement",
    "TensorSpec",
    "TrainingRun",
    "all_dtypes",
    "detach_positions",
    "freeze_masks",
    "layer_cases",
    "mlps",
    "optimizer_names",
    "optimizer_scenarios",
    "optimizers",
    "parameter_layouts",
    "programs",
    "tensors",
    "training_runs",
]
