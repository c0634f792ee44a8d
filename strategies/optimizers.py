"""Every optimizer of torch.optim with valid options, as data."""

import inspect
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from hypothesis import strategies as st


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer class of ``torch.optim`` and its options, sorted by name."""

    name: str
    options: Tuple[Tuple[str, Any], ...] = ()

    def build(self, params: Any) -> torch.optim.Optimizer:
        """The live optimizer over parameters or parameter groups."""
        optimizer: torch.optim.Optimizer = getattr(torch.optim, self.name)(
            params, **dict(self.options)
        )
        return optimizer

    @property
    def needs_closure(self) -> bool:
        return self.name == "LBFGS"

    @property
    def sparse_only(self) -> bool:
        return self.name == "SparseAdam"

    @property
    def matrices_only(self) -> bool:
        return self.name == "Muon"


def optimizer_names() -> Tuple[str, ...]:
    """Every optimizer class that the installed torch has; SGD first, as the simplest."""
    found = sorted(
        name
        for name, value in vars(torch.optim).items()
        if inspect.isclass(value)
        and issubclass(value, torch.optim.Optimizer)
        and value is not torch.optim.Optimizer
    )
    return ("SGD", *(name for name in found if name != "SGD"))


# Values to try for each option; the first is the simplest, and what shrinking ends at.
CHOICES: Dict[str, Tuple[Any, ...]] = {
    "lr": (0.1, 0.01, 0.001),
    "momentum": (0.0, 0.9, 0.5),
    "dampening": (0.0, 0.5),
    "weight_decay": (0.0, 0.1, 0.01),
    "nesterov": (False, True),
    "maximize": (False, True),
    "amsgrad": (False, True),
    "centered": (False, True),
    "decoupled_weight_decay": (False, True),
    "betas": ((0.9, 0.999), (0.5, 0.9), (0.0, 0.5)),
    "alpha": (0.99, 0.5),
    "rho": (0.9, 0.5),
    "lr_decay": (0.0, 0.1),
    "initial_accumulator_value": (0.0, 0.5),
    "momentum_decay": (0.004, 0.1),
    "etas": ((0.5, 1.2), (0.3, 1.5)),
    "lambd": (0.0001, 0.1),
    "t0": (1e6, 1.0),
    "history_size": (10, 2),
    "max_iter": (2, 5),
    "line_search_fn": (None, "strong_wolfe"),
}
# Where an optimizer reads a common name its own way.
CHOICES_OF: Dict[str, Dict[str, Tuple[Any, ...]]] = {
    "ASGD": {"alpha": (0.75, 0.5)},
    "Muon": {"momentum": (0.95, 0.5)},
    "LBFGS": {"lr": (0.1, 0.01)},
}
# How the update is computed. Differentiable refuses leaves that require grad
# outside no_grad, where training never is: it is left at its default.
IMPLEMENTATIONS = ("default", "foreach", "for-loop", "fused")


def _parameter_names(name: str) -> Tuple[str, ...]:
    return tuple(inspect.signature(getattr(torch.optim, name).__init__).parameters)


@lru_cache(maxsize=None)
def implementations(name: str, device: str, dtype: torch.dtype) -> Tuple[str, ...]:
    """The implementations of an optimizer that one step on this device and dtype accepts."""
    known = _parameter_names(name)
    found: List[str] = ["default"]
    for implementation in IMPLEMENTATIONS[1:]:
        options = _implementation_options(implementation)
        if not set(options) <= set(known):
            continue
        try:
            parameter = torch.nn.Parameter(torch.ones(2, 2, dtype=dtype, device=device))
            parameter.grad = torch.ones(2, 2, dtype=dtype, device=device)
            getattr(torch.optim, name)([parameter], lr=0.1, **options).step()
        except (RuntimeError, ValueError, NotImplementedError):
            continue
        found.append(implementation)
    return tuple(found)


def _implementation_options(implementation: str) -> Dict[str, bool]:
    if implementation == "fused":
        return {"fused": True}
    if implementation == "foreach":
        return {"foreach": True}
    return {"foreach": False} if implementation == "for-loop" else {}


@lru_cache(maxsize=None)
def _choices(name: str) -> Tuple[Tuple[str, Tuple[Any, ...]], ...]:
    own = CHOICES_OF.get(name, {})
    return tuple(
        (option, own.get(option, CHOICES[option]))
        for option in _parameter_names(name)
        if option in CHOICES
    )


def _smallest_eps(dtype: torch.dtype) -> Optional[float]:
    """An eps that the dtype can tell from zero: 1e-8 vanishes in float16 and divides 0 by 0."""
    return 1e-4 if dtype is torch.float16 else None


@st.composite
def optimizers(
    draw: st.DrawFn,
    *,
    names: Optional[Sequence[str]] = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> OptimizerSpec:
    """Optimizers of the installed torch for dense parameters, with options valid on a device.

    names: only these classes. SparseAdam, which refuses dense gradients, is drawn
    only where it is named. Shrinks towards plain SGD with lr 0.1.
    """
    classes = tuple(names) if names else tuple(n for n in optimizer_names() if n != "SparseAdam")
    name = classes[draw(st.integers(0, len(classes) - 1))]
    choices = _choices(name)
    size = 1
    for _, values in choices:
        size *= len(values)
    ways = ("default",) if name in ("LBFGS", "SparseAdam") else implementations(name, device, dtype)
    packed = draw(st.integers(0, size * len(ways) - 1))
    packed, way = divmod(packed, len(ways))
    options: Dict[str, Any] = {}
    for option, values in choices:
        packed, index = divmod(packed, len(values))
        options[option] = values[index]
    options.update(_implementation_options(ways[way]))
    if options.get("nesterov") and name == "SGD":
        options["momentum"] = options["momentum"] or 0.9
        options["dampening"] = 0.0
    eps = _smallest_eps(dtype)
    if eps is not None and "eps" in _parameter_names(name) and name != "Adafactor":
        options["eps"] = eps
    return OptimizerSpec(name, tuple(sorted(options.items())))
