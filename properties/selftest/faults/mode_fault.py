"""One way of running code broken, and eager left alone: what the law of programs must notice.

A fault is of a few modes, and patches the function of torch that they go through. It is a context
manager, not a lasting patch, so that a program that shows it can be tried on the healthy torch too.
"""

import contextlib
from dataclasses import dataclass
from typing import Any, Callable, ContextManager, Dict, Iterator, Sequence, Tuple

import torch

VALUES, SHARING = "values or gradients", "aliasing, flags or versions"
Around = Callable[..., Any]


@dataclass(frozen=True)
class ModeFault:
    """A fault in some modes: what is broken (one sentence), its kind, the context that breaks it."""

    name: str
    sentence: str
    kind: str
    modes: Tuple[str, ...]
    broken: Callable[[], ContextManager[Any]]


MODE_FAULTS: Dict[str, ModeFault] = {}


def mode_fault(kind: str, *modes: str) -> Callable[[Callable[[], ContextManager[Any]]], Any]:
    def register(broken: Callable[[], ContextManager[Any]]) -> Any:
        sentence = (broken.__doc__ or "").strip().split("\n")[0]
        MODE_FAULTS[broken.__name__] = ModeFault(broken.__name__, sentence, kind, modes, broken)
        return broken

    return register


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


def patched(owner: Any, name: str, around: Around) -> ContextManager[None]:
    """``around(original, *args, **kwargs)`` in the place of a function or method."""
    original = getattr(owner, name)
    return replaced(owner, name, lambda *args, **kwargs: around(original, *args, **kwargs))


# What may go wrong with one function of torch: change(func, *args, **kwargs) is its result.
Changes = Dict[str, Around]


def _itself(func: Any, tensor: Any, *rest: Any, **options: Any) -> Any:
    return tensor


def _alias(func: Any, tensor: Any, *rest: Any, **options: Any) -> Any:
    return tensor.view_as(tensor)


def _copy(func: Any, tensor: Any, *rest: Any, **options: Any) -> Any:
    made = func(tensor, *rest, **options)
    return made.clone() if isinstance(made, torch.Tensor) else tuple(one.clone() for one in made)


def _uncounted(func: Any, tensor: Any, *rest: Any, **options: Any) -> Any:
    if not tensor.requires_grad:
        func(tensor.data, *rest, **options)
        return tensor
    return func(tensor, *rest, **options)


def _number_lost(func: Any, tensor: Any, other: Any, *rest: Any, **options: Any) -> Any:
    return func(tensor, other if isinstance(other, torch.Tensor) else 1, *rest, **options)


METHODS_THAT_WRITE = ("add_", "mul_", "zero_", "fill_", "relu_", "copy_", "index_fill_", "__setitem__")
NO_DETACH: Changes = {"detach": _itself}
CLONE_ALIASES: Changes = {"clone": _alias}
WRITES_UNCOUNTED: Changes = {name: _uncounted for name in METHODS_THAT_WRITE}
WRITES_LOST: Changes = {name: _itself for name in METHODS_THAT_WRITE}
NUMBERS_LOST: Changes = {"mul": _number_lost, "__mul__": _number_lost, "__rmul__": _number_lost}
VIEWS_COPY: Changes = {
    name: _copy for name in ("view", "__getitem__", "t", "select", "flatten", "chunk", "unbind")
}


def changing(changes: Changes) -> Any:
    """A mode in which these calls of torch are changed."""
    from torch.overrides import TorchFunctionMode

    class Changing(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            change = changes.get(getattr(func, "__name__", ""))
            given = kwargs or {}
            return change(func, *args, **given) if change else func(*args, **given)

    return Changing


def under(function: Any, changes: Changes) -> Any:
    """The function with these calls of torch inside it changed."""
    mode = changing(changes)

    def run(*args: Any, **kwargs: Any) -> Any:
        with mode():
            return function(*args, **kwargs)

    return run


@contextlib.contextmanager
def entered(owner: Any, changes: Changes) -> Iterator[None]:
    """A block of this class is one in which these calls are changed."""
    modes: Any = []

    def enter(original: Any, self: Any) -> Any:
        modes.append(changing(changes)())
        modes[-1].__enter__()
        return original(self)

    def leave(original: Any, self: Any, *rest: Any) -> Any:
        original(self, *rest)
        modes.pop().__exit__(None, None, None)

    with patched(owner, "__enter__", enter), patched(owner, "__exit__", leave):
        yield


def inside(owner: Any, name: str, changes: Changes) -> ContextManager[None]:
    """owner.name(f, ...) is of an f in which these calls are changed."""

    def around(original: Any, function: Any, *rest: Any, **options: Any) -> Any:
        return original(under(function, changes), *rest, **options)

    return patched(owner, name, around)


def each_of(output: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """The same output with each tensor of it changed."""
    if isinstance(output, torch.Tensor):
        return change(output)
    if isinstance(output, dict):
        return {key: each_of(value, change) for key, value in output.items()}
    if isinstance(output, (tuple, list)):
        return type(output)(each_of(value, change) for value in output)
    return output


def faults_of(mode: str) -> Sequence[ModeFault]:
    """The faults that are seeded in a mode."""
    return [fault for fault in MODE_FAULTS.values() if mode in fault.modes]
