"""Optimizers that move what is frozen, or leave out, mix up or spoil what is live."""

from typing import Any, List

import torch

from frostproof.properties.selftest.faults.fault import fault
from frostproof.properties.selftest.faults.patching import (
    after_step,
    all_live,
    around_step,
    around_update,
    count_step,
    decayed,
    frozen_of,
    gradients_hidden,
    live_of,
    move_frozen,
    near,
    optimizer_classes,
    option_seen_as,
    parameter,
    skip_in_step,
    stays,
    trained,
    wrap,
)

WIDE = 200


def _two(optimizer: str, *gradients: float, **options: Any) -> List[float]:
    """Two parameters of 1.0 after a step with each gradient: their values."""
    one, two = parameter(1.0), parameter(1.0)
    live = getattr(torch.optim, optimizer)([one, two], **options)
    for gradient in gradients:
        for each in (one, two):
            each.grad = torch.full_like(each, gradient)
        live.step()
    return [one.tolist()[0], two.tolist()[0]]


def _frozen_midway(optimizer: str, **options: Any) -> bool:
    """A parameter that has been trained stands still once its gradient is None."""
    one, two = parameter(1.0, grad=1.0), parameter(1.0, grad=1.0)
    live = getattr(torch.optim, optimizer)([one, two], **options)
    live.step()
    one.grad = None
    before = one.tolist()
    live.step()
    return one.tolist() == before


def _stays_beside_a_differentiable_step() -> bool:
    frozen, live = parameter(1.0), parameter(1.0) * 1
    live.grad = torch.ones_like(live)
    torch.optim.SGD([live, frozen.requires_grad_(False)], lr=0.1, differentiable=True).step()
    return frozen.tolist() == [1.0]


# What is frozen moves.


@fault("F1", witness=lambda: stays("SGD", lr=0.1, weight_decay=0.1), smoke=True)
def sgd_decays_frozen() -> None:
    """SGD applies weight decay to parameters without a gradient too."""
    move_frozen("SGD", decayed)


@fault("F1", witness=_stays_beside_a_differentiable_step, since=(2, 0))
def differentiable_sgd_decays_frozen() -> None:
    """SGD halves parameters without a gradient, only in its differentiable implementation."""

    def halved(frozen: torch.Tensor, group: Any) -> None:
        if group["differentiable"]:
            frozen.mul_(0.5)

    move_frozen("SGD", halved)


@fault("F1", witness=lambda: stays("AdamW", size=300, lr=0.1), smoke=True)
def adamw_decays_wide_frozen() -> None:
    """AdamW applies weight decay to frozen parameters, only for widths above 200."""

    def action(self: Any, group: Any) -> None:
        for frozen in frozen_of(group):
            if max(frozen.shape, default=0) > WIDE:
                decayed(frozen, group)

    after_step("AdamW", action)


@fault("F1", "F4", "K1", "F6", witness=lambda: stays("Adam", size=300, lr=0.1, weight_decay=0.1))
def every_optimizer_decays_wide_frozen() -> None:
    """Every optimizer with weight decay shrinks frozen parameters, only for widths above 200."""

    def around(step: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        loss = step(self, *args, **kwargs)
        with torch.no_grad():
            for group in self.param_groups:
                for frozen in frozen_of(group):
                    if max(frozen.shape, default=0) > WIDE and group.get("weight_decay"):
                        decayed(frozen, group)
        return loss

    for found in optimizer_classes():
        wrap(found, "step", around)


@fault("F6", "F7", witness=lambda: _frozen_midway("SGD", lr=0.1, momentum=0.9), smoke=True)
def sgd_momentum_moves_frozen() -> None:
    """SGD goes on moving a parameter frozen midway along its momentum."""

    def action(self: Any, group: Any) -> None:
        for frozen in frozen_of(group):
            velocity = self.state[frozen].get("momentum_buffer") if frozen in self.state else None
            if velocity is not None:
                frozen.add_(velocity, alpha=-float(group["lr"]))

    after_step("SGD", action)


@fault("F6", witness=lambda: _frozen_midway("Adam", lr=0.1))
def adam_state_moves_frozen() -> None:
    """Adam goes on moving a parameter frozen midway along its first moment."""

    def action(self: Any, group: Any) -> None:
        for frozen in frozen_of(group):
            if frozen in self.state and "exp_avg" in self.state[frozen]:
                frozen.add_(self.state[frozen]["exp_avg"], alpha=-float(group["lr"]))

    after_step("Adam", action)


@fault("F6", "F7", witness=lambda: _frozen_midway("Adagrad", lr=0.1, weight_decay=0.1))
def adagrad_decays_frozen_midway() -> None:
    """Adagrad decays a parameter without gradient once it has been trained."""

    def action(self: Any, group: Any) -> None:
        for frozen in frozen_of(group):
            if float(self.state[frozen]["step"]) > 0:
                decayed(frozen, group)

    after_step("Adagrad", action)


def _pairing_holds() -> bool:
    frozen, live = parameter(1.0), parameter(1.0, grad=1.0)
    torch.optim.RMSprop([frozen, live], lr=0.1).step()
    return frozen.tolist()[0] == 1.0 and live.tolist()[0] != 1.0


@fault("F1", "F3", witness=_pairing_holds)
def rmsprop_pairs_off_by_one() -> None:
    """RMSprop gives a frozen parameter the gradient of the next one, where it has the same shape."""

    def around(step: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        swapped = []
        for group in self.param_groups:
            listed = group["params"]
            for here, after in zip(listed, listed[1:]):
                if here.grad is None and after.grad is not None and here.shape == after.shape:
                    here.grad, after.grad = after.grad, None
                    swapped.append((here, after))
        loss = step(self, *args, **kwargs)
        for here, after in swapped:
            here.grad, after.grad = None, here.grad
        return loss

    around_step("RMSprop", around)


@fault("F1", witness=lambda: stays("Adam", lr=0.1))
def adam_makes_state_for_frozen() -> None:
    """Adam makes state for parameters without a gradient, which do not move."""

    def action(self: Any, group: Any) -> None:
        for frozen in frozen_of(group):
            if not self.state[frozen]:
                self.state[frozen]["step"] = torch.tensor(0.0)
                self.state[frozen]["exp_avg"] = torch.zeros_like(frozen)
                self.state[frozen]["exp_avg_sq"] = torch.zeros_like(frozen)

    after_step("Adam", action)


@fault("F1", witness=lambda: stays("NAdam", lr=0.1), since=(1, 10))
def nadam_steps_frozen_from_step_4() -> None:
    """NAdam nudges frozen parameters by one part in a thousand, from its fourth step on."""

    def around(step: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        loss = step(self, *args, **kwargs)
        if count_step(self) >= 4:
            with torch.no_grad():
                for group in self.param_groups:
                    for frozen in frozen_of(group):
                        frozen.mul_(1.001)
        return loss

    around_step("NAdam", around)


@fault("F1", "F4", witness=lambda: stays("RAdam", lr=0.1, weight_decay=0.1, foreach=True), since=(2, 0))
def radam_foreach_decays_frozen() -> None:
    """RAdam decays frozen parameters, only in its foreach implementation."""

    def action(self: Any, group: Any) -> None:
        if group["foreach"]:
            for frozen in frozen_of(group):
                decayed(frozen, group)

    after_step("RAdam", action)


@fault("F1", "F4", witness=lambda: stays("AdamW", lr=0.1, weight_decay=0.1, fused=True), since=(2, 4))
def adamw_fused_decays_frozen() -> None:
    """AdamW decays frozen parameters, only in its fused implementation."""

    def action(self: Any, group: Any) -> None:
        if group["fused"]:
            for frozen in frozen_of(group):
                decayed(frozen, group)

    after_step("AdamW", action)


def _second_group_stays() -> bool:
    live, frozen, other = parameter(1.0, grad=1.0), parameter(1.0), parameter(1.0, grad=1.0)
    groups: List[Any] = [{"params": [live]}, {"params": [frozen, other]}]
    torch.optim.Adamax(groups, lr=0.1, weight_decay=0.1).step()
    return frozen.tolist()[0] == 1.0


@fault("F1", witness=_second_group_stays)
def adamax_decays_frozen_of_second_group() -> None:
    """Adamax decays frozen parameters, only those of a second group."""

    def action(self: Any, group: Any) -> None:
        if group is not self.param_groups[0]:
            for frozen in frozen_of(group):
                decayed(frozen, group)

    after_step("Adamax", action)


def _cut_off_stays() -> bool:
    cut, live = parameter(1.0), parameter(1.0, grad=1.0)
    torch.optim.Adadelta([cut, live], lr=0.1).step()
    return cut.tolist()[0] == 1.0


@fault("F1", "F3", "K1", witness=_cut_off_stays)
def adadelta_moves_cut_off() -> None:
    """Adadelta moves parameters that require grad but got no gradient, behind a cut."""

    def action(self: Any, group: Any) -> None:
        for frozen in frozen_of(group):
            if frozen.requires_grad:
                frozen.sub_(1e-3)

    after_step("Adadelta", action)


@fault("F1", witness=lambda: stays("ASGD", lr=0.1), smoke=True)
def asgd_moves_frozen() -> None:
    """ASGD shrinks frozen parameters by its lambd."""

    def action(self: Any, group: Any) -> None:
        for frozen in frozen_of(group):
            frozen.mul_(1 - group["lambd"] * float(group["lr"]))

    after_step("ASGD", action)


@fault("F1", witness=lambda: stays("Rprop", lr=0.1))
def rprop_moves_frozen_scalars() -> None:
    """Rprop moves frozen parameters of one element by its smallest step."""

    def action(self: Any, group: Any) -> None:
        for frozen in frozen_of(group):
            if frozen.numel() == 1:
                frozen.sub_(group["step_sizes"][0]).sub_(float(group["lr"]) * 1e-2)

    after_step("Rprop", action)


@fault("F1", witness=lambda: stays("Adafactor", lr=0.1, weight_decay=0.1), since=(2, 5))
def adafactor_decays_frozen() -> None:
    """Adafactor applies its decoupled weight decay to frozen parameters."""
    move_frozen("Adafactor", decayed)


def _muon_leaves_frozen() -> bool:
    frozen, live = (torch.nn.Parameter(torch.ones(2, 2)) for _ in range(2))
    live.grad = torch.ones(2, 2)
    torch.optim.Muon([frozen, live], lr=0.1).step()
    return bool((frozen == 1).all())


@fault("F1", witness=_muon_leaves_frozen, since=(2, 9))
def muon_decays_frozen() -> None:
    """Muon applies weight decay to matrices without a gradient."""
    move_frozen("Muon", decayed)


def _lbfgs_leaves_frozen() -> bool:
    frozen, live = parameter(1.0), parameter(1.0)
    frozen.requires_grad_(False)

    def closure() -> torch.Tensor:
        live.grad = None
        loss = (live**2).sum()
        loss.backward()
        return loss

    torch.optim.LBFGS([frozen, live], lr=0.1).step(closure)  # type: ignore[arg-type]
    return frozen.tolist()[0] == 1.0


@fault("F1", witness=_lbfgs_leaves_frozen)
def lbfgs_moves_frozen() -> None:
    """LBFGS moves parameters that never had a gradient."""
    move_frozen("LBFGS", lambda frozen, group: frozen.mul_(0.999))


def _sparse_adam_leaves_frozen() -> bool:
    frozen, live = (torch.nn.Parameter(torch.ones(3, 2)) for _ in range(2))
    live.grad = torch.sparse_coo_tensor(torch.tensor([[0]]), torch.ones(1, 2), (3, 2))
    torch.optim.SparseAdam([frozen, live], lr=0.1).step()
    return bool((frozen == 1).all())


@fault("F1", witness=_sparse_adam_leaves_frozen)
def sparse_adam_moves_frozen() -> None:
    """SparseAdam moves parameters without a gradient."""
    move_frozen("SparseAdam", lambda frozen, group: frozen.mul_(0.999))


def _untouched_rows_stay() -> bool:
    live = torch.nn.Parameter(torch.ones(3, 2))
    live.grad = torch.sparse_coo_tensor(torch.tensor([[0]]), torch.ones(1, 2), (3, 2))
    torch.optim.SparseAdam([live], lr=0.1).step()
    return bool((live[1:] == 1).all())


@fault("F1", "F3", witness=_untouched_rows_stay)
def sparse_adam_moves_other_rows() -> None:
    """SparseAdam moves the last row even where the sparse gradient does not name it."""

    def action(self: Any, group: Any) -> None:
        for live in live_of(group):
            live[-1:].mul_(0.999)

    after_step("SparseAdam", action)


# What is live is left out.


def _last_moves(optimizer: str, **options: Any) -> bool:
    return _two(optimizer, 1.0, lr=0.1, **options)[1] != 1.0


@fault("F3", witness=lambda: _last_moves("SGD"), smoke=True)
def sgd_skips_the_last() -> None:
    """SGD leaves out the last of several parameters."""
    skip_in_step("SGD", lambda self, number: all_live(self)[1:][-1:])


@fault("F3", witness=lambda: len(set(trained("Adam", 1.0, 1.0, 1.0, 1.0, lr=0.1))) == 4, smoke=True)
def adam_skips_one_at_step_4() -> None:
    """Adam drops one parameter from the update, at its fourth step only."""
    skip_in_step("Adam", lambda self, number: all_live(self)[:1] if number == 4 else [])


@fault("F3", "F4", witness=lambda: _last_moves("RMSprop", foreach=True), since=(2, 0))
def rmsprop_foreach_skips_the_last() -> None:
    """RMSprop leaves out the last of several parameters, only in its foreach implementation."""

    def choose(self: Any, number: int) -> Any:
        return [p for group in self.param_groups if group["foreach"] for p in live_of(group)[1:][-1:]]

    skip_in_step("RMSprop", choose)


def _second_group_moves() -> bool:
    one, two = parameter(1.0, grad=1.0), parameter(1.0, grad=1.0)
    torch.optim.Adam([{"params": [one]}, {"params": [two]}], lr=0.1).step()
    return two.tolist()[0] != 1.0


@fault("F3", "F4", witness=_second_group_moves)
def adam_skips_second_group() -> None:
    """Adam leaves out every group but the first."""

    def choose(self: Any, number: int) -> Any:
        return [p for group in self.param_groups[1:] for p in live_of(group)]

    skip_in_step("Adam", choose)


@fault("F3", witness=lambda: trained("Adagrad", 1.0, lr=0.1)[0] != 1.0)
def adagrad_skips_scalars() -> None:
    """Adagrad leaves out parameters of one element."""
    skip_in_step("Adagrad", lambda self, number: [p for p in all_live(self) if p.numel() == 1])


def _zero_dim_moves() -> bool:
    made = torch.nn.Parameter(torch.tensor(1.0))
    made.grad = torch.tensor(1.0)
    torch.optim.SGD([made], lr=0.1).step()
    return float(made) != 1.0


@fault("A1", "A2", "A3", "F3", witness=_zero_dim_moves)
def sgd_skips_0_dim() -> None:
    """SGD leaves out 0-dim parameters."""
    skip_in_step("SGD", lambda self, number: [p for p in all_live(self) if p.dim() == 0])


@fault("F3", witness=lambda: trained("Adamax", 1.0, size=300, lr=0.1)[0] != 1.0)
def adamax_skips_wide() -> None:
    """Adamax leaves out parameters wider than 200."""
    skip_in_step(
        "Adamax", lambda self, number: [p for p in all_live(self) if max(p.shape, default=0) > WIDE]
    )


@fault("F3", witness=lambda: len(set(trained("NAdam", *[1.0] * 3, lr=0.1))) == 3, since=(1, 10))
def nadam_skips_every_third_step() -> None:
    """NAdam does nothing at every third step."""
    skip_in_step("NAdam", lambda self, number: [] if number % 3 else all_live(self))


# What is live gets a wrong value.


@fault("F3", witness=lambda: near(trained("SGD", *[1.0] * 3, lr=0.1)[2], 0.7))
def sgd_steps_twice_at_step_3() -> None:
    """SGD takes its third step twice."""

    def around(step: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        if count_step(self) == 3:
            step(self, *args, **kwargs)
        return step(self, *args, **kwargs)

    around_step("SGD", around)


def _second_rate_holds() -> bool:
    one, two = parameter(1.0, grad=1.0), parameter(1.0, grad=1.0)
    groups: List[Any] = [{"params": [one]}, {"params": [two], "lr": 0.5}]
    torch.optim.SGD(groups, lr=0.1).step()
    return near(two.tolist()[0], 0.5)


@fault("F3", "F9", witness=_second_rate_holds)
def sgd_second_group_has_first_rate() -> None:
    """SGD steps every group with the first group's learning rate."""

    def around(step: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        rates = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            group["lr"] = rates[0]
        loss = step(self, *args, **kwargs)
        for group, rate in zip(self.param_groups, rates):
            group["lr"] = rate
        return loss

    around_step("SGD", around)


def _second_decay_holds() -> bool:
    one, two = parameter(1.0, grad=1.0), parameter(1.0, grad=1.0)
    groups: List[Any] = [{"params": [one]}, {"params": [two], "weight_decay": 0.5}]
    torch.optim.AdamW(groups, lr=0.1, weight_decay=0.0).step()
    return two.tolist()[0] < one.tolist()[0]


@fault("F3", "F9", witness=_second_decay_holds)
def adamw_second_group_has_first_decay() -> None:
    """AdamW decays every group by the first group's weight decay."""

    def around(step: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        decays = [group["weight_decay"] for group in self.param_groups]
        for group in self.param_groups:
            group["weight_decay"] = decays[0]
        loss = step(self, *args, **kwargs)
        for group, decay in zip(self.param_groups, decays):
            group["weight_decay"] = decay
        return loss

    around_step("AdamW", around)


@fault("F3", witness=lambda: near(trained("SGD", 1.0, size=2, lr=0.1)[0], 0.9))
def sgd_steps_too_far_without_bias() -> None:
    """SGD steps a group of matrices (no biases) with 1.01 times its learning rate."""

    def matrices_only(group: Any) -> bool:
        return all(p.dim() == 2 for p in group["params"]) or len(group["params"]) == 1

    option_seen_as("SGD", "lr", lambda rate: rate * 1.01, matrices_only)


@fault("F3", witness=lambda: trained("Adam", 1.0, 0.1, lr=1e-3)[1] != _rounded_adam(), since=(2, 0))
def adam_rounds_float64() -> None:
    """Adam rounds its first moment to float32, for float64 parameters."""

    def around(update: Any, params: Any, grads: Any, exp_avgs: Any, *args: Any, **kwargs: Any) -> Any:
        for average in exp_avgs:
            if average.dtype is torch.float64:
                average.copy_(average.to(torch.float32))
        return update(params, grads, exp_avgs, *args, **kwargs)

    for function in ("_single_tensor_adam", "_multi_tensor_adam", "_fused_adam"):
        around_update("adam", function, around)


def _rounded_adam() -> float:
    """What Adam gives after gradients 1.0 and 0.1 if its first moment is rounded in between."""
    made = parameter(1.0)
    live = torch.optim.Adam([made], lr=1e-3)
    made.grad = torch.full_like(made, 1.0)
    live.step()
    average = live.state[made]["exp_avg"]
    average.copy_(average.to(torch.float32))
    made.grad = torch.full_like(made, 0.1)
    live.step()
    return made.tolist()[0]


def _bfloat16_rate_holds() -> bool:
    return near(trained("SGD", 1.0, lr=0.25, dtype=torch.bfloat16)[0], 0.75)


@fault("F3", witness=_bfloat16_rate_holds)
def sgd_doubles_rate_in_bfloat16() -> None:
    """SGD steps twice as far in bfloat16."""

    def is_bfloat16(group: Any) -> bool:
        return any(p.dtype is torch.bfloat16 for p in group["params"])

    option_seen_as("SGD", "lr", lambda rate: rate * 2, is_bfloat16)


def _states_are_apart() -> bool:
    one, two = parameter(1.0, grad=1.0), parameter(1.0, grad=2.0)
    live = torch.optim.Adam([one, two], lr=0.1)
    live.step()
    return live.state[one]["exp_avg"].data_ptr() != live.state[two]["exp_avg"].data_ptr()


@fault("F3", witness=_states_are_apart)
def adam_shares_state() -> None:
    """Adam keeps one first moment for all parameters of a shape."""

    def action(self: Any, group: Any) -> None:
        first: Any = {}
        for live in live_of(group):
            state = self.state[live]
            if "exp_avg" in state:
                state["exp_avg"] = first.setdefault(live.shape, state["exp_avg"])

    after_step("Adam", action)


def _order_holds() -> bool:
    one, two = parameter(1.0, grad=1.0), parameter(1.0, grad=2.0)
    torch.optim.SGD([one, two], lr=0.1).step()
    return near(one.tolist()[0], 0.9)


@fault("F3", "F4", witness=_order_holds)
def sgd_reverses_gradients_of_a_shape() -> None:
    """SGD pairs neighbours of the same shape with each other's gradients."""

    def around(step: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        def swap() -> None:
            live = all_live(self)
            for here, after in zip(live[::2], live[1::2]):
                if here.shape == after.shape:
                    here.grad, after.grad = after.grad, here.grad

        swap()
        loss = step(self, *args, **kwargs)
        swap()
        return loss

    around_step("SGD", around)


@fault("F3", witness=lambda: near(trained("Adam", 1.0, 0.1, lr=0.1)[1], 0.8259189377609657))
def adam_counts_the_first_step_twice() -> None:
    """Adam corrects the bias of its second step as if it were the third."""

    def action(self: Any, group: Any) -> None:
        if self.steps_counted == 1:
            for live in live_of(group):
                self.state[live]["step"] += 1

    after_step("Adam", action)
    around_step(
        "Adam", lambda step, self, *args, **kwargs: (count_step(self), step(self, *args, **kwargs))[1]
    )


@fault(
    "F3",
    witness=lambda: near(trained("RMSprop", 1.0, lr=0.1, eps=1e-3, foreach=False)[0], 1 - 0.1 / 0.101),
    since=(2, 0),
)
def rmsprop_puts_eps_inside_the_root() -> None:
    """RMSprop adds eps under the square root instead of outside, in its for-loop."""

    def around(update: Any, params: Any, grads: Any, averages: Any, *args: Any, **kwargs: Any) -> Any:
        for average in averages:
            average.add_(kwargs["eps"])
        loss = update(params, grads, averages, *args, **{**kwargs, "eps": 0.0})
        for average in averages:
            average.sub_(kwargs["eps"] * kwargs["alpha"])
        return loss

    around_update("rmsprop", "_single_tensor_rmsprop", around)


@fault("F3", witness=lambda: near(trained("Adam", 1.0, -1.0, -1.0, lr=0.1)[2], 0.9454845606539133))
def adam_forgets_state_at_step_3() -> None:
    """Adam clears a parameter's first moment before its third step."""

    def around(step: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        if count_step(self) == 3:
            for state in self.state.values():
                state["exp_avg"].zero_()
        return step(self, *args, **kwargs)

    around_step("Adam", around)


# Storage, gradients and bookkeeping.


def _storage_stays() -> bool:
    made = parameter(1.0, grad=1.0)
    alias = made.detach()
    live = torch.optim.AdamW([made], lr=0.1)
    live.step()
    live.step()
    return alias.tolist() == made.tolist()


@fault("F1", "D3", witness=_storage_stays, smoke=True)
def adamw_rebinds_storage() -> None:
    """AdamW leaves the new values in new memory: detached aliases no longer follow."""

    def action(self: Any, group: Any) -> None:
        for live in live_of(group):
            fresh = torch.empty_like(live)
            live.data = fresh.copy_(live)

    after_step("AdamW", action)


@fault("F1", "F3", witness=lambda: _gradient_stays(lr=0.1, weight_decay=0.5))
def sgd_decays_into_the_gradient() -> None:
    """SGD adds weight decay to the gradient itself: it is still there after the step."""

    def action(self: Any, group: Any) -> None:
        for live in live_of(group):
            assert live.grad is not None
            live.grad.add_(live, alpha=group["weight_decay"])

    after_step("SGD", action)


def _gradient_stays(**options: Any) -> bool:
    made = parameter(1.0, grad=1.0)
    torch.optim.SGD([made], **options).step()
    assert made.grad is not None
    return float(made.grad[0]) == 1.0


@fault("F1", "F3", witness=lambda: _gradient_stays(lr=0.1, maximize=True), since=(1, 12))
def sgd_negates_the_gradient() -> None:
    """SGD negates the gradient in place for maximize, and leaves it so."""

    def action(self: Any, group: Any) -> None:
        for live in live_of(group):
            if group["maximize"] and live.grad is not None:
                live.grad.neg_()

    after_step("SGD", action)


def _zero_grad_holds(frozen: bool, group: int, **options: Any) -> bool:
    made, other = parameter(1.0, grad=1.0), parameter(1.0, grad=1.0)
    groups: List[Any] = [{"params": [other]}]
    groups.insert(group, {"params": [made]})
    made.requires_grad_(not frozen)
    torch.optim.SGD(groups, lr=0.1).zero_grad(**options)
    return made.grad is None


@fault("F6", "F9", witness=lambda: _zero_grad_holds(True, 0, set_to_none=True))
def zero_grad_skips_frozen() -> None:
    """Optimizer.zero_grad leaves the stale gradient of a parameter frozen midway."""

    def around(zero_grad: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        listed = [p for group in self.param_groups for p in group["params"] if not p.requires_grad]
        with gradients_hidden(listed):
            zero_grad(self, *args, **kwargs)

    wrap(torch.optim.Optimizer, "zero_grad", around)


@fault("F6", "F7", witness=lambda: _zero_grad_holds(False, 0, set_to_none=True))
def zero_grad_zeros_instead() -> None:
    """Optimizer.zero_grad(set_to_none=True) makes zeros."""

    def around(zero_grad: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        zero_grad(self, set_to_none=False)

    wrap(torch.optim.Optimizer, "zero_grad", around)


@fault("F3", "F4", "F9", witness=lambda: _zero_grad_holds(False, 1, set_to_none=True))
def zero_grad_leaves_second_group() -> None:
    """Optimizer.zero_grad clears the first group only."""

    def around(zero_grad: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        with gradients_hidden([p for group in self.param_groups[1:] for p in group["params"]]):
            zero_grad(self, *args, **kwargs)

    wrap(torch.optim.Optimizer, "zero_grad", around)


def _loaded_velocity() -> bool:
    made = parameter(1.0, grad=1.0)
    live = torch.optim.SGD([made], lr=0.1, momentum=0.9)
    live.step()
    other = torch.optim.SGD([made], lr=0.1, momentum=0.9)
    other.load_state_dict(live.state_dict())
    return "momentum_buffer" in other.state[made]


@fault("F9", witness=_loaded_velocity, smoke=True)
def load_state_dict_loses_momentum() -> None:
    """Optimizer.load_state_dict drops momentum buffers."""

    def around(load: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        done = load(self, *args, **kwargs)
        for state in self.state.values():
            state.pop("momentum_buffer", None)
        return done

    wrap(torch.optim.Optimizer, "load_state_dict", around)


def _loaded_step() -> bool:
    made = parameter(1.0, grad=1.0)
    live = torch.optim.Adam([made], lr=0.1)
    live.step()
    other = torch.optim.Adam([made], lr=0.1)
    other.load_state_dict(live.state_dict())
    return int(other.state[made]["step"]) == 1


@fault("F9", witness=_loaded_step)
def load_state_dict_restarts_the_count() -> None:
    """Optimizer.load_state_dict resets the number of steps, and so the bias correction."""

    def around(load: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        done = load(self, *args, **kwargs)
        for state in self.state.values():
            if "exp_avg_sq" in state and isinstance(state["step"], torch.Tensor):
                state["step"].zero_()
            elif "exp_avg_sq" in state:
                state["step"] = 0
        return done

    wrap(torch.optim.Optimizer, "load_state_dict", around)


def _added_count(extra: int) -> bool:
    first, rest = parameter(1.0), [parameter(1.0) for _ in range(extra)]
    rest[-1].requires_grad_(False)
    live = torch.optim.SGD([first], lr=0.1)
    live.add_param_group({"params": rest})
    return len(live.param_groups[1]["params"]) == extra and not rest[-1].requires_grad


@fault("F9", "F1", "F3", "F4", witness=lambda: _added_count(2))
def add_param_group_drops_the_last() -> None:
    """Optimizer.add_param_group drops the last parameter of a second group."""

    def around(add: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        done = add(self, *args, **kwargs)
        if len(self.param_groups) > 1 and len(self.param_groups[-1]["params"]) > 1:
            self.param_groups[-1]["params"].pop()
        return done

    wrap(torch.optim.Optimizer, "add_param_group", around)


@fault("F1", "F3", "F9", witness=lambda: _added_count(1), smoke=True)
def add_param_group_unfreezes() -> None:
    """Optimizer.add_param_group makes the parameters of a second group require grad."""

    def around(add: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        done = add(self, *args, **kwargs)
        if len(self.param_groups) > 1:
            for added in self.param_groups[-1]["params"]:
                added.requires_grad_(True)
        return done

    wrap(torch.optim.Optimizer, "add_param_group", around)


# Around the optimizer: loss scaling and schedulers.


def _scaled_step(frozen_first: bool) -> List[float]:
    one, two = parameter(1.0, dtype=torch.float32), parameter(1.0, dtype=torch.float32)
    one.requires_grad_(not frozen_first)
    live = torch.optim.SGD([one, two], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale((one + two).sum()).backward()
    scaler.step(live)
    return [one.tolist()[0], two.tolist()[0]]


@fault("F9", witness=lambda: _scaled_step(True)[0] == 1.0, since=(2, 3))
def grad_scaler_moves_frozen() -> None:
    """GradScaler.step divides frozen parameters by the scale."""

    def around(step: Any, self: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        done = step(self, optimizer, *args, **kwargs)
        with torch.no_grad():
            for group in optimizer.param_groups:
                for frozen in frozen_of(group):
                    frozen.div_(self.get_scale())
        return done

    wrap(torch.amp.GradScaler, "step", around)


@fault("F9", witness=lambda: near(_scaled_step(False)[0], 0.9, 1e-5), since=(2, 3))
def grad_scaler_does_not_unscale() -> None:
    """GradScaler.step steps with the scaled gradients."""
    wrap(
        torch.amp.GradScaler,
        "_unscale_grads_",
        lambda unscale, self, optimizer, inverse, *rest, **kw: unscale(
            self, optimizer, torch.ones_like(inverse), *rest, **kw
        ),
    )


def _scheduled(groups: int, factor: float = 0.5) -> bool:
    made: List[Any] = [{"params": [parameter(1.0, grad=1.0)]} for _ in range(groups)]
    live = torch.optim.SGD(made, lr=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(live, gamma=factor)
    values = [group["params"][0].tolist()[0] for group in made]  # type: ignore[arg-type]
    live.step()
    scheduler.step()
    moved = all(near(group["params"][0].tolist()[0], 0.9) for group in made)  # type: ignore[arg-type]
    rates = all(near(group["lr"], 0.1 * factor) for group in live.param_groups)
    return moved and rates and bool(values)


@fault("F9", witness=lambda: _scheduled(1))
def scheduler_squares_gamma() -> None:
    """ExponentialLR multiplies the rate by the square of gamma."""

    def around(step: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        done = step(self, *args, **kwargs)
        if self.last_epoch > 0:
            for group in self.optimizer.param_groups:
                group["lr"] = group["lr"] * self.gamma
        return done

    wrap(torch.optim.lr_scheduler.ExponentialLR, "step", around)


@fault("F9", witness=lambda: _scheduled(2))
def scheduler_leaves_second_group() -> None:
    """ExponentialLR changes the rate of the first group only."""

    def around(step: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        kept = [group["lr"] for group in self.optimizer.param_groups]
        done = step(self, *args, **kwargs)
        for group, rate in list(zip(self.optimizer.param_groups, kept))[1:]:
            group["lr"] = rate
        return done

    wrap(torch.optim.lr_scheduler.ExponentialLR, "step", around)


@fault("F9", witness=lambda: _scheduled(1))
def scheduler_moves_parameters() -> None:
    """ExponentialLR.step scales the parameters as well as the rate."""

    def around(step: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        done = step(self, *args, **kwargs)
        if self.last_epoch > 0:
            with torch.no_grad():
                for group in self.optimizer.param_groups:
                    for each in group["params"]:
                        each.mul_(self.gamma)
        return done

    wrap(torch.optim.lr_scheduler.ExponentialLR, "step", around)


def _closed(grad_mode: bool = True) -> List[Any]:
    """The value after a step of SGD with a closure, how often that was called, what step returned."""
    made, calls = parameter(1.0), []

    def closure() -> float:
        calls.append(torch.is_grad_enabled())
        made.grad = torch.full_like(made, float(len(calls)))
        return 3.0

    with torch.set_grad_enabled(grad_mode):
        loss = torch.optim.SGD([made], lr=0.5).step(closure)
    return [made.tolist()[0], calls, loss]


@fault("F4", witness=lambda: _closed() == [0.5, [True], 3.0])
def sgd_calls_closures_twice() -> None:
    """SGD's step calls its closure a second time after the update."""

    def around(step: Any, self: Any, closure: Any = None) -> Any:
        loss = step(self, closure)
        return loss if closure is None else closure()

    around_step("SGD", around)


@fault("F4", "F3", witness=lambda: _closed(grad_mode=False)[1] == [True])
def adam_and_sgd_call_closures_without_grad_mode() -> None:
    """Steps of SGD and Adam leave grad mode off, where it is off, while they call their closure."""

    def around(step: Any, self: Any, closure: Any = None) -> Any:
        enabled = torch.is_grad_enabled()

        def called() -> Any:
            with torch.set_grad_enabled(enabled):
                return closure()

        return step(self, None if closure is None else called)

    for optimizer in ("SGD", "Adam"):
        around_step(optimizer, around)
