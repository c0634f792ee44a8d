"""What the faults share: replacing a function of torch, and small runs for the witnesses."""

import functools
import importlib
import inspect
from contextlib import contextmanager
from typing import Any, Callable, Iterator, List, Sequence

import torch

Change = Callable[[Any], Any]
Around = Callable[..., Any]


def wrap(owner: Any, name: str, around: Around) -> None:
    """Replace a function or method: ``around(original, *args, **kwargs)`` runs in its place."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def broken(*args: Any, **kwargs: Any) -> Any:
        return around(original, *args, **kwargs)

    setattr(owner, name, broken)


def optimizer_classes() -> List[type]:
    """The classes of torch.optim that have a ``step`` of their own."""
    return [
        value
        for name, value in sorted(vars(torch.optim).items())
        if inspect.isclass(value)
        and issubclass(value, torch.optim.Optimizer)
        and value is not torch.optim.Optimizer
        and "step" in vars(value)
    ]


def around_step(optimizer: str, around: Around) -> None:
    """Replace ``step`` of one optimizer: ``around(step, optimizer, *args, **kwargs)``."""
    wrap(getattr(torch.optim, optimizer), "step", around)


def around_update(module: str, function: str, around: Around) -> None:
    """Replace an implementation such as ``_multi_tensor_sgd`` of ``torch.optim.sgd``."""
    wrap(importlib.import_module(f"torch.optim.{module}"), function, around)


def after_step(optimizer: str, action: Callable[[Any, Any], None]) -> None:
    """After each step, ``action(optimizer, group)`` for each of its groups, without grad."""

    def around(step: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        loss = step(self, *args, **kwargs)
        with torch.no_grad():
            for group in self.param_groups:
                action(self, group)
        return loss

    around_step(optimizer, around)


def move_frozen(optimizer: str, move: Callable[[torch.Tensor, Any], Any]) -> None:
    """After each step, ``move(parameter, group)`` for each parameter without a gradient."""

    def action(self: Any, group: Any) -> None:
        for frozen in frozen_of(group):
            move(frozen, group)

    after_step(optimizer, action)


def option_seen_as(
    optimizer: str, option: str, change: Change, when: Callable[[Any], bool] = lambda group: True
) -> None:
    """During ``step`` the option of the groups for which ``when(group)`` is ``change(option)``."""

    def around(step: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        changed = [group for group in self.param_groups if option in group and when(group)]
        kept = [group[option] for group in changed]
        for group in changed:
            group[option] = change(group[option])
        try:
            return step(self, *args, **kwargs)
        finally:
            for group, value in zip(changed, kept):
                group[option] = value

    around_step(optimizer, around)


@contextmanager
def gradients_hidden(parameters: Sequence[torch.Tensor]) -> Iterator[None]:
    """These parameters have no gradient inside, and have it again afterwards."""
    kept = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in zip(parameters, kept):
            parameter.grad = gradient


def skip_in_step(optimizer: str, choose: Callable[[Any, int], Sequence[torch.Tensor]]) -> None:
    """Steps leave out the parameters of ``choose(optimizer, number of the step from 1)``."""

    def around(step: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        with gradients_hidden(choose(self, count_step(self))):
            return step(self, *args, **kwargs)

    around_step(optimizer, around)


def count_step(optimizer: Any) -> int:
    """Count a step of this optimizer object, from 1, apart from its own state."""
    optimizer.steps_counted = getattr(optimizer, "steps_counted", 0) + 1
    return int(optimizer.steps_counted)


def frozen_of(group: Any) -> List[torch.Tensor]:
    """The parameters of a group that have no gradient."""
    return [parameter for parameter in group["params"] if parameter.grad is None]


def live_of(group: Any) -> List[torch.Tensor]:
    """The parameters of a group that have a gradient."""
    return [parameter for parameter in group["params"] if parameter.grad is not None]


def all_live(optimizer: Any) -> List[torch.Tensor]:
    """The parameters of every group that have a gradient."""
    return [parameter for group in optimizer.param_groups for parameter in live_of(group)]


def decayed(parameter: torch.Tensor, group: Any) -> None:
    """Shrink a parameter by the group's weight decay, as AdamW does."""
    if group["weight_decay"]:
        parameter.mul_(1 - float(group["lr"]) * group["weight_decay"])


def parameter(
    *values: float, grad: float = 0.0, dtype: torch.dtype = torch.float64
) -> torch.nn.Parameter:
    """A 1-dim parameter of these values; with a gradient of one value where that is not 0."""
    made = torch.nn.Parameter(torch.tensor(values, dtype=dtype))
    if grad:
        made.grad = torch.full_like(made, grad)
    return made


def trained(
    optimizer: str,
    *gradients: float,
    size: int = 1,
    dtype: torch.dtype = torch.float64,
    **options: Any,
) -> List[float]:
    """The first value, from 1.0, of a 1-dim parameter after a step with each of the gradients."""
    made = parameter(*[1.0] * size, dtype=dtype)
    live = getattr(torch.optim, optimizer)([made], **options)
    found = []
    for gradient in gradients:
        made.grad = torch.full_like(made, gradient)
        live.step()
        found.append(float(made.tolist()[0]))
    return found


def near(actual: float, expected: float, relative: float = 1e-6) -> bool:
    """Equal within a relative error."""
    return abs(actual - expected) <= relative * abs(expected)


def stays(optimizer: str, size: int = 1, **options: Any) -> bool:
    """A frozen parameter of 1.0 keeps its value, grad and state while its neighbour is trained."""
    frozen, live = parameter(*[1.0] * size), parameter(1.0)
    frozen.requires_grad_(False)
    stepper = getattr(torch.optim, optimizer)([frozen, live], **options)
    for _ in range(4):
        live.grad = torch.ones_like(live)
        stepper.step()
    state = {} if optimizer == "Adagrad" else stepper.state.get(frozen, {})
    return frozen.tolist() == [1.0] * size and frozen.grad is None and not state
