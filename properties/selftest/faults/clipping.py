"""What stands between backward and step: clipping, scaling, clearing."""

import math
from typing import Any, List

import torch

from frostproof.properties.selftest.faults.fault import fault
from frostproof.properties.selftest.faults.patching import all_live, near, parameter, wrap

UTILS = torch.nn.utils


def _clipped(largest: float, kind: float) -> List[float]:
    """Gradients of 3 and 4 after clipping; the 2-norm of both is 5."""
    pair = [parameter(1.0, grad=3.0), parameter(1.0, grad=4.0)]
    UTILS.clip_grad_norm_(pair, largest, norm_type=kind)
    return [each.grad.tolist()[0] for each in pair]  # type: ignore[union-attr]


def _clipping(around: Any) -> None:
    wrap(UTILS, "clip_grad_norm_", around)


@fault("F9", witness=lambda: near(_clipped(2.0, math.inf)[1], 2.0))
def clipping_takes_the_two_norm_for_the_largest() -> None:
    """clip_grad_norm_ takes the 2-norm where it was asked for the largest."""

    def around(clip: Any, given: Any, largest: Any, norm_type: float = 2.0, **options: Any) -> Any:
        return clip(given, largest, 2.0 if norm_type == math.inf else norm_type, **options)

    _clipping(around)


@fault("F9", witness=lambda: near(_clipped(1.0, 2.0)[0], 0.6))
def clipping_goes_by_each_parameter() -> None:
    """clip_grad_norm_ clips each gradient by its own norm instead of that of all."""

    def around(clip: Any, given: Any, *args: Any, **options: Any) -> Any:
        found = [clip([each], *args, **options) for each in given if each.grad is not None]
        return max(found)

    _clipping(around)


SCALER = getattr(getattr(torch, "amp", None), "GradScaler", None)
SCALER_SINCE = (2, 3)


def _scaled(gradient: float, by_hand: bool) -> float:
    """Where a parameter of 1 ends after a scaled step with a gradient, its scale being 4."""
    assert SCALER is not None
    made = parameter(1.0, dtype=torch.float32)
    live = torch.optim.SGD([made], lr=0.5)
    scaler = SCALER("cpu", init_scale=4.0)
    scaler.scale((made * gradient).sum()).backward()
    if by_hand:
        scaler.unscale_(live)
    scaler.step(live)
    return made.tolist()[0]


@fault("F9", witness=lambda: _scaled(math.inf, False) == 1.0, since=SCALER_SINCE)
def grad_scaler_steps_on_overflow() -> None:
    """GradScaler.step takes the step although a gradient is infinite."""

    def around(step: Any, self: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        step(self, optimizer, *args, **kwargs)
        gradients = [each.grad for each in all_live(optimizer)]
        infinite = [g for g in gradients if g is not None and not bool(g.isfinite().all())]
        return optimizer.step(*args, **kwargs) if infinite else None

    wrap(SCALER, "step", around)


@fault("F9", witness=lambda: _scaled(1.0, True) == 0.5, since=SCALER_SINCE)
def grad_scaler_unscales_twice() -> None:
    """GradScaler.step divides by the scale again where unscale_ has done it."""

    def around(step: Any, self: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        stage = self._per_optimizer_states[id(optimizer)]["stage"]
        if stage.name == "UNSCALED":
            for each in all_live(optimizer):
                each.grad.div_(self.get_scale())  # type: ignore[union-attr]
        return step(self, optimizer, *args, **kwargs)

    wrap(SCALER, "step", around)


def _module_clears() -> bool:
    layer = torch.nn.Linear(1, 1)
    layer(torch.ones(1, 1)).sum().backward()
    layer.weight.requires_grad_(False)
    layer.zero_grad(set_to_none=True)
    return layer.weight.grad is None


@fault("F6", "F9", witness=_module_clears)
def module_zero_grad_skips_frozen() -> None:
    """Module.zero_grad leaves the stale gradient of a parameter frozen midway."""

    def around(zero_grad: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        kept = [(each, each.grad) for each in self.parameters() if not each.requires_grad]
        zero_grad(self, *args, **kwargs)
        for each, gradient in kept:
            each.grad = gradient

    wrap(torch.nn.Module, "zero_grad", around)


def _norm_of_nothing() -> bool:
    try:
        return float(torch.nn.utils.clip_grad_norm_([torch.nn.Parameter(torch.ones(1))], 1.0)) == 0.0
    except RuntimeError:
        return False


@fault("F9", witness=_norm_of_nothing)
def clipping_nothing_raises() -> None:
    """clip_grad_norm_ raises where no parameter has a gradient."""

    def around(clip: Any, parameters: Any, *args: Any, **options: Any) -> Any:
        found = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
        if all(parameter.grad is None for parameter in found):
            raise RuntimeError("stack expects a non-empty TensorList")
        return clip(found, *args, **options)

    wrap(torch.nn.utils, "clip_grad_norm_", around)
