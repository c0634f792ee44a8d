"""What the faults share: replacing a function of torch, and small runs for the witnesses."""

import functools
import importlib
import inspect
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence

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


def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The matrix product, by element-wise operations only: (n, m) and (m, k) give (n, k)."""
    return (left.unsqueeze(2) * right.unsqueeze(0)).sum(1)


def backward_holds(
    depth: int = 2,
    width: int = 2,
    batch: int = 2,
    *,
    dtype: torch.dtype = torch.float64,
    frozen: Sequence[str] = (),
    bias: bool = True,
    times: int = 1,
    relative: float = 1e-12,
) -> bool:
    """The gradients of a net of equal linear layers are those of the chain rule, None if frozen."""
    net = torch.nn.Sequential(*(torch.nn.Linear(width, width, bias) for _ in range(depth)))
    net.to(dtype)
    named = dict(net.named_parameters())
    with torch.no_grad():
        for number, each in enumerate(named.values()):
            size = each.numel()
            each.copy_(((torch.arange(size) * 7 + number) % 5 - 1.5).view(each.shape) / width)
    for name in frozen:
        named[name].requires_grad_(False)
    inputs = (torch.arange(batch * width).view(batch, width) % 7 - 2.5).to(dtype) / 4
    for _ in range(times):
        net(inputs).sum().backward()
    expected: Dict[str, torch.Tensor] = {}
    with torch.no_grad():
        values = [inputs]
        for layer in net:
            values.append(product(values[-1], layer.weight.t()))  # type: ignore[operator,arg-type]
            if bias:
                values[-1] = values[-1] + layer.bias  # type: ignore[operator]
        slope = torch.ones_like(values[-1])
        for place in reversed(range(depth)):
            expected[f"{place}.weight"] = product(slope.t(), values[place])
            expected[f"{place}.bias"] = slope.sum(0)
            slope = product(slope, named[f"{place}.weight"])
    return all(
        (each.grad is None) if name in frozen else _close(each.grad, expected[name] * times, relative)
        for name, each in named.items()
    )


def _close(actual: Optional[torch.Tensor], expected: torch.Tensor, relative: float) -> bool:
    if actual is None:
        return False
    actual, expected = actual.to(torch.float64), expected.to(torch.float64)
    largest = float(expected.abs().max())
    return bool(((actual - expected).abs() <= relative * largest).all())


def altered(tensor: Any, change: Change) -> Any:
    """The same values; the gradient that reaches the tensor is ``change(gradient)``."""
    if tensor is None or not tensor.requires_grad or not torch.is_grad_enabled():
        return tensor
    seen = tensor.view_as(tensor)
    seen.register_hook(change)
    return seen


def is_frozen(tensor: Any) -> bool:
    """A parameter that does not require grad."""
    return isinstance(tensor, torch.nn.Parameter) and not tensor.requires_grad


def around_linear(around: Around) -> None:
    """Replace linear: ``around(linear, input, weight, bias)``."""

    def in_order(linear: Any, value: Any, weight: Any, bias: Any = None) -> Any:
        return around(linear, value, weight, bias)

    wrap(torch.nn.functional, "linear", in_order)


def around_backward(around: Around) -> None:
    """Replace backward of a tensor: ``around(backward, tensor, *args, **kwargs)``."""
    wrap(torch.autograd, "backward", around)


def linear_maps(loss: Any) -> List[List[torch.Tensor]]:
    """The live parameters of each linear map below a loss (or several), from the last layer."""
    found, seen = [], set()
    level = [each.grad_fn for each in (loss if isinstance(loss, (list, tuple)) else [loss])]
    while level:
        below = []
        for node in level:
            if node is None or node in seen:
                continue
            seen.add(node)
            if node.name().startswith(("Addmm", "Mm")):
                found.append(_variables(node))
            below += [after for after, _ in node.next_functions]
        level = below
    return found


def _variables(node: Any) -> List[torch.Tensor]:
    """The leaves that a linear map's node feeds directly or through a transpose."""
    leaves = []
    for after, _ in node.next_functions:
        if after is not None and after.name().startswith("TBackward"):
            after = after.next_functions[0][0]
        if hasattr(after, "variable"):
            leaves.append(after.variable)
    return leaves
