"""Every optimizer of torch.optim with valid options, as data.

What exists is asked of the installed torch: classes in ``torch.optim``, options by building
with them. What to try, and what excludes what, are the tables
below and the records in ``optimizer_traits``. Source of the tables: the torch.optim
documentation, checked by brute force.
"""

import inspect
import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import torch
from hypothesis import strategies as st

from frostproof.strategies.capabilities import accepts, refuses
from frostproof.strategies.digits import Digits, read_as
from frostproof.strategies.optimizer_traits import ABSENT, UNKNOWN, OptimizerTraits, traits_of


@dataclass(frozen=True)
class OwnOptimizer:
    """How to make an optimizer that is not torch's, and what it wants.

    make: from parameters, or from parameter groups where ``groups`` says that it takes them.
    """

    make: Callable[..., torch.optim.Optimizer]
    traits: OptimizerTraits = UNKNOWN
    groups: bool = True


OWN: Dict[str, OwnOptimizer] = {}  # by name, beside those of torch.optim


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer class of ``torch.optim`` (or a name in ``OWN``) and its options, sorted by name."""

    name: str
    options: Tuple[Tuple[str, Any], ...] = ()

    def build(self, params: Any) -> torch.optim.Optimizer:
        """The live optimizer over parameters or parameter groups."""
        make = OWN[self.name].make if self.name in OWN else getattr(torch.optim, self.name)
        optimizer: torch.optim.Optimizer = make(params, **dict(self.options))
        return optimizer

    @property
    def traits(self) -> OptimizerTraits:
        """What is known of the class."""
        return OWN[self.name].traits if self.name in OWN else traits_of(self.name)

    @property
    def needs_closure(self) -> bool:
        """``step`` wants a function that computes the loss and its gradients again."""
        return self.traits.closure

    @property
    def sparse_only(self) -> bool:
        """``step`` refuses dense gradients."""
        return self.traits.sparse

    @property
    def matrices_only(self) -> bool:
        """The constructor refuses parameters that are not 2-D."""
        return self.traits.matrices


def optimizer_names() -> Tuple[str, ...]:
    """Every optimizer class that the installed torch has; SGD first, as the simplest."""
    found = sorted(
        name
        for name, value in vars(torch.optim).items()
        if not name.startswith("_")
        and inspect.isclass(value)
        and issubclass(value, torch.optim.Optimizer)
        and value is not torch.optim.Optimizer
    )
    return ("SGD", *(name for name in found if name != "SGD"))


# Values to try for each option; the first is the simplest, and what shrinking ends at.
CHOICES: Mapping[str, Tuple[Any, ...]] = {
    "lr": (0.1, 0.01, 0.001),
    "momentum": (ABSENT, 0.9, 0.5, 0.0),
    "dampening": (ABSENT, 0.5, 0.0),
    "weight_decay": (ABSENT, 0.1, 0.01, 0.0),
    "nesterov": (ABSENT, True, False),
    "maximize": (ABSENT, True),
    "amsgrad": (ABSENT, True),
    "centered": (ABSENT, True),
    "decoupled_weight_decay": (ABSENT, True),
    "betas": (ABSENT, (0.9, 0.999), (0.5, 0.9), (0.0, 0.9)),
    "eps": (ABSENT, 1e-6, 1e-3),
    "alpha": (ABSENT, 0.9, 0.5),
    "rho": (ABSENT, 0.5, 0.0),
    "lr_decay": (ABSENT, 0.1),
    "initial_accumulator_value": (ABSENT, 0.5),
    "momentum_decay": (ABSENT, 0.1, 0.0),
    "etas": (ABSENT, (0.3, 1.5)),
    "step_sizes": (ABSENT, (1e-3, 0.2)),
    "lambd": (ABSENT, 0.1),
    "t0": (ABSENT, 1.0),
    "beta2_decay": (ABSENT, -0.5),
    "d": (ABSENT, 2.0),
    "ns_steps": (ABSENT, 2),
    "adjust_lr_fn": (ABSENT, "original", "match_rms_adamw"),
    "max_iter": (2, 5),
    "history_size": (10, 2),
    "line_search_fn": (ABSENT, "strong_wolfe"),
}
# Where a dtype cannot hold a common value. float16 ends at 6e-8: an eps of 1e-8 is zero,
# and a zero gradient gives 0/0; with a small eps a second moment that underflows makes a
# step of lr * gradient / eps. Its centred variance turns negative by rounding: NaN.
CHOICES_IN: Mapping[str, Mapping[str, Tuple[Any, ...]]] = {
    "float16": {"eps": (1e-3, 1e-2), "centered": (ABSENT,)},
}


@dataclass(frozen=True)
class Constraint:
    """Where ``option`` has ``value``, the ``others`` may only have these values."""

    option: str
    value: Any
    others: Mapping[str, Tuple[Any, ...]]
    names: Tuple[str, ...] = ()  # none: every optimizer


CONSTRAINTS: Sequence[Constraint] = (
    # "Nesterov momentum requires a momentum and zero dampening"
    Constraint("nesterov", True, {"momentum": (0.9, 0.5), "dampening": (ABSENT, 0.0)}, ("SGD",)),
    # E[g^2] - E[g]^2 shrinks with alpha^steps, and by rounding it soon is negative
    Constraint("centered", True, {"alpha": (ABSENT,)}),
)

# How the update is computed: exclusive of each other. Left out: differentiable, which
# turns grad mode on inside step(), even under no_grad, and so refuses every parameter
# that is a leaf and requires grad ("a leaf Variable that requires grad is being used in
# an in-place operation"): measured with torch 2.13, every optimizer that has it. It has a
# law of its own, on what is no leaf: test_differentiable.py.
IMPLEMENTATIONS: Mapping[str, Mapping[str, bool]] = {
    "default": {},
    "for-loop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
    "capturable": {"capturable": True},
    "capturable-for-loop": {"capturable": True, "foreach": False},
    "capturable-foreach": {"capturable": True, "foreach": True},
    "capturable-fused": {"capturable": True, "fused": True},
}


@cache
def has_option(name: str, option: str, value: Any) -> bool:
    """Whether an optimizer can be built with an option: asked by building it, as it may be wrapped."""
    parameter = torch.nn.Parameter(torch.ones(1, 1))
    return accepts(lambda: getattr(torch.optim, name)([parameter], **{"lr": 0.1, option: value}))


def _wants_rate(name: str) -> bool:
    try:
        getattr(torch.optim, name)([torch.nn.Parameter(torch.ones(1, 1))])
    except Exception:
        return has_option(name, "lr", 0.1)
    return False


def _probe(name: str, device: str, dtype: torch.dtype, options: Mapping[str, Any]) -> None:
    """One step of the optimizer on a small matrix of ones."""
    parameter = torch.nn.Parameter(torch.ones(2, 2, dtype=dtype, device=device))
    gradient = torch.ones(2, 2, dtype=dtype, device=device)
    optimizer = OptimizerSpec(name, (("lr", 0.1), *sorted(options.items()))).build([parameter])
    if traits_of(name).sparse:
        gradient = gradient.to_sparse()
    parameter.grad = gradient
    if traits_of(name).closure:
        optimizer.step(lambda: 1.0)
    else:
        optimizer.step()


@cache
def implementations(name: str, device: str, dtype: torch.dtype) -> Tuple[str, ...]:
    """The implementations of an optimizer for a device and dtype; none: it cannot be used there.

    Each is tried once, when first asked for.
    """
    if not traits_of(name).known:
        return ("default",)
    found: List[str] = []
    for implementation, options in IMPLEMENTATIONS.items():
        if not all(has_option(name, *option) for option in options.items()):
            continue
        if options.get("capturable") and torch.device(device).type == "cpu":
            continue  # for graphs of an accelerator
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _probe(name, device, dtype, options)
        except Exception as problem:
            if refuses(problem):
                continue
        found.append(implementation)
    return tuple(found)


@cache
def choices(name: str, dtype: torch.dtype) -> Tuple[Tuple[str, Tuple[Any, ...]], ...]:
    """(option, values to try) of an optimizer of the installed torch."""
    if not traits_of(name).known:
        return (("lr", CHOICES["lr"]),) if _wants_rate(name) else ()
    table = {**CHOICES, **CHOICES_IN.get(str(dtype).rpartition(".")[2], {}), **traits_of(name).choices}
    given = {option: [v for v in values if v is not ABSENT] for option, values in table.items()}
    return tuple(
        (option, table[option])
        for option, values in given.items()
        if values and has_option(name, option, values[0])
    )


def constrained(name: str, options: Mapping[str, Any]) -> Dict[str, Any]:
    """The options with those that the constraints forbid replaced, and the absent ones left out."""
    result = dict(options)
    for constraint in CONSTRAINTS:
        if constraint.names and name not in constraint.names:
            continue
        if result.get(constraint.option) != constraint.value:
            continue
        for other, allowed in constraint.others.items():
            if other in result and result[other] not in allowed:
                result[other] = allowed[0]
    return {option: value for option, value in result.items() if value is not ABSENT}


@cache
def _ways(name: str, device: str, dtype: torch.dtype, capturable: bool) -> Tuple[str, ...]:
    return tuple(
        way
        for way in implementations(name, device, dtype)
        if capturable or not IMPLEMENTATIONS[way].get("capturable")
    )


@cache
def _usable(names: Tuple[str, ...], device: str, dtype: torch.dtype) -> Tuple[str, ...]:
    usable = tuple(name for name in names if implementations(name, device, dtype))
    if not usable:
        raise ValueError(
            f"none of {', '.join(names)} works with {dtype} on {device} in torch "
            f"{torch.__version__}: choose other names, another dtype or device"
        )
    return usable


OPTIMIZER_DIGITS = 16  # the class, the implementation, and up to 14 options


def read_options(digits: Digits, name: str, dtype: torch.dtype) -> Dict[str, Any]:
    """A value, or ABSENT, for each option of a class, from ``OPTIMIZER_DIGITS - 2`` bytes."""
    known = choices(name, dtype)
    options = {option: digits.one_of(values) for option, values in known}
    digits.skip(OPTIMIZER_DIGITS - 2 - len(known))
    return options


def read_optimizer(
    digits: Digits, names: Tuple[str, ...], device: str, dtype: torch.dtype, capturable: bool
) -> OptimizerSpec:
    """An optimizer of one of the classes, from ``OPTIMIZER_DIGITS`` bytes: see ``optimizers``."""
    name = digits.one_of(_usable(names, device, dtype))
    options = read_options(digits, name, dtype)
    way = IMPLEMENTATIONS[digits.one_of(_ways(name, device, dtype, capturable))]
    return OptimizerSpec(name, tuple(sorted({**constrained(name, options), **way}.items())))


@cache
def _ordinary(dtype: torch.dtype) -> Tuple[str, ...]:
    return tuple(
        name
        for name in optimizer_names()
        if not traits_of(name).sparse and str(dtype).rpartition(".")[2] not in traits_of(name).unfit
    )


def optimizer_classes(
    names: Optional[Sequence[str]], device: str, dtype: torch.dtype
) -> Tuple[str, ...]:
    """The classes to draw: ``names``, checked, or every one that fits; see ``optimizers``."""
    if names is None:
        return _ordinary(dtype)
    unknown = sorted(set(names) - set(optimizer_names()))
    if unknown or not names:
        raise ValueError(
            f"names={tuple(names)!r}: torch {torch.__version__} has {', '.join(optimizer_names())}"
        )
    return tuple(names)


def optimizers(
    *,
    names: Optional[Sequence[str]] = None,
    device: str = "cpu",
    dtype: Union[torch.dtype, str] = torch.float32,
    capturable: bool = False,
) -> st.SearchStrategy[OptimizerSpec]:
    """Optimizers of the installed torch, with options valid for a device and dtype.

    names: only these classes; by default all, but for SparseAdam, which refuses dense
    gradients, and LBFGS in float16: these are drawn only where they are named. Muon
    wants matrices only, LBFGS a closure: see ``OptimizerSpec``.
    capturable: also the implementations for an accelerator's graphs, where the device has
    them; they correct biases in float32 in every dtype, too rough for a reference rule.
    Shrinks towards plain SGD (or the first name) with lr alone.
    """
    if isinstance(dtype, str):
        dtype = getattr(torch, dtype)
        assert isinstance(dtype, torch.dtype)
    classes = optimizer_classes(names, device, dtype)
    return read_as(
        OPTIMIZER_DIGITS,
        lambda digits: read_optimizer(digits, classes, str(device), dtype, capturable),
    )
