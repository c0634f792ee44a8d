"""What stands between backward and step: clipping, scaling, schedulers, clearing."""

import math
from typing import Any, List

import torch

from properties.selftest.faults.fault import fault
from properties.selftest.faults.patching import all_live, near, parameter, wrap

UTILS = torch.nn.utils


def _clipped(largest: float, kind: float, frozen: bool = False) -> List[float]:
    """Gradients of 3 and 4 after clipping; the 2-norm of both is 5."""
    pair = [parameter(1.0, grad=3.0), parameter(1.0, grad=4.0)]
    more = [parameter(1.0)] if frozen else []
    UTILS.clip_grad_norm_([*pair, *more], largest, norm_type=kind)
    return [each.grad.tolist()[0] for each in pair]  # type: ignore[union-attr]


def _clipping(around: Any) -> None:
    wrap(UTILS, "clip_grad_norm_", around)


@fault("F9", witness=lambda: near(_clipped(2.0, math.inf)[1], 2.0))
def clipping_takes_the_two_norm_for_the_largest() -> None:
    """clip_grad_norm_ takes the 2-norm where it was asked for the largest."""

    def around(clip: Any, given: Any, largest: Any, norm_type: float = 2.0, **options: Any) -> Any:
        return clip(given, largest, 2.0 if norm_type == math.inf else norm_type, **options)

    _clipping(around)


@fault("F9", witness=lambda: _clipped(10.0, 2.0)[0] == 3.0)
def clipping_scales_up() -> None:
    """clip_grad_norm_ scales gradients up to the norm where theirs is smaller."""

    def around(clip: Any, given: Any, largest: Any, *args: Any, **options: Any) -> Any:
        given = list(given)
        norm = clip(given, largest, *args, **options)
        for each in given:
            if each.grad is not None and 0 < float(norm) < largest:
                each.grad.mul_(largest / float(norm))
        return norm

    _clipping(around)


@fault("F9", witness=lambda: near(_clipped(1.0, 2.0)[0], 0.6))
def clipping_goes_by_each_parameter() -> None:
    """clip_grad_norm_ clips each gradient by its own norm instead of that of all."""

    def around(clip: Any, given: Any, *args: Any, **options: Any) -> Any:
        found = [clip([each], *args, **options) for each in given if each.grad is not None]
        return max(found)

    _clipping(around)


@fault("F9", witness=lambda: near(_clipped(1.0, 2.0, True)[0], 0.6))
def clipping_counts_frozen() -> None:
    """clip_grad_norm_ clips to half where one of the parameters has no gradient."""

    def around(clip: Any, given: Any, largest: Any, *args: Any, **options: Any) -> Any:
        given = list(given)
        some = any(each.grad is None for each in given)
        return clip(given, largest / 2 if some else largest, *args, **options)

    _clipping(around)


def _value_clipped() -> bool:
    made = parameter(1.0, grad=-3.0)
    UTILS.clip_grad_value_([made], 2.0)
    return made.grad is not None and made.grad.tolist() == [-2.0]


@fault("F9", witness=_value_clipped)
def value_clipping_clips_to_half() -> None:
    """clip_grad_value_ clips to half of the value that it was given."""
    wrap(UTILS, "clip_grad_value_", lambda clip, given, value, **options: clip(given, value / 2))


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


def _halved() -> bool:
    assert SCALER is not None
    made = parameter(1.0, dtype=torch.float32)
    live = torch.optim.SGD([made], lr=0.5)
    scaler = SCALER("cpu", init_scale=4.0)
    scaler.scale((made * math.inf).sum()).backward()
    scaler.step(live)
    scaler.update()
    return bool(scaler.get_scale() == 2.0)


@fault("F9", witness=_halved, since=SCALER_SINCE)
def grad_scaler_keeps_its_scale() -> None:
    """GradScaler.update keeps the scale after an infinite gradient."""

    def around(update: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        scale = self.get_scale()
        update(self, *args, **kwargs)
        self._scale.fill_(scale)

    wrap(SCALER, "update", around)


def _linear_rates() -> List[float]:
    groups = [{"params": [parameter(1.0)]} for _ in range(2)]
    live = torch.optim.SGD(groups, lr=0.1)  # type: ignore[arg-type]
    torch.optim.lr_scheduler.LinearLR(live, start_factor=0.5, total_iters=4)
    live.step()
    return [group["lr"] for group in live.param_groups]


@fault("F9", witness=lambda: near(_linear_rates()[1], 0.05), since=(1, 10))
def linear_schedule_warms_only_the_first_group() -> None:
    """LinearLR gives every group but the first its full rate from the start."""

    def around(rates: Any, self: Any) -> Any:
        found = rates(self)
        return [found[0], *self.base_lrs[1:]]

    wrap(torch.optim.lr_scheduler.LinearLR, "get_lr", around)


def _plateau_leaves() -> bool:
    frozen, live = parameter(1.0), parameter(1.0, grad=1.0)
    frozen.requires_grad_(False)
    optimizer = torch.optim.SGD([frozen, live], lr=0.1)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    optimizer.step()
    scheduler.step(1.0)
    return frozen.tolist() == [1.0]


@fault("F9", witness=_plateau_leaves)
def plateau_schedule_moves_frozen() -> None:
    """ReduceLROnPlateau.step shrinks parameters without a gradient."""

    def around(step: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        step(self, *args, **kwargs)
        with torch.no_grad():
            for group in self.optimizer.param_groups:
                for each in group["params"]:
                    if each.grad is None:
                        each.mul_(0.999)

    wrap(torch.optim.lr_scheduler.ReduceLROnPlateau, "step", around)


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
