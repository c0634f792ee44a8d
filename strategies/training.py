"""A whole training run as plain values: net, mask, cuts, optimizer, data, steps."""

from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import FrozenSet, Optional, Sequence, Tuple

import torch
from hypothesis import strategies as st

from frostproof.strategies.detaching import CUT_DIGITS, Cuts, read_cuts
from frostproof.strategies.digits import Digits, read_as, reader_of
from frostproof.strategies.freezing import Mask, layers_of, mask_digits, read_mask
from frostproof.strategies.network_code import data_code
from frostproof.strategies.networks import MLP, mlps
from frostproof.strategies.optimizers import (
    OPTIMIZER_DIGITS,
    OptimizerSpec,
    optimizer_classes,
    read_optimizer,
)

BATCHES = (*range(1, 9), 3, 4, 16, 33)
FREEZINGS = ("attribute", "method")  # p.requires_grad = False, p.requires_grad_(False)


@dataclass(frozen=True)
class TrainingRun:
    """Everything that decides a training run, except its device and dtype.

    frozen: names of frozen parameters, frozen before the optimizer is built, by
    ``freezing``. listed: "all" parameters are given to the optimizer, or only
    the "trainable" ones. groups: number of parameter groups (1 or 2).
    clearing: before each step gradients become "none", "zeros", or are "kept"
    (accumulate). seed: of inputs (batch, inputs) and targets (batch, last width).
    """

    network: MLP
    frozen: Mask = ()
    cuts: Cuts = Cuts()
    optimizer: OptimizerSpec = OptimizerSpec("SGD", (("lr", 0.1),))
    groups: int = 1
    listed: str = "all"
    freezing: str = "attribute"
    clearing: str = "none"
    steps: int = 1
    batch: int = 2
    seed: int = 0

    def unfrozen(self) -> Tuple[str, ...]:
        """The names that require grad, in parameter order."""
        frozen = frozenset(self.frozen)
        return tuple(name for name in self.network.parameter_names() if name not in frozen)

    def gets_gradient(self) -> FrozenSet[str]:
        """The names that backward must give a gradient (perhaps of zeros); the others: None."""
        return self._gets_gradient

    @cached_property
    def _gets_gradient(self) -> FrozenSet[str]:
        return self.network.reached(self.cuts.positions, self.cuts.by) - frozenset(self.frozen)

    def data_code(self, device: str, dtype: torch.dtype) -> Tuple[str, Tuple[str, ...]]:
        """``data`` as plain torch code, and the names that it defines."""
        return data_code(self, device, dtype), ("x", "target")

    def data(
        self, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets in [-1.5, 1.5), drawn on the CPU from ``seed`` alone."""
        generator = torch.Generator()
        generator.manual_seed(self.seed + 1_000_003)
        width = self.network.width_at(self.network.depth)
        inputs, targets = (
            torch.empty(self.batch, features, dtype=torch.float64).uniform_(
                -1.5, 1.5, generator=generator
            )
            for features in (self.network.inputs, width)
        )
        return inputs.to(device=device, dtype=dtype), targets.to(device=device, dtype=dtype)


RUN_DIGITS = 8


def training_runs(
    *,
    networks: Optional[st.SearchStrategy[MLP]] = None,
    names: Optional[Sequence[str]] = None,
    cuts: bool = True,
    learns: bool = False,
    max_depth: int = 6,
    max_steps: int = 5,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> st.SearchStrategy[TrainingRun]:
    """Training runs whose options are valid on the given device and dtype.

    networks: another strategy of nets than ``mlps(max_depth=max_depth)``; names: only
    optimizers of these classes; learns: True leaves at least one parameter that gets a
    gradient. Shrinks towards one SGD step on one pair, one linear layer, nothing frozen
    or cut.
    """
    nets = _nets(max_depth) if networks is None else networks
    classes = optimizer_classes(names, device, dtype)
    return _runs(nets, classes, cuts, learns, max_depth, max_steps, device, dtype)


@cache
def _nets(max_depth: int) -> st.SearchStrategy[MLP]:
    return mlps(max_depth=max_depth)


@lru_cache(maxsize=64)  # laws ask in every example; nets that are given may be new each time
def _runs(
    nets: st.SearchStrategy[MLP],
    classes: Tuple[str, ...],
    cuts: bool,
    learns: bool,
    max_depth: int,
    max_steps: int,
    device: str,
    dtype: torch.dtype,
) -> st.SearchStrategy[TrainingRun]:
    def read(digits: Digits, mlp: MLP) -> TrainingRun:
        mask = read_mask(digits, layers_of(mlp))
        where = read_cuts(digits, mlp, output=not learns)
        spec = read_optimizer(digits, classes, device, dtype, False)
        if not cuts:
            where = Cuts()
        if learns:
            reached = mlp.reached(where.positions, where.by)
            if not reached - frozenset(mask):
                mask = tuple(name for name in mask if name not in reached)
        groups, listed, freezing = digits.below(2), digits.below(2), digits.one_of(FREEZINGS)
        clearing = digits.one_of(("none", "none", "zeros", "keep"))
        steps, batch, seed = digits.below(max_steps), digits.one_of(BATCHES), digits.bits(2)
        smallest = 1
        if any(layer.norm == "batch" for layer in mlp.layers):
            smallest = 3  # BatchNorm refuses one row, and two rows say only their sign
        if spec.needs_closure and clearing == "keep":
            clearing = "none"  # gradients that add up within a step take LBFGS to infinity
        everything_frozen = len(mask) == len(mlp.parameter_names())
        return TrainingRun(
            network=mlp,
            frozen=mask,
            cuts=where,
            optimizer=spec,
            groups=1 if spec.needs_closure else groups + 1,
            listed="trainable" if listed and not everything_frozen else "all",
            freezing=freezing,
            clearing=clearing,
            steps=steps + 1,
            batch=max(smallest, batch),
            seed=seed,
        )

    reader = reader_of(nets)
    if reader is None:  # a strategy of the user's own
        return nets.flatmap(lambda mlp: read_as(_digits(mlp), lambda digits: read(digits, mlp)))
    most = reader.size + mask_digits(4 * max_depth) + CUT_DIGITS + OPTIMIZER_DIGITS + RUN_DIGITS
    network = reader.read
    return read_as(most, lambda digits: read(digits, network(digits)))


def _digits(mlp: MLP) -> int:
    names = len(mlp.parameter_names())
    return mask_digits(names) + CUT_DIGITS + OPTIMIZER_DIGITS + RUN_DIGITS
