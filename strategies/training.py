"""A whole training run as plain values: net, mask, cuts, optimizer, data, steps."""

from dataclasses import dataclass
from typing import FrozenSet, Optional, Tuple

import torch
from hypothesis import strategies as st

from strategies.detaching import Cuts, detach_positions
from strategies.freezing import Mask, freeze_masks
from strategies.networks import MLP, mlps
from strategies.optimizers import OptimizerSpec, optimizers

CLEARINGS = ("none", "zeros", "keep")  # how gradients are cleared between steps
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
        return self.network.reached(self.cuts.positions, self.cuts.by) - frozenset(self.frozen)

    def data(
        self, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets in [-1.5, 1.5), drawn on the CPU from ``seed`` alone."""
        generator = torch.Generator()
        generator.manual_seed(self.seed + 1_000_003)
        width = self.network.width_at(self.network.depth)
        inputs, targets = (
            torch.rand(self.batch, features, generator=generator, dtype=torch.float64) * 3 - 1.5
            for features in (self.network.inputs, width)
        )
        return inputs.to(device=device, dtype=dtype), targets.to(device=device, dtype=dtype)


@st.composite
def training_runs(
    draw: st.DrawFn,
    *,
    networks: Optional[st.SearchStrategy] = None,
    optimizer: Optional[st.SearchStrategy] = None,
    cuts: bool = True,
    learns: bool = False,
    max_steps: int = 5,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> TrainingRun:
    """Training runs whose options are valid on the given device and dtype.

    learns: True leaves at least one parameter that gets a gradient.
    Shrinks towards one SGD step on one pair, one linear layer, nothing frozen or cut.
    """
    mlp = draw(mlps() if networks is None else networks)
    mask = draw(freeze_masks(mlp))
    where = draw(detach_positions(mlp, output=not learns)) if cuts else Cuts()
    spec = draw(optimizers(device=device, dtype=dtype) if optimizer is None else optimizer)
    if learns:
        reached = mlp.reached(where.positions, where.by)
        if not reached - frozenset(mask):
            mask = tuple(name for name in mask if name not in reached)
    packed = draw(st.integers(0, 2 * 2 * 2 * 4 * 8 * max_steps - 1))
    packed, groups = divmod(packed, 2)
    packed, listed = divmod(packed, 2)
    packed, freezing = divmod(packed, 2)
    packed, clearing = divmod(packed, 4)
    steps, batch = divmod(packed, 8)
    smallest = 1
    if any(layer.norm == "batch" for layer in mlp.layers):
        smallest = 3  # BatchNorm refuses one row, and two rows say only their sign
    everything_frozen = len(mask) == len(mlp.parameter_names())
    return TrainingRun(
        network=mlp,
        frozen=mask,
        cuts=where,
        optimizer=spec,
        groups=1 if spec.needs_closure else groups + 1,
        listed="trainable" if listed and not everything_frozen else "all",
        freezing=FREEZINGS[freezing],
        clearing=CLEARINGS[max(0, clearing - 1)],
        steps=steps + 1,
        batch=max(smallest, batch + 1),
        seed=draw(st.integers(0, 1023)),
    )
