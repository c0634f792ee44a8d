"""Faults in the ways of running a function as it is: hooks, modes, threads, copies."""

import concurrent.futures
import contextlib
import pickle
from typing import Any, Callable, ContextManager, Iterator

import torch

from frostproof.properties.selftest.faults.mode_fault import (
    CLONE_ALIASES,
    NO_DETACH,
    NUMBERS_LOST,
    SHARING,
    VALUES,
    VIEWS_COPY,
    WRITES_UNCOUNTED,
    Around,
    Changes,
    each_of,
    entered,
    inside,
    mode_fault,
    patched,
    replaced,
    under,
)

# torch.utils.checkpoint


@mode_fault(VALUES, "checkpoint")
def checkpoint_doubles_gradients() -> ContextManager[None]:
    """What a checkpointed function returns passes twice its gradient."""

    def change(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.requires_grad and not tensor.is_leaf:
            tensor.register_hook(lambda gradient: gradient * 2)
        return tensor

    def around(original: Any, *args: Any, **options: Any) -> Any:
        return each_of(original(*args, **options), change)

    return patched(torch.utils.checkpoint, "checkpoint", around)


@mode_fault(SHARING, "checkpoint")
def checkpoint_keeps_detached_alive() -> ContextManager[None]:
    """What is detached inside a checkpointed function requires grad."""
    return inside(torch.utils.checkpoint, "checkpoint", NO_DETACH)


@mode_fault(SHARING, "checkpoint")
def checkpoint_copies_what_it_returns() -> ContextManager[None]:
    """A checkpointed function returns copies of views."""

    def around(original: Any, *args: Any, **options: Any) -> Any:
        return each_of(original(*args, **options), torch.clone)

    return patched(torch.utils.checkpoint, "checkpoint", around)


# torch.autograd.graph.saved_tensors_hooks

SAVED = ("saved-identity", "saved-copies", "saved-on-cpu")


def _packing(change: Callable[[torch.Tensor], Any]) -> ContextManager[None]:
    def around(original: Any, self: Any, pack: Any, unpack: Any) -> None:
        def changed(tensor: torch.Tensor) -> Any:
            change(tensor)
            return pack(tensor)

        original(self, changed, unpack)

    return patched(torch.autograd.graph.saved_tensors_hooks, "__init__", around)


@mode_fault(VALUES, *SAVED)
def packing_writes_to_what_it_packs() -> ContextManager[None]:
    """A tensor that is packed for backward is negated where it is."""
    return _packing(lambda tensor: tensor.data.neg_())


@mode_fault(SHARING, *SAVED)
def packing_counts_as_a_write() -> ContextManager[None]:
    """A tensor that is packed for backward has its version moved."""
    return _packing(lambda tensor: tensor.detach().add_(0))


@mode_fault(VALUES, "saved-identity")
def unpacking_doubles() -> ContextManager[None]:
    """What a hook unpacks reaches backward doubled."""

    def around(original: Any, self: Any, pack: Any, unpack: Any) -> None:
        original(self, pack, lambda kept: unpack(kept) * 2)

    return patched(torch.autograd.graph.saved_tensors_hooks, "__init__", around)


@mode_fault(VALUES, *SAVED)
def hooks_lose_numbers() -> ContextManager[None]:
    """In a block with saved-tensor hooks a product with a number is the tensor."""
    return entered(torch.autograd.graph.saved_tensors_hooks, NUMBERS_LOST)


@mode_fault(SHARING, *SAVED)
def hooks_leave_grad_mode_off() -> ContextManager[None]:
    """Grad mode is off after a block with saved-tensor hooks."""

    def around(original: Any, self: Any, *rest: Any) -> None:
        original(self, *rest)
        torch.set_grad_enabled(False)

    return patched(torch.autograd.graph.saved_tensors_hooks, "__exit__", around)


# modes of __torch_function__ and __torch_dispatch__


def _function_mode(changes: Changes) -> ContextManager[None]:
    base: Any = torch.overrides.TorchFunctionMode

    class Broken(base):  # type: ignore[misc]
        def __init_subclass__(cls) -> None:
            inner = cls.__torch_function__

            def around(self: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                change = changes.get(getattr(func, "__name__", ""))
                if change:
                    return change(func, *args, **(kwargs or {}))
                return inner(self, func, types, args, kwargs)

            cls.__torch_function__ = around

    return replaced(torch.overrides, "TorchFunctionMode", Broken)


@mode_fault(VALUES, "function-mode")
def function_modes_drop_detach() -> ContextManager[None]:
    """Under a TorchFunctionMode detach is its input, and passes gradients."""
    return _function_mode(NO_DETACH)


@mode_fault(VALUES, "function-mode")
def function_modes_lose_numbers() -> ContextManager[None]:
    """Under a TorchFunctionMode a product with a number is the tensor."""
    return _function_mode(NUMBERS_LOST)


@mode_fault(SHARING, "function-mode")
def function_modes_alias_clones() -> ContextManager[None]:
    """Under a TorchFunctionMode a clone is a view."""
    return _function_mode(CLONE_ALIASES)


@mode_fault(SHARING, "function-mode")
def function_modes_do_not_count_writes() -> ContextManager[None]:
    """Under a TorchFunctionMode in-place methods leave the version as it was."""
    return _function_mode(WRITES_UNCOUNTED)


def _dispatch_mode(change: Around) -> ContextManager[None]:
    from torch.utils import _python_dispatch

    base: Any = _python_dispatch.TorchDispatchMode

    class Broken(base):  # type: ignore[misc]
        def __init_subclass__(cls) -> None:
            super().__init_subclass__()
            inner = cls.__torch_dispatch__

            def around(self: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                made = change(func, args)
                return inner(self, func, types, args, kwargs) if made is None else made

            cls.__torch_dispatch__ = around

    return replaced(_python_dispatch, "TorchDispatchMode", Broken)


@mode_fault(VALUES, "dispatch-mode")
def dispatch_modes_lose_numbers() -> ContextManager[None]:
    """Under a TorchDispatchMode a product with a number is the tensor."""

    def change(func: Any, args: Any) -> Any:
        if func is torch.ops.aten.mul.Tensor and not isinstance(args[1], torch.Tensor):
            return args[0].clone()
        return None

    return _dispatch_mode(change)


@mode_fault(SHARING, "dispatch-mode")
def dispatch_modes_alias_clones() -> ContextManager[None]:
    """Under a TorchDispatchMode a clone is an alias."""

    def change(func: Any, args: Any) -> Any:
        return args[0].view_as(args[0]) if func is torch.ops.aten.clone.default else None

    return _dispatch_mode(change)


# threads and subclasses


def _submitting(changes: Changes) -> ContextManager[None]:
    def around(original: Any, pool: Any, function: Any, *args: Any) -> Any:
        return original(pool, under(function, changes), *args)

    return patched(concurrent.futures.ThreadPoolExecutor, "submit", around)


@mode_fault(VALUES, "thread")
def threads_begin_without_grad() -> ContextManager[None]:
    """A thread begins with grad mode off."""

    def around(original: Any, pool: Any, function: Any, *args: Any) -> Any:
        def run(*given: Any) -> Any:
            torch.set_grad_enabled(False)
            return function(*given)

        return original(pool, run, *args)

    return patched(concurrent.futures.ThreadPoolExecutor, "submit", around)


@mode_fault(SHARING, "thread")
def threads_do_not_count_writes() -> ContextManager[None]:
    """What another thread writes in place leaves the version as it was."""
    return _submitting(WRITES_UNCOUNTED)


@mode_fault(SHARING, "thread")
def threads_copy_views() -> ContextManager[None]:
    """A view made in another thread is a copy."""
    return _submitting(VIEWS_COPY)


@mode_fault(VALUES, "subclass")
def subclasses_are_cut() -> ContextManager[None]:
    """as_subclass gives a tensor outside of the graph."""
    return patched(
        torch.Tensor, "as_subclass", lambda original, one, kind: original(one.detach(), kind)
    )


@mode_fault(SHARING, "subclass")
def subclasses_are_copies() -> ContextManager[None]:
    """as_subclass gives a copy."""
    return patched(torch.Tensor, "as_subclass", lambda original, one, kind: original(one.clone(), kind))


# copies of modules

COPIES = ("module-deepcopy", "module-pickle")


@contextlib.contextmanager
def _rebuilt(change: Callable[[torch.Tensor, torch.Tensor], Any]) -> Iterator[None]:
    """change(copy, original) is what a copy of a tensor is: deep copies, and pickled ones."""

    def deep(original: Any, tensor: Any, memo: Any) -> Any:
        return change(original(tensor, memo), tensor)

    def unpickled(original: Any, text: Any, *rest: Any, **options: Any) -> Any:
        found = original(text, *rest, **options)
        for held in (found["_parameters"], found["_buffers"]):
            for name, one in held.items():
                held[name] = change(one, one)
        return found

    with contextlib.ExitStack() as stack:
        stack.enter_context(patched(torch.nn.Parameter, "__deepcopy__", deep))
        stack.enter_context(patched(torch.Tensor, "__deepcopy__", deep))
        stack.enter_context(patched(pickle, "loads", unpickled))
        yield


@mode_fault(VALUES, *COPIES)
def copies_lose_the_sign() -> ContextManager[None]:
    """A copied module's tensors have the negated values."""

    def change(copy: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        copy.data.neg_()
        return copy

    return _rebuilt(change)


@mode_fault(SHARING, *COPIES)
def copies_forget_what_is_frozen() -> ContextManager[None]:
    """A copied module's parameters require grad, also the frozen ones."""
    return _rebuilt(
        lambda copy, _: copy.requires_grad_() if isinstance(copy, torch.nn.Parameter) else copy
    )
