"""What to try: Hypothesis strategies and the plain descriptions that they draw.

Every description is a frozen dataclass of plain values: its repr evaluates back
to an equal object, and it builds the same thing on any device and dtype.
"""

from strategies.detaching import Cuts, detach_positions
from strategies.freezing import freeze_masks
from strategies.layer_kinds import LayerCase, layer_cases
from strategies.listings import Listing, listings
from strategies.networks import MLP, Layer, Network, mlps
from strategies.optimizers import OptimizerSpec, optimizer_names, optimizers
from strategies.tensors import TensorSpec, all_dtypes, tensors
from strategies.training import TrainingRun, training_runs

__all__ = [
    "MLP",
    "Cuts",
    "Layer",
    "LayerCase",
    "Listing",
    "Network",
    "OptimizerSpec",
    "TensorSpec",
    "TrainingRun",
    "all_dtypes",
    "detach_positions",
    "freeze_masks",
    "layer_cases",
    "listings",
    "mlps",
    "optimizer_names",
    "optimizers",
    "tensors",
    "training_runs",
]
