"""What exact expectations must not let pass: flipped signs, and one parameter at one step.

The others that they must catch are with their subjects: one layer's gradient and the first
layer at depth 5 in ``backward``, decay of wide frozen parameters in ``optimizers``.
"""

from typing import Any, Dict, List, Tuple

import torch

from frostproof.properties.selftest.faults.fault import fault
from frostproof.properties.selftest.faults.optimizer_options import GRADIENTS
from frostproof.properties.selftest.faults.patching import (
    all_live,
    count_step,
    gradients_hidden,
    near,
    optimizer_classes,
    option_seen_as,
    trained,
    wrap,
)

# Optimizer, option, options with which a value ends at the last number on a healthy torch.
FLIPS: Tuple[Tuple[str, str, Dict[str, Any], float], ...] = (
    ("SGD", "momentum", {"lr": 0.1, "momentum": 0.9}, 0.389414),
    ("SGD", "dampening", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}, 0.43385545),
    ("AdamW", "weight_decay", {"lr": 0.1, "weight_decay": 0.5}, 0.379723406),
    ("RMSprop", "weight_decay", {"lr": 0.1, "weight_decay": 0.5}, -0.39860089),
    ("RMSprop", "momentum", {"lr": 0.1, "momentum": 0.5}, -1.71779076),
    ("Adagrad", "weight_decay", {"lr": 0.1, "weight_decay": 0.5}, 0.722921137),
    ("Adagrad", "lr_decay", {"lr": 0.1, "lr_decay": 0.1}, 0.861213919),
    ("Adamax", "weight_decay", {"lr": 0.1, "weight_decay": 0.5}, 0.623784689),
    ("NAdam", "weight_decay", {"lr": 0.1, "weight_decay": 0.5}, 0.601882578),
    ("RAdam", "weight_decay", {"lr": 0.1, "weight_decay": 0.5}, 0.562968794),
    ("Adafactor", "weight_decay", {"lr": 0.1, "weight_decay": 0.5}, 0.523982729),
)
SINCE = {"NAdam": (1, 10), "RAdam": (1, 10), "Adafactor": (2, 5)}


def _flip(optimizer: str, option: str, options: Dict[str, Any], healthy: float) -> None:
    def apply() -> None:
        option_seen_as(optimizer, option, lambda value: -value)

    def witness() -> bool:
        return near(trained(optimizer, *GRADIENTS, **options)[-1], healthy)

    apply.__name__ = f"{optimizer.lower()}_negates_{option}"
    apply.__doc__ = f"{optimizer} reads {option} with its sign flipped."
    fault("F3", witness=witness, since=SINCE.get(optimizer, (1, 8)))(apply)


for _optimizer, _option, _options, _healthy in FLIPS:
    _flip(_optimizer, _option, _options, _healthy)


def _all_move_at_step_4() -> bool:
    pair: List[torch.nn.Parameter] = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    live = torch.optim.RMSprop(pair, lr=0.1)
    for _ in range(4):
        before = [each.tolist() for each in pair]
        for each in pair:
            each.grad = torch.ones_like(each)
        live.step()
    return all(each.tolist() != old for each, old in zip(pair, before))


@fault("F3", witness=_all_move_at_step_4)
def every_optimizer_drops_one_at_step_4() -> None:
    """Every optimizer leaves one of its parameters, whichever, out of its fourth step only."""

    def around(step: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        live = all_live(self)
        chosen = live[sum(each.numel() for each in live) % len(live) :][:1] if live else []
        with gradients_hidden(chosen if count_step(self) == 4 else []):
            return step(self, *args, **kwargs)

    for found in optimizer_classes():
        if found is not torch.optim.LBFGS:  # it computes its gradients itself
            wrap(found, "step", around)


def _stale_moves(optimizer: str) -> bool:
    made = torch.nn.Parameter(torch.ones(1))
    live = getattr(torch.optim, optimizer)([made], lr=0.1)
    made.grad = torch.ones(1)
    made.requires_grad_(False)
    live.step(*([lambda: 1.0] if optimizer == "LBFGS" else []))
    return made.tolist() != [1.0]


@fault("F6", witness=lambda: _stale_moves("Adam"))
def optimizers_go_by_requires_grad() -> None:
    """Every optimizer leaves out what does not require grad, gradient or not."""

    def around(step: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        left_out = [each for each in all_live(self) if not each.requires_grad]
        with gradients_hidden(left_out):
            return step(self, *args, **kwargs)

    for found in optimizer_classes():
        if found is not torch.optim.LBFGS:
            wrap(found, "step", around)


@fault("F6", witness=lambda: _stale_moves("LBFGS"))
def lbfgs_goes_by_requires_grad() -> None:
    """LBFGS puts what does not require grad back where it was."""

    def around(step: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        still = [p for group in self.param_groups for p in group["params"] if not p.requires_grad]
        with torch.no_grad():
            kept = [torch.empty_like(each).copy_(each) for each in still]
            loss = step(self, *args, **kwargs)
            for each, value in zip(still, kept):
                each.copy_(value)
        return loss

    wrap(torch.optim.LBFGS, "step", around)


def _features_are_right() -> bool:
    layer = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(1.0)
        return layer(torch.ones(1, 1)).tolist() == [[1.0]]


@fault("F3", "F4", "K1", witness=_features_are_right)
def linear_differs_under_no_grad() -> None:
    """A linear layer's output is one part in a million off where grad mode is off."""

    def around(linear: Any, *args: Any, **kwargs: Any) -> Any:
        made = linear(*args, **kwargs)
        return made if torch.is_grad_enabled() else made * (1 + 1e-6)

    wrap(torch.nn.functional, "linear", around)
