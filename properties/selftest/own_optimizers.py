"""Optimizers as third parties write them: right ones of many kinds, and some that break a law.

Those whose names end in Float32 break it there alone.
"""

from typing import Any, Callable, Dict, List, Tuple

import torch

from frostproof.properties.selftest.recipes.machinery import KeepsDecaying, Lookahead, SharpnessAware

Factory = Callable[[Any], Any]
RIGHT: Dict[str, Factory] = {}
BROKEN: Dict[str, Tuple[Factory, str]] = {}  # the law's test that must fail


def right(factory: Factory) -> Factory:
    RIGHT[factory.__name__] = factory
    return factory


def broken(test: str) -> Callable[[Factory], Factory]:
    def register(factory: Factory) -> Factory:
        BROKEN[factory.__name__] = (factory, test)
        return factory

    return register


class Own(torch.optim.Optimizer):
    """What they have in common: options, a loop over the parameters, one rule for each."""

    skips_none = True

    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, {"lr": 0.01, "weight_decay": 0.1, **options})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None or not self.skips_none:
                    self.update(p, group, self.state[p])
        return loss

    def update(self, p: Any, group: Dict[str, Any], state: Dict[str, Any]) -> None:
        raise NotImplementedError


@right
class Lion(Own):
    """The sign of a momentum."""

    def update(self, p: Any, group: Dict[str, Any], state: Dict[str, Any]) -> None:
        if not state:
            state["momentum"] = torch.zeros_like(p)
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.add_(torch.sign(state["momentum"] * 0.9 + p.grad * 0.1), alpha=-group["lr"])
        state["momentum"].mul_(0.99).add_(p.grad, alpha=0.01)


@right
class Lamb(Own):
    """Adam, with each layer's step scaled to its weights."""

    def update(self, p: Any, group: Dict[str, Any], state: Dict[str, Any]) -> None:
        if not state:
            state.update(step=0, first=torch.zeros_like(p), second=torch.zeros_like(p))
        state["step"] += 1
        state["first"].mul_(0.9).add_(p.grad, alpha=0.1)
        state["second"].mul_(0.999).addcmul_(p.grad, p.grad, value=0.001)
        move = state["first"] / (state["second"].sqrt() + 1e-6) + group["weight_decay"] * p
        size, norm = float(p.norm()), float(move.norm())
        p.sub_(move, alpha=group["lr"] * (size / norm if size and norm else 1.0))


@right
class WarmsUp(Own):
    """Its first step is of length 0."""

    def update(self, p: Any, group: Dict[str, Any], state: Dict[str, Any]) -> None:
        state["step"] = state.get("step", -1) + 1
        p.sub_(p.grad, alpha=group["lr"] * min(1.0, state["step"] / 3))


@right
class ShorterThanFloat32Keeps(Own):
    """Its steps round away in float32 wherever a value is not tiny."""

    def update(self, p: Any, group: Dict[str, Any], state: Dict[str, Any]) -> None:
        p.sub_(torch.sign(p.grad), alpha=1e-10)


@right
class Float32Only(Own):
    """Keeps what it remembers in float32, and cannot mix it with anything else."""

    def update(self, p: Any, group: Dict[str, Any], state: Dict[str, Any]) -> None:
        state.setdefault("momentum", torch.zeros_like(p, dtype=torch.float32)).lerp_(p.grad, 0.1)
        p.sub_(state["momentum"], alpha=group["lr"])


@right
class MatricesOnly(Own):
    """Refuses what is not 2-D, and knows no groups."""

    def __init__(self, params: Any) -> None:
        params = list(params)
        if any(p.dim() != 2 for p in params):
            raise ValueError("only matrices")
        super().__init__(params)

    def update(self, p: Any, group: Dict[str, Any], state: Dict[str, Any]) -> None:
        p.sub_(p.grad / (p.grad.norm() + 1e-8), alpha=group["lr"])


@right
class OneGroupOnly(Own):
    """Refuses a second group."""

    def __init__(self, params: Any) -> None:
        super().__init__(params)
        if len(self.param_groups) > 1:
            raise ValueError("one group only")

    def update(self, p: Any, group: Dict[str, Any], state: Dict[str, Any]) -> None:
        p.sub_(p.grad, alpha=group["lr"])


@right
class TrainableOnly(Own):
    """Leaves out what is frozen when it is made, and refuses to hold nothing."""

    def __init__(self, params: Any) -> None:
        super().__init__([p for p in params if p.requires_grad])

    def update(self, p: Any, group: Dict[str, Any], state: Dict[str, Any]) -> None:
        p.sub_(p.grad, alpha=group["lr"])


@right
class StepsAsAWhole(Own):
    """Wants a closure, measures all that it holds at once, and counts with whatever comes first."""

    @torch.no_grad()
    def step(self, closure: Any) -> Any:  # type: ignore[override]
        loss = torch.enable_grad()(closure)()
        every = [p for group in self.param_groups for p in group["params"]]
        state = self.state[every[0]]
        state["step"] = state.get("step", 0) + 1
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in every]
        size = torch.cat([gradient.reshape(-1) for gradient in gradients]).square().sum().sqrt() + 1e-3
        for p, gradient in zip(every, gradients):
            p.sub_(gradient / size, alpha=0.01)
        return loss


@right
def sharpness_aware(params: Any) -> Any:
    return SharpnessAware(params, torch.optim.SGD, lr=0.1)


class Slow(Lookahead):
    """Lookahead, with what saving and loading needs."""

    @property
    def state(self) -> Any:
        return self.fast.state

    def _slow(self) -> List[torch.Tensor]:
        return [self.slow[p] for g in self.param_groups for p in g["params"]]

    def state_dict(self) -> Any:
        slow = [value.clone() for value in self._slow()]
        return {"fast": self.fast.state_dict(), "slow": slow, "count": self.count}

    def load_state_dict(self, saved: Any) -> None:
        self.fast.load_state_dict(saved["fast"])
        self.param_groups, self.count = self.fast.param_groups, saved["count"]
        for value, was in zip(self._slow(), saved["slow"]):
            value.copy_(was)


class SlowWhereItTrains(Slow):
    """Looks ahead only where there is a gradient."""

    @torch.no_grad()
    def step(self) -> None:
        all_of_them = self.slow
        self.slow = {p: slow for p, slow in all_of_them.items() if p.grad is not None}
        super().step()
        self.slow = all_of_them


@right
def slow_and_fast(params: Any) -> Any:
    return SlowWhereItTrains(torch.optim.AdamW(params, 0.01))


@broken("test_frozen_midway_stay")
def slow_weights_pull_at_what_is_frozen(params: Any) -> Any:
    return Slow(torch.optim.AdamW(params, 0.01))


@broken("test_frozen_stay")
def decays_what_is_frozen(params: Any) -> Any:
    return KeepsDecaying(params)


@broken("test_frozen_stay")
class TakesNoneForZero(Own):
    """Momentum and weight decay go on without a gradient."""

    skips_none = False

    def update(self, p: Any, group: Dict[str, Any], state: Dict[str, Any]) -> None:
        gradient = torch.zeros_like(p) if p.grad is None else p.grad
        state["momentum"] = state.get("momentum", 0) * 0.9 + gradient + group["weight_decay"] * p
        p.sub_(state["momentum"], alpha=group["lr"])


@broken("test_frozen_stay")
class KeepsStateForFrozen(Lion):
    """Makes state for everything in its first step."""

    skips_none = False

    def update(self, p: Any, group: Dict[str, Any], state: Dict[str, Any]) -> None:
        if not state:
            state["momentum"] = torch.zeros_like(p)
        if p.grad is not None:
            super().update(p, group, state)


@broken("test_frozen_midway_stay")
class RemembersItsMomentum(Own):
    """What has momentum moves on, with a gradient or without."""

    skips_none = False

    def update(self, p: Any, group: Dict[str, Any], state: Dict[str, Any]) -> None:
        if p.grad is not None:
            state["momentum"] = state.get("momentum", 0) * 0.9 + p.grad
        if "momentum" in state:
            p.sub_(state["momentum"], alpha=group["lr"])


@broken("test_the_rest_moves")
class ForgetsTheLast(Own):
    """Counts its parameters wrongly."""

    def update(self, p: Any, group: Dict[str, Any], state: Dict[str, Any]) -> None:
        if p is not group["params"][-1]:
            p.sub_(p.grad, alpha=group["lr"])


@broken("test_the_rest_moves")
class ForgetsTheLastInFloat32(ForgetsTheLast):
    """Counts its parameters wrongly where they are float32."""

    def update(self, p: Any, group: Dict[str, Any], state: Dict[str, Any]) -> None:
        if p.dtype is torch.float32:
            super().update(p, group, state)
        else:
            p.sub_(p.grad, alpha=group["lr"])


@broken("test_listing_frozen_ones_changes_nothing")
class DividesByTheCount(Own):
    """Its step is shorter the more it holds."""

    def update(self, p: Any, group: Dict[str, Any], state: Dict[str, Any]) -> None:
        p.sub_(p.grad, alpha=group["lr"] / len(group["params"]))


@broken("test_saving_midway_changes_nothing")
class KeepsMomentumToItself(Own):
    """Its momentum is not in its state, and is not saved."""

    def update(self, p: Any, group: Dict[str, Any], state: Dict[str, Any]) -> None:
        mine: Any = self.__dict__.setdefault("mine", {})
        mine[p] = mine.get(p, 0) * 0.9 + p.grad
        p.sub_(mine[p], alpha=group["lr"])


@broken("test_saving_midway_changes_nothing")
class CountsToItself(Own):
    """Every sixth step is a long one, by a count that is not saved."""

    def step(self, closure: Any = None) -> Any:
        self.count = getattr(self, "count", 0) + 1
        return super().step(closure)

    def update(self, p: Any, group: Dict[str, Any], state: Dict[str, Any]) -> None:
        p.sub_(p.grad, alpha=group["lr"] * (10 if self.count % 6 == 0 else 1))
