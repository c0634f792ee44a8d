"""Replicas of a net in threads, and DataParallel, each broken."""

import copy
import threading
from typing import Any, List

import torch

from frostproof.properties.selftest.faults.fault import fault
from frostproof.properties.selftest.faults.patching import wrap

SINCE_FUNC = (2, 0)


def _elsewhere() -> bool:
    return threading.current_thread() is not threading.main_thread()


def _called() -> List[Any]:
    """A frozen layer's flags, and a gradient, after it was called with other values in a thread."""
    layer = torch.nn.Linear(1, 1).requires_grad_(False)
    given = {"weight": torch.ones(1, 1), "bias": torch.ones(1, requires_grad=True)}
    made: List[Any] = []

    def call() -> None:
        made.append(torch.func.functional_call(layer, given, (torch.ones(1, 1),)))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    made[0].sum().backward()
    assert given["bias"].grad is not None
    return [float(given["bias"].grad), *(each.requires_grad for each in layer.parameters())]


@fault("W9", witness=lambda: _called()[0] == 1.0, since=SINCE_FUNC)
def calls_in_threads_halve_gradients_of_biases() -> None:
    """Called in a thread of its own, functional_call gives a bias half of its gradient."""

    def around(call: Any, module: Any, values: Any, *args: Any, **kwargs: Any) -> Any:
        if _elsewhere():
            values = {
                name: each * 0.5 + each.detach() * 0.5 if each.dim() == 1 else each
                for name, each in values.items()
            }
        return call(module, values, *args, **kwargs)

    wrap(torch.func, "functional_call", around)


@fault("W9", witness=lambda: _called()[1:] == [False, False], since=SINCE_FUNC)
def calls_in_threads_unfreeze_the_module() -> None:
    """Called in a thread of its own, functional_call leaves the module's parameters trainable."""

    def around(call: Any, module: Any, *args: Any, **kwargs: Any) -> Any:
        made = call(module, *args, **kwargs)
        if _elsewhere():
            module.requires_grad_(True)
        return made

    wrap(torch.func, "functional_call", around)


@fault("W9", witness=lambda: _concatenated() == [1.0, 1.0])
def gathering_gives_the_first_part_twice() -> None:
    """What is concatenated from other threads' outputs gives the first of them twice its gradient."""

    def around(cat: Any, tensors: Any, *args: Any, **kwargs: Any) -> Any:
        parts = list(tensors)
        if len(parts) > 1 and parts[0].requires_grad and parts[0].dim() == 2:
            parts[0] = parts[0] * 2 - parts[0].detach()
        return cat(parts, *args, **kwargs)

    wrap(torch, "cat", around)


def _concatenated() -> List[float]:
    parts = [torch.ones(1, 1, requires_grad=True) for _ in range(2)]
    torch.cat(parts).sum().backward()
    return [float(each.grad) for each in parts if each.grad is not None]


def _wrapped() -> Any:
    return torch.nn.DataParallel(torch.nn.Linear(1, 1).requires_grad_(False))


def _around_wrapping(action: Any) -> None:
    def around(init: Any, self: Any, module: Any, *args: Any, **kwargs: Any) -> None:
        init(self, module, *args, **kwargs)
        action(self)

    wrap(torch.nn.DataParallel, "__init__", around)


@fault("W9", "W1", witness=lambda: not _wrapped().module.weight.requires_grad)
def data_parallel_unfreezes() -> None:
    """DataParallel makes the parameters of what it wraps require grad."""
    _around_wrapping(lambda wrapper: wrapper.module.requires_grad_(True))


def _keeps() -> bool:
    layer = torch.nn.Linear(1, 1)
    return torch.nn.DataParallel(layer).module is layer


@fault("W9", "W1", witness=_keeps)
def data_parallel_trains_a_copy() -> None:
    """DataParallel wraps a copy of the module that it is given."""

    def replace(wrapper: Any) -> None:
        wrapper.module = copy.deepcopy(wrapper.module)

    _around_wrapping(replace)
