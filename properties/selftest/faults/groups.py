"""Optimizers that go wrong by group, by time or by kind of parameter: seen only in a history."""

import copy
from typing import Any, Callable, List, Sequence

import torch

from frostproof.properties.selftest.faults.fault import fault
from frostproof.properties.selftest.faults.patching import (
    after_step,
    around_step,
    count_step,
    frozen_of,
    live_of,
    near,
    option_seen_as,
    parameter,
    trained,
    wrap,
)

SINCE = (2, 0)
AMSGRAD: Any = {"amsgrad": True, "betas": (0.5, 0.5)}


def _second_group_reads_first(optimizer: str, option: str) -> None:
    """During ``step`` every group has the first group's value of an option."""

    def around(step: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        kept = [group[option] for group in self.param_groups]
        for group in self.param_groups:
            group[option] = kept[0]
        try:
            return step(self, *args, **kwargs)
        finally:
            for group, value in zip(self.param_groups, kept):
                group[option] = value

    around_step(optimizer, around)


def _two_groups(optimizer: str, gradients: Sequence[float], second: Any, **options: Any) -> List[float]:
    """Where a parameter of each of two groups ends; ``second``: options of the second."""
    one, two = parameter(1.0), parameter(1.0)
    groups = [{"params": [one]}, {"params": [two], **second}]
    live = getattr(torch.optim, optimizer)(groups, **options)
    for gradient in gradients:
        for each in (one, two):
            each.grad = torch.full_like(each, gradient)
        live.step()
    return [each.tolist()[0] for each in (one, two)]


def _groups_differ(optimizer: str, second: Any, **options: Any) -> bool:
    ends = _two_groups(optimizer, (1.0, 0.1), second, **options)
    return not near(ends[0], ends[1])


@fault("F3", witness=lambda: _groups_differ("SGD", {"momentum": 0.0}, lr=0.1, momentum=0.9))
def sgd_second_group_has_first_momentum() -> None:
    """SGD steps every group with the first group's momentum."""
    _second_group_reads_first("SGD", "momentum")


@fault("F3", witness=lambda: _groups_differ("RMSprop", {"eps": 1e-2}, lr=0.1, eps=1e-8))
def rmsprop_second_group_has_first_eps() -> None:
    """RMSprop adds the first group's eps in every group."""
    _second_group_reads_first("RMSprop", "eps")


# Parameters that come late: unfrozen, or added as a group, after some steps.


def _late_end(optimizer: str, added: bool = False, **options: Any) -> float:
    """Where a parameter ends after two steps, three steps after another has begun."""
    early, late = parameter(1.0), parameter(1.0)
    late.requires_grad_(False)
    live = getattr(torch.optim, optimizer)([early] if added else [early, late], **options)
    for step in range(5):
        if step == 3:
            late.requires_grad_(True)
            if added:
                live.add_param_group({"params": [late]})
        early.grad = torch.ones_like(early)
        late.grad = torch.full_like(late, 0.1 if step == 4 else 1.0) if step > 2 else None
        live.step()
    return late.tolist()[0]


def _early_end(optimizer: str, **options: Any) -> float:
    """Where a parameter ends after the same two steps from the start."""
    return trained(optimizer, 1.0, 0.1, **options)[-1]


def _late_as_early(optimizer: str, added: bool = False, **options: Any) -> bool:
    return near(_late_end(optimizer, added, **options), _early_end(optimizer, **options), 1e-9)


def _late_takes_the_count(optimizer: str, applies: Callable[[Any], bool] = lambda g: True) -> None:
    """A parameter whose first gradient comes late has its step counted from the optimizer's start."""

    def around(step: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        number = count_step(self)
        fresh = [
            each
            for group in self.param_groups
            if applies(group)
            for each in live_of(group)
            if not self.state.get(each)
        ]
        loss = step(self, *args, **kwargs)
        for each in fresh if number > 1 else ():
            state = self.state[each]
            state["step"] = state["step"] * 0 + number
        return loss

    around_step(optimizer, around)


@fault("F3", witness=lambda: _late_as_early("RAdam", lr=0.1), since=(1, 10))
def radam_late_takes_the_count() -> None:
    """RAdam corrects the bias of a parameter unfrozen late by the steps of the others."""
    _late_takes_the_count("RAdam")


@fault("F3", witness=lambda: _late_as_early("Adam", lr=0.1, foreach=True), since=SINCE)
def adam_foreach_late_takes_the_count() -> None:
    """Adam corrects the bias of one unfrozen late by the others' steps, only with foreach."""
    _late_takes_the_count("Adam", lambda group: bool(group["foreach"]))


@fault("F3", witness=lambda: _late_as_early("RMSprop", added=True, lr=0.1))
def rmsprop_late_group_starts_from_one() -> None:
    """RMSprop starts the average of a group that is added late from one."""

    def around(step: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        later = [each for group in self.param_groups[1:] for each in live_of(group)]
        fresh = [each for each in later if not self.state.get(each)]
        number = count_step(self)
        loss = step(self, *args, **kwargs)
        for each in fresh if number > 1 else ():
            self.state[each]["square_avg"].add_(1.0)
        return loss

    around_step("RMSprop", around)


def _pause_changes_nothing(optimizer: str, **options: Any) -> bool:
    """Frozen between two steps, a parameter ends where it does without."""
    ends = []
    for pause in (0, 2):
        made, other = parameter(1.0), parameter(1.0)
        live = getattr(torch.optim, optimizer)([made, other], **options)
        for step in range(2 + pause):
            paused = 0 < step <= pause
            made.requires_grad_(not paused)
            other.grad = torch.ones_like(other)
            made.grad = None if paused else torch.full_like(made, 0.1 if step else 1.0)
            live.step()
        ends.append(made.tolist()[0])
    return ends[0] == ends[1]


@fault("F3", "F7", witness=lambda: _pause_changes_nothing("Adadelta", lr=1.0))
def adadelta_forgets_while_frozen() -> None:
    """Adadelta clears the average of a parameter that is frozen midway."""

    def around(step: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        for group in self.param_groups:
            for each in frozen_of(group):
                if self.state.get(each):
                    self.state[each]["square_avg"].zero_()
        return step(self, *args, **kwargs)

    around_step("Adadelta", around)


@fault("F3", "F9", witness=lambda: _early_is_kept())
def add_param_group_clears_state() -> None:
    """Optimizer.add_param_group clears the state of the parameters that were there before."""

    def around(add: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        add(self, *args, **kwargs)
        if len(self.param_groups) > 1:
            self.state.clear()

    wrap(torch.optim.Optimizer, "add_param_group", around)


def _early_is_kept() -> bool:
    one, two = parameter(1.0, grad=1.0), parameter(1.0)
    live = torch.optim.Adam([one], lr=0.1)
    live.step()
    live.add_param_group({"params": [two]})
    return bool(live.state[one])


# What load_state_dict must bring back.


def _reloaded(optimizer: str, fresh: Any, *gradients: float, **options: Any) -> bool:
    """The last step, taken by another optimizer of options ``fresh`` that has loaded the state."""
    straight = trained(optimizer, *gradients, **options)[-1]
    made = parameter(1.0)
    make = getattr(torch.optim, optimizer)
    live = make([made], **options)
    for place, gradient in enumerate(gradients):
        if place == len(gradients) - 1:
            saved = copy.deepcopy(live.state_dict())
            live = make([made], **{**options, **fresh})
            live.load_state_dict(saved)
        made.grad = torch.full_like(made, gradient)
        live.step()
    return made.tolist()[0] == straight


def _after_load(change: Callable[[Any], None]) -> None:
    def around(load: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        load(self, *args, **kwargs)
        change(self)

    wrap(torch.optim.Optimizer, "load_state_dict", around)


@fault("F3", "F9", witness=lambda: _reloaded("Adam", {}, 0.1, 0.3, 0.7, lr=0.1))
def load_state_dict_rounds_float64() -> None:
    """Optimizer.load_state_dict rounds float64 state to float32."""

    def change(optimizer: Any) -> None:
        for state in optimizer.state.values():
            for value in state.values():
                if torch.is_tensor(value) and value.dtype is torch.float64:
                    value.copy_(value.to(torch.float32))

    _after_load(change)


@fault("F3", "F9", witness=lambda: _reloaded("Adam", {}, 3.0, 0.1, 0.1, lr=0.1, **AMSGRAD))
def load_state_dict_drops_the_largest() -> None:
    """Optimizer.load_state_dict drops what amsgrad keeps: the largest second moment so far."""

    def change(optimizer: Any) -> None:
        for state in optimizer.state.values():
            if "max_exp_avg_sq" in state:
                state["max_exp_avg_sq"].zero_()

    _after_load(change)


@fault("F3", "F9", witness=lambda: _reloaded("SGD", {"lr": 0.7}, 1.0, 1.0, lr=0.1))
def load_state_dict_keeps_the_new_options() -> None:
    """Optimizer.load_state_dict restores the state, but not the options of the groups."""

    def around(load: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        kept = [{k: v for k, v in group.items() if k != "params"} for group in self.param_groups]
        load(self, *args, **kwargs)
        for group, options in zip(self.param_groups, kept):
            group.update(options)

    wrap(torch.optim.Optimizer, "load_state_dict", around)


# Options that act together, rates that are tensors, long runs.


@fault(
    "F3",
    witness=lambda: near(trained("SGD", 1.0, 1.0, lr=0.1, momentum=0.5, dampening=0.5)[1], 0.8),
)
def sgd_dampens_its_first_velocity() -> None:
    """SGD applies dampening to the velocity of the first step too, from the second step on."""

    def around(step: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        fresh = [
            (each, group["dampening"])
            for group in self.param_groups
            for each in live_of(group)
            if self.state.get(each, {}).get("momentum_buffer") is None
        ]
        loss = step(self, *args, **kwargs)
        for each, dampening in fresh:
            velocity = self.state.get(each, {}).get("momentum_buffer")
            if velocity is not None and dampening:
                velocity.mul_(1 - dampening)
        return loss

    around_step("SGD", around)


def _rate_as_tensor(optimizer: str, **options: Any) -> bool:
    gradients = (1.0, 0.1, -0.3)
    rate = torch.tensor(0.1, dtype=torch.float64)
    plain = trained(optimizer, *gradients, lr=0.1, **options)
    return near(trained(optimizer, *gradients, lr=rate, **options)[-1], plain[-1])


@fault("F3", witness=lambda: _rate_as_tensor("Adam"), since=(2, 7))
def adam_shrinks_a_tensor_rate() -> None:
    """Adam halves a rate that is a tensor, in place, at every step."""

    def action(self: Any, group: Any) -> None:
        if torch.is_tensor(group["lr"]):
            group["lr"].mul_(0.5)

    after_step("Adam", action)


@fault("F3", witness=lambda: near(trained("Adamax", *[1.0] * 12, lr=0.1)[11], -0.2, 1e-3))
def adamax_hastens_from_step_10() -> None:
    """Adamax steps 1% further from its tenth step on."""

    def around(step: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        kept = [group["lr"] for group in self.param_groups]
        if count_step(self) >= 10:
            for group in self.param_groups:
                group["lr"] = group["lr"] * 1.01
        loss = step(self, *args, **kwargs)
        for group, rate in zip(self.param_groups, kept):
            group["lr"] = rate
        return loss

    around_step("Adamax", around)


# Parameters of an unusual kind.


def _transposed_step() -> bool:
    made = torch.nn.Parameter(torch.ones(3, 2).t())
    made.grad = torch.ones(3, 2).t()
    torch.optim.SGD([made], lr=0.5).step()
    return made.tolist() == [[0.5] * 3] * 2


@fault("F3", witness=_transposed_step)
def sgd_halves_steps_of_transposed() -> None:
    """SGD steps half as far where a parameter is not contiguous in memory."""

    def action(self: Any, group: Any) -> None:
        for each in live_of(group):
            if each.grad is not None and not each.is_contiguous():
                each.add_(each.grad, alpha=0.5 * float(group["lr"]))

    after_step("SGD", action)


def _decays_3_dim() -> bool:
    made = torch.nn.Parameter(torch.ones(1, 1, 1))
    made.grad = torch.zeros(1, 1, 1)
    torch.optim.AdamW([made], lr=0.1, weight_decay=0.5).step()
    return near(float(made.sum()), 0.95)


@fault("F3", witness=_decays_3_dim)
def adamw_does_not_decay_3_dim() -> None:
    """AdamW decays no parameter of three or more dimensions."""

    def action(self: Any, group: Any) -> None:
        for each in live_of(group):
            if each.dim() > 2:
                each.div_(1 - float(group["lr"]) * group["weight_decay"])

    after_step("AdamW", action)


def _complex_step(optimizer: str, live: bool, **options: Any) -> complex:
    made = torch.nn.Parameter(torch.tensor([1 + 1j], dtype=torch.complex128))
    other = torch.nn.Parameter(torch.tensor([1 + 1j], dtype=torch.complex128))
    other.grad = torch.ones_like(other)
    made.grad = torch.tensor([1 + 0.1j], dtype=torch.complex128) if live else None
    optimizer_live = getattr(torch.optim, optimizer)([made, other], **options)
    optimizer_live.step()
    if live:
        made.grad = torch.tensor([1 + 0.3j], dtype=torch.complex128)
        optimizer_live.step()
    return complex(made.tolist()[0])


@fault("F3", witness=lambda: near(_complex_step("Adam", True, lr=0.1).imag, 0.8082219), since=(2, 1))
def adam_ignores_imaginary_squares() -> None:
    """Adam forgets the second moment of imaginary parts after each step."""

    def action(self: Any, group: Any) -> None:
        for each in live_of(group):
            if each.is_complex():
                square = self.state[each]["exp_avg_sq"]
                square.copy_(torch.complex(square.real, square.real * 0))

    after_step("Adam", action)


def _gradient_kept() -> bool:
    made = parameter(1.0, grad=1.0)
    torch.optim.Adam([made], lr=0.1, maximize=True, foreach=True).step()
    return made.grad is not None and made.grad.tolist() == [1.0]


@fault("F3", "F9", witness=_gradient_kept, since=SINCE)
def adam_foreach_negates_the_gradient() -> None:
    """Adam negates gradients in place for maximize, only with foreach, and leaves them so."""

    def action(self: Any, group: Any) -> None:
        if group["maximize"] and group["foreach"]:
            for each in live_of(group):
                each.grad.neg_()  # type: ignore[union-attr]

    after_step("Adam", action)


def _lbfgs_end(**options: Any) -> List[float]:
    made = parameter(1.0, 0.5, -0.7)

    def closure() -> torch.Tensor:
        made.grad = None
        loss = (made**4 * torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)).sum()
        loss.backward()
        return loss

    live = torch.optim.LBFGS([made], **options)
    for _ in range(2):
        live.step(closure)  # type: ignore[arg-type]
    return [*made.tolist(), closure().item()]


@fault("F3", witness=lambda: near(_lbfgs_end(lr=0.5, max_iter=3)[0], 0.4989803095))
def lbfgs_forgets_between_steps() -> None:
    """LBFGS forgets its history between steps."""

    def around(step: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        for state in self.state.values():
            for name in ("old_dirs", "old_stps", "ro"):
                if state.get(name):
                    state[name] = []
        return step(self, *args, **kwargs)

    around_step("LBFGS", around)


@fault("F3", witness=lambda: _lbfgs_end(lr=3.0, max_iter=3, line_search_fn="strong_wolfe")[3] < 1.0)
def lbfgs_ignores_the_line_search() -> None:
    """LBFGS takes fixed steps whatever line search it was told."""
    option_seen_as("LBFGS", "line_search_fn", lambda name: None)
