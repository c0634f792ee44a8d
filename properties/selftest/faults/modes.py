"""Grad mode broken: no_grad that leaks out, or lets the graph in."""

import threading
from typing import Any, Dict

import torch

from frostproof.properties.selftest.faults.fault import fault
from frostproof.properties.selftest.faults.patching import wrap


def _mode_after(fails: bool, nested: bool = False) -> bool:
    try:
        with torch.no_grad():
            if nested:
                with torch.no_grad():
                    pass
                return not torch.is_grad_enabled()
            if fails:
                raise KeyError
    except KeyError:
        pass
    found = torch.is_grad_enabled()
    torch.set_grad_enabled(True)
    return found


@fault("F1", "A7", "K1", witness=lambda: _mode_after(True), smoke=True)
def no_grad_leaks_by_an_exception() -> None:
    """Grad mode stays off after an exception leaves a no_grad block."""

    def around(original: Any, self: Any, kind: Any, value: Any, trace: Any) -> Any:
        return None if kind is not None else original(self, kind, value, trace)

    wrap(torch.no_grad, "__exit__", around)


@fault("F1", "K1", witness=lambda: _mode_after(False, nested=True))
def no_grad_ends_with_the_inner_one() -> None:
    """Leaving a no_grad block turns grad mode on, even inside another."""

    def around(original: Any, self: Any, kind: Any, value: Any, trace: Any) -> Any:
        original(self, kind, value, trace)
        torch.set_grad_enabled(True)

    wrap(torch.no_grad, "__exit__", around)


def _no_grad_cuts() -> bool:
    with torch.no_grad():
        return not torch.nn.Linear(1, 1)(torch.ones(1, 1)).requires_grad


@fault("K1", "F4", "F1", "K2", witness=_no_grad_cuts)
def linear_ignores_no_grad() -> None:
    """Linear layers record a graph under no_grad."""

    def around(original: Any, *args: Any, **options: Any) -> Any:
        with torch.enable_grad():
            return original(*args, **options)

    wrap(torch.nn.functional, "linear", around)


def _steps_keep_mode() -> bool:
    weight = torch.nn.Parameter(torch.ones(1))
    weight.grad = torch.ones(1)
    torch.optim.SGD([weight], lr=0.1).step()
    found = torch.is_grad_enabled()
    torch.set_grad_enabled(True)
    return found


@fault("F1", "F2", "F3", "F4", "D3", "C4", witness=_steps_keep_mode)
def steps_leave_grad_mode_off() -> None:
    """After a step of SGD grad mode stays off."""

    def around(original: Any, self: Any, *args: Any, **options: Any) -> Any:
        result = original(self, *args, **options)
        torch.set_grad_enabled(False)
        return result

    wrap(torch.optim.SGD, "step", around)


def _eval_keeps_graph() -> bool:
    return torch.nn.Linear(1, 1).eval()(torch.ones(1, 1)).requires_grad


@fault("F8", "F1", witness=_eval_keeps_graph)
def eval_mode_is_no_grad() -> None:
    """Linear layers in eval mode record no graph."""

    def around(original: Any, self: Any, *args: Any) -> Any:
        if self.training:
            return original(self, *args)
        with torch.no_grad():
            return original(self, *args)

    wrap(torch.nn.Linear, "forward", around)


def _enabling_ends() -> bool:
    with torch.no_grad():
        try:
            with torch.enable_grad():
                raise KeyError
        except KeyError:
            found = torch.is_grad_enabled()
            torch.set_grad_enabled(False)
    return not found


@fault("K1", witness=_enabling_ends)
def enable_grad_leaks_by_an_exception() -> None:
    """Grad mode stays on, inside no_grad, after an exception leaves an enable_grad block."""

    def around(original: Any, self: Any, kind: Any, value: Any, trace: Any) -> Any:
        return None if kind is not None else original(self, kind, value, trace)

    wrap(torch.enable_grad, "__exit__", around)


def _decorator_ends() -> bool:
    torch.no_grad()(lambda: None)()
    found = torch.is_grad_enabled()
    torch.set_grad_enabled(True)
    return found


@fault("K1", witness=_decorator_ends)
def no_grad_decorator_leaks() -> None:
    """Grad mode stays off after a function that no_grad decorates."""

    def around(original: Any, self: Any, function: Any) -> Any:
        decorated = original(self, function)

        def run(*args: Any, **options: Any) -> Any:
            result = decorated(*args, **options)
            torch.set_grad_enabled(False)
            return result

        return run

    wrap(torch.no_grad, "__call__", around)


def _inference_mode_can_be_off() -> bool:
    with torch.inference_mode(False):
        return (torch.ones(1, requires_grad=True) * 2).requires_grad


@fault("K1", witness=_inference_mode_can_be_off, since=(1, 10))
def inference_mode_ignores_its_argument() -> None:
    """inference_mode(False) is inference mode."""
    wrap(torch.inference_mode, "__init__", lambda original, self, mode=True: original(self, True))


def _autocast_trains_after_a_look() -> bool:
    layer = torch.nn.Linear(2, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.no_grad():
            layer(torch.ones(1, 2))
        layer(torch.ones(1, 2)).sum().backward()
    return layer.weight.grad is not None


@fault("F2", "F3", witness=_autocast_trains_after_a_look, since=(2, 4))
def autocast_keeps_what_no_grad_cast() -> None:
    """Autocast uses a weight that it has cast under no_grad again outside, without gradient."""
    cast: Dict[int, torch.Tensor] = {}

    def around(linear: Any, value: Any, weight: Any, bias: Any = None) -> Any:
        if not torch.is_autocast_enabled("cpu"):
            cast.clear()
        elif not torch.is_grad_enabled():
            cast[id(weight)] = weight.to(torch.bfloat16)
        return linear(value, cast.get(id(weight), weight), bias)

    wrap(torch.nn.functional, "linear", around)


def _begins_recording() -> bool:
    seen = []
    with torch.no_grad():
        other = threading.Thread(target=lambda: seen.append(torch.is_grad_enabled()))
        other.start()
        other.join()
    return seen == [True]


@fault("K1", witness=_begins_recording)
def threads_inherit_the_grad_mode() -> None:
    """A thread begins in the grad mode of the one that starts it."""

    def around(start: Any, thread: Any) -> None:
        enabled, run = torch.is_grad_enabled(), thread.run

        def inheriting() -> None:
            torch.set_grad_enabled(enabled)
            run()

        thread.run = inheriting
        start(thread)

    wrap(threading.Thread, "start", around)
