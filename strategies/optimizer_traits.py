"""What is known of each optimizer of torch.optim: one record an optimizer.

Sources: the torch.optim documentation, checked by brute force; what is measured says so.
"""

from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, Tuple

ABSENT: Any = None  # not passed: the constructor's own default


@dataclass(frozen=True)
class OptimizerTraits:
    """One optimizer's facts, apart from "dense parameters of any shape, step() without arguments".

    known: it has a record here; others are tried with their defaults only.
    choices: where it reads an option's common name its own way (see ``optimizers.CHOICES``).
    closure: ``step`` wants a function that computes loss and gradients again.
    sparse: ``step`` refuses dense gradients. matrices: it takes 2-D parameters only.
    mixes: its step of one element depends on the others.
    squares: it keeps squares of gradients, which vanish in float16.
    scaled_steps: its fused kernels undo GradScaler's scale, and leave the step out, by themselves.
    eager_state: it makes its state when it is built, and lacks it for a group added later.
    casts_state: loading a state casts its float32 scalars to the parameters' dtype.
    remembers_rate: it knows the rate of the step before, or of the first alone, so that no rule
    says when a new one acts.
    unfit: names of dtypes in which ordinary training with it makes NaN (drawn only by name).
    """

    known: bool = True
    choices: Mapping[str, Tuple[Any, ...]] = field(default_factory=dict)
    closure: bool = False
    sparse: bool = False
    matrices: bool = False
    mixes: bool = False
    squares: bool = True
    scaled_steps: bool = False
    eager_state: bool = False
    casts_state: bool = False
    remembers_rate: bool = False
    unfit: Tuple[str, ...] = ()


TRAITS: Dict[str, OptimizerTraits] = {
    "ASGD": OptimizerTraits(squares=False, casts_state=True, remembers_rate=True),
    "Adadelta": OptimizerTraits(choices={"lr": (0.1, 1.0, 0.01)}),
    # eps is a pair, whose first value depends on the dtype by itself
    "Adafactor": OptimizerTraits(choices={"eps": (ABSENT,)}, mixes=True),
    "Adagrad": OptimizerTraits(scaled_steps=True, eager_state=True),
    "Adam": OptimizerTraits(scaled_steps=True),
    "AdamW": OptimizerTraits(scaled_steps=True),
    "Adamax": OptimizerTraits(squares=False),
    # in float16 y.y underflows and the step is infinite (in a third of small runs, torch 2.13)
    # maximize (since 2.14): a loss without a bound soon is infinite, and its direction, which mixes all
    # parameters, is NaN even where the gradient is zero
    "LBFGS": OptimizerTraits(
        choices={"lr": (0.1, 0.01), "maximize": (ABSENT,)},
        closure=True,
        mixes=True,
        unfit=("float16",),
    ),
    # works in bfloat16, whatever the dtype
    "Muon": OptimizerTraits(choices={"eps": (ABSENT,)}, matrices=True, mixes=True),
    "NAdam": OptimizerTraits(casts_state=True),
    "RAdam": OptimizerTraits(),
    "RMSprop": OptimizerTraits(),
    "Rprop": OptimizerTraits(squares=False, remembers_rate=True),
    "SGD": OptimizerTraits(squares=False, scaled_steps=True),
    "SparseAdam": OptimizerTraits(sparse=True),
}
UNKNOWN = OptimizerTraits(known=False)


def traits_of(name: str) -> OptimizerTraits:
    """The record of an optimizer; one that is not known has the ordinary traits."""
    return TRAITS.get(name, UNKNOWN)
