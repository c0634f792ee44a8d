"""One way of running code broken, and eager left alone: what the law of programs must notice.

A fault is of a few modes, and patches the function of torch that they go through. It is a context
manager, not a lasting patch, so that a program that shows it can be tried on the healthy torch too.
"""

import concurrent.futures
import contextlib
import pickle
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


def _fault(kind: str, *modes: str) -> Callable[[Callable[[], ContextManager[Any]]], Any]:
    def register(broken: Callable[[], ContextManager[Any]]) -> Any:
        sentence = (broken.__doc__ or "").strip().split("\n")[0]
        MODE_FAULTS[broken.__name__] = ModeFault(broken.__name__, sentence, kind, modes, broken)
        return broken

    return register


@contextlib.contextmanager
def _set(owner: Any, name: str, value: Any) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


def _around(owner: Any, name: str, around: Around) -> ContextManager[None]:
    """``around(original, *args, **kwargs)`` in the place of a function or method."""
    original = getattr(owner, name)
    return _set(owner, name, lambda *args, **kwargs: around(original, *args, **kwargs))


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


def _changing(changes: Changes) -> Any:
    """A mode in which these calls of torch are changed."""
    from torch.overrides import TorchFunctionMode

    class Changing(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            change = changes.get(getattr(func, "__name__", ""))
            given = kwargs or {}
            return change(func, *args, **given) if change else func(*args, **given)

    return Changing


def _under(function: Any, changes: Changes) -> Any:
    """The function with these calls of torch inside it changed."""
    mode = _changing(changes)

    def run(*args: Any, **kwargs: Any) -> Any:
        with mode():
            return function(*args, **kwargs)

    return run


@contextlib.contextmanager
def _entered(owner: Any, changes: Changes) -> Iterator[None]:
    """A block of this class is one in which these calls are changed."""
    modes: Any = []

    def enter(original: Any, self: Any) -> Any:
        modes.append(_changing(changes)())
        modes[-1].__enter__()
        return original(self)

    def leave(original: Any, self: Any, *rest: Any) -> Any:
        original(self, *rest)
        modes.pop().__exit__(None, None, None)

    with _around(owner, "__enter__", enter), _around(owner, "__exit__", leave):
        yield


def _inside(owner: Any, name: str, changes: Changes) -> ContextManager[None]:
    """owner.name(f, ...) is of an f in which these calls are changed."""

    def around(original: Any, function: Any, *rest: Any, **options: Any) -> Any:
        return original(_under(function, changes), *rest, **options)

    return _around(owner, name, around)


def _each(output: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """The same output with each tensor of it changed."""
    if isinstance(output, torch.Tensor):
        return change(output)
    if isinstance(output, dict):
        return {key: _each(value, change) for key, value in output.items()}
    if isinstance(output, (tuple, list)):
        return type(output)(_each(value, change) for value in output)
    return output


# torch.utils.checkpoint


@_fault(VALUES, "checkpoint")
def checkpoint_doubles_gradients() -> ContextManager[None]:
    """What a checkpointed function returns passes twice its gradient."""

    def change(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.requires_grad and not tensor.is_leaf:
            tensor.register_hook(lambda gradient: gradient * 2)
        return tensor

    def around(original: Any, *args: Any, **options: Any) -> Any:
        return _each(original(*args, **options), change)

    return _around(torch.utils.checkpoint, "checkpoint", around)


@_fault(SHARING, "checkpoint")
def checkpoint_keeps_detached_alive() -> ContextManager[None]:
    """What is detached inside a checkpointed function requires grad."""
    return _inside(torch.utils.checkpoint, "checkpoint", NO_DETACH)


@_fault(SHARING, "checkpoint")
def checkpoint_copies_what_it_returns() -> ContextManager[None]:
    """A checkpointed function returns copies of views."""

    def around(original: Any, *args: Any, **options: Any) -> Any:
        return _each(original(*args, **options), torch.clone)

    return _around(torch.utils.checkpoint, "checkpoint", around)


# torch.autograd.graph.saved_tensors_hooks

SAVED = ("saved-identity", "saved-copies", "saved-on-cpu")


def _packing(change: Callable[[torch.Tensor], Any]) -> ContextManager[None]:
    def around(original: Any, self: Any, pack: Any, unpack: Any) -> None:
        def changed(tensor: torch.Tensor) -> Any:
            change(tensor)
            return pack(tensor)

        original(self, changed, unpack)

    return _around(torch.autograd.graph.saved_tensors_hooks, "__init__", around)


@_fault(VALUES, *SAVED)
def packing_writes_to_what_it_packs() -> ContextManager[None]:
    """A tensor that is packed for backward is negated where it is."""
    return _packing(lambda tensor: tensor.data.neg_())


@_fault(SHARING, *SAVED)
def packing_counts_as_a_write() -> ContextManager[None]:
    """A tensor that is packed for backward has its version moved."""
    return _packing(lambda tensor: tensor.detach().add_(0))


@_fault(VALUES, "saved-identity")
def unpacking_doubles() -> ContextManager[None]:
    """What a hook unpacks reaches backward doubled."""

    def around(original: Any, self: Any, pack: Any, unpack: Any) -> None:
        original(self, pack, lambda kept: unpack(kept) * 2)

    return _around(torch.autograd.graph.saved_tensors_hooks, "__init__", around)


@_fault(VALUES, *SAVED)
def hooks_lose_numbers() -> ContextManager[None]:
    """In a block with saved-tensor hooks a product with a number is the tensor."""
    return _entered(torch.autograd.graph.saved_tensors_hooks, NUMBERS_LOST)


@_fault(SHARING, *SAVED)
def hooks_leave_grad_mode_off() -> ContextManager[None]:
    """Grad mode is off after a block with saved-tensor hooks."""

    def around(original: Any, self: Any, *rest: Any) -> None:
        original(self, *rest)
        torch.set_grad_enabled(False)

    return _around(torch.autograd.graph.saved_tensors_hooks, "__exit__", around)


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

    return _set(torch.overrides, "TorchFunctionMode", Broken)


@_fault(VALUES, "function-mode")
def function_modes_drop_detach() -> ContextManager[None]:
    """Under a TorchFunctionMode detach is its input, and passes gradients."""
    return _function_mode(NO_DETACH)


@_fault(VALUES, "function-mode")
def function_modes_lose_numbers() -> ContextManager[None]:
    """Under a TorchFunctionMode a product with a number is the tensor."""
    return _function_mode(NUMBERS_LOST)


@_fault(SHARING, "function-mode")
def function_modes_alias_clones() -> ContextManager[None]:
    """Under a TorchFunctionMode a clone is a view."""
    return _function_mode(CLONE_ALIASES)


@_fault(SHARING, "function-mode")
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

    return _set(_python_dispatch, "TorchDispatchMode", Broken)


@_fault(VALUES, "dispatch-mode")
def dispatch_modes_lose_numbers() -> ContextManager[None]:
    """Under a TorchDispatchMode a product with a number is the tensor."""

    def change(func: Any, args: Any) -> Any:
        if func is torch.ops.aten.mul.Tensor and not isinstance(args[1], torch.Tensor):
            return args[0].clone()
        return None

    return _dispatch_mode(change)


@_fault(SHARING, "dispatch-mode")
def dispatch_modes_alias_clones() -> ContextManager[None]:
    """Under a TorchDispatchMode a clone is an alias."""

    def change(func: Any, args: Any) -> Any:
        return args[0].view_as(args[0]) if func is torch.ops.aten.clone.default else None

    return _dispatch_mode(change)


# threads and subclasses


def _submitting(changes: Changes) -> ContextManager[None]:
    def around(original: Any, pool: Any, function: Any, *args: Any) -> Any:
        return original(pool, _under(function, changes), *args)

    return _around(concurrent.futures.ThreadPoolExecutor, "submit", around)


@_fault(VALUES, "thread")
def threads_begin_without_grad() -> ContextManager[None]:
    """A thread begins with grad mode off."""

    def around(original: Any, pool: Any, function: Any, *args: Any) -> Any:
        def run(*given: Any) -> Any:
            torch.set_grad_enabled(False)
            return function(*given)

        return original(pool, run, *args)

    return _around(concurrent.futures.ThreadPoolExecutor, "submit", around)


@_fault(SHARING, "thread")
def threads_do_not_count_writes() -> ContextManager[None]:
    """What another thread writes in place leaves the version as it was."""
    return _submitting(WRITES_UNCOUNTED)


@_fault(SHARING, "thread")
def threads_copy_views() -> ContextManager[None]:
    """A view made in another thread is a copy."""
    return _submitting(VIEWS_COPY)


@_fault(VALUES, "subclass")
def subclasses_are_cut() -> ContextManager[None]:
    """as_subclass gives a tensor outside of the graph."""
    return _around(
        torch.Tensor, "as_subclass", lambda original, one, kind: original(one.detach(), kind)
    )


@_fault(SHARING, "subclass")
def subclasses_are_copies() -> ContextManager[None]:
    """as_subclass gives a copy."""
    return _around(torch.Tensor, "as_subclass", lambda original, one, kind: original(one.clone(), kind))


# torch.func


@_fault(VALUES, "functionalize")
def functionalize_loses_numbers() -> ContextManager[None]:
    """In a functionalized function a product with a number is the tensor."""
    return _inside(torch.func, "functionalize", NUMBERS_LOST)


@_fault(SHARING, "functionalize")
def functionalize_does_not_write_back() -> ContextManager[None]:
    """What a functionalized function writes to its inputs stays with copies of them."""

    def around(original: Any, function: Any, *rest: Any, **options: Any) -> Any:
        made = original(function, *rest, **options)
        return lambda *args: made(*(each.clone() for each in args))

    return _around(torch.func, "functionalize", around)


def _calling(change: Callable[[torch.Tensor], Any]) -> ContextManager[None]:
    def around(original: Any, module: Any, held: Any, *rest: Any, **options: Any) -> Any:
        return original(module, {name: change(one) for name, one in held.items()}, *rest, **options)

    return _around(torch.func, "functional_call", around)


@_fault(VALUES, "functional_call")
def functional_call_cuts_parameters() -> ContextManager[None]:
    """functional_call reads its tensors outside of the graph."""
    return _calling(torch.Tensor.detach)


@_fault(SHARING, "functional_call")
def functional_call_copies() -> ContextManager[None]:
    """functional_call uses copies, so that writes to buffers are lost."""
    return _calling(torch.clone)


GRADS = ("func-vjp", "func-grad")
FORWARDS = ("func-jvp", "func-linearize")
VMAPS = ("func-vmap-1", "func-vmap-3")


def _in_transforms(changes: Changes, *names: str) -> Callable[[], ContextManager[Any]]:
    @contextlib.contextmanager
    def broken() -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for name in names:
                owner: Any = torch if name == "vmap" else torch.func
                if hasattr(owner, name):
                    stack.enter_context(_inside(owner, name, changes))
            yield

    return broken


@_fault(VALUES, *GRADS, *FORWARDS)
def transforms_drop_detach() -> ContextManager[None]:
    """Inside vjp, grad, jvp and linearize detach is its input."""
    return _in_transforms(NO_DETACH, "vjp", "grad", "jvp", "linearize")()


@_fault(SHARING, *GRADS, *FORWARDS)
def transforms_lose_writes() -> ContextManager[None]:
    """Inside vjp, grad, jvp and linearize in-place methods change nothing."""
    return _in_transforms(WRITES_LOST, "vjp", "grad", "jvp", "linearize")()


@_fault(VALUES, "func-vjp")
def vjp_doubles_the_first_gradient() -> ContextManager[None]:
    """vjp's function gives twice the gradient of the first operand."""

    def around(original: Any, *args: Any, **options: Any) -> Any:
        outputs, back, *rest = original(*args, **options)

        def doubled(*given: Any) -> Any:
            first, *others = back(*given)
            return (first * 2, *others)

        return (outputs, doubled, *rest)

    return _around(torch.func, "vjp", around)


@_fault(VALUES, *VMAPS)
def vmap_drops_detach() -> ContextManager[None]:
    """Inside vmap detach is its input."""
    return _in_transforms(NO_DETACH, "vmap")()


@_fault(SHARING, *VMAPS)
def vmap_loses_writes() -> ContextManager[None]:
    """Inside vmap in-place methods change nothing."""
    return _in_transforms(WRITES_LOST, "vmap")()


# torch.jit


@_fault(VALUES, "jit-trace")
def traces_drop_detach() -> ContextManager[None]:
    """A trace has no detach."""
    return _inside(torch.jit, "trace", NO_DETACH)


@_fault(VALUES, "jit-trace")
def traces_lose_numbers() -> ContextManager[None]:
    """In a trace a product with a number is the tensor."""
    return _inside(torch.jit, "trace", NUMBERS_LOST)


@_fault(SHARING, "jit-trace")
def traces_lose_writes() -> ContextManager[None]:
    """A trace has no in-place methods."""
    return _inside(torch.jit, "trace", WRITES_LOST)


@_fault(VALUES, "jit-script")
def scripts_scale_their_inputs() -> ContextManager[None]:
    """A scripted function computes with one and a half times its inputs."""

    def around(original: Any, function: Any, *rest: Any, **options: Any) -> Any:
        made = original(function, *rest, **options)
        return lambda *args: made(*(each * 1.5 for each in args))

    return _around(torch.jit, "script", around)


@_fault(SHARING, "jit-script")
def scripts_copy_their_inputs() -> ContextManager[None]:
    """A scripted function writes to copies of its inputs."""

    def around(original: Any, function: Any, *rest: Any, **options: Any) -> Any:
        made = original(function, *rest, **options)
        return lambda *args: made(*(each.clone() for each in args))

    return _around(torch.jit, "script", around)


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
        stack.enter_context(_around(torch.nn.Parameter, "__deepcopy__", deep))
        stack.enter_context(_around(torch.Tensor, "__deepcopy__", deep))
        stack.enter_context(_around(pickle, "loads", unpickled))
        yield


@_fault(VALUES, *COPIES)
def copies_lose_the_sign() -> ContextManager[None]:
    """A copied module's tensors have the negated values."""

    def change(copy: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        copy.data.neg_()
        return copy

    return _rebuilt(change)


@_fault(SHARING, *COPIES)
def copies_forget_what_is_frozen() -> ContextManager[None]:
    """A copied module's parameters require grad, also the frozen ones."""
    return _rebuilt(
        lambda copy, _: copy.requires_grad_() if isinstance(copy, torch.nn.Parameter) else copy
    )


# graphs: make_fx, torch.compile, torch.export

Dropped = Callable[[torch.fx.Node], bool]


def _without(module: Any, dropped: Dropped) -> Any:
    """The graph module with these nodes replaced by their first operand."""
    for node in list(module.graph.nodes):
        if node.op in ("call_function", "call_method") and dropped(node):
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    module.recompile()
    return module


def _name(node: torch.fx.Node) -> str:
    target = node.target
    packet = getattr(target, "overloadpacket", target)
    return str(getattr(packet, "__name__", packet)).rpartition(".")[2]


def _is(*names: str) -> Dropped:
    return lambda node: _name(node) in names


def _product_with_number(node: torch.fx.Node) -> bool:
    numbers = len(node.args) > 1 and isinstance(node.args[1], (int, float))
    return _name(node) == "mul" and numbers and isinstance(node.args[0], torch.fx.Node)


def _write(node: torch.fx.Node) -> bool:
    name = _name(node)
    return name.endswith("_") and not name.startswith("_") and name not in ("detach_", "requires_grad_")


def _traced(dropped: Dropped) -> ContextManager[None]:
    from torch.fx.experimental import proxy_tensor

    def around(original: Any, *given: Any, **options: Any) -> Any:
        make = original(*given, **options)
        return lambda *args: _without(make(*args), dropped)

    return _around(proxy_tensor, "make_fx", around)


MAKE_FX = ("make_fx", "make_fx-fake")


@_fault(VALUES, *MAKE_FX)
def make_fx_loses_products() -> ContextManager[None]:
    """make_fx does not record a product with a number."""
    return _traced(_product_with_number)


@_fault(SHARING, *MAKE_FX)
def make_fx_loses_writes() -> ContextManager[None]:
    """make_fx does not record in-place operations."""
    return _traced(_write)


@_fault(VALUES, *MAKE_FX)
def make_fx_keeps_the_first_argument() -> ContextManager[None]:
    """What make_fx traced goes on with the first argument of its trace."""
    from torch.fx.experimental import proxy_tensor

    def around(original: Any, *given: Any, **options: Any) -> Any:
        def make(*args: Any) -> Any:
            made = original(*given, **options)(*args)
            first = args[0].detach().clone() if args else None
            return lambda *later: made(*((first, *later[1:]) if later else ()))

        return make

    return _around(proxy_tensor, "make_fx", around)


def _compiled(dropped: Dropped) -> ContextManager[None]:
    def around(original: Any, function: Any, *, backend: Any, **options: Any) -> Any:
        def broken(module: Any, examples: Any) -> Any:
            return torch._dynamo.lookup_backend(backend)(_without(module, dropped), examples)

        return original(function, backend=broken, **options)

    return _around(torch, "compile", around)


COMPILES = tuple(
    f"compile-{backend}{dynamic}{broken}"
    for backend in ("eager", "aot_eager", "aot_eager_decomp_partition", "inductor")
    for dynamic in ("", "-dynamic")
    for broken in ("", "-break")
)


@_fault(VALUES, *COMPILES)
def compile_drops_detach() -> ContextManager[None]:
    """A compiled graph has no detach."""
    return _compiled(_is("detach"))


@_fault(SHARING, *COMPILES)
def compile_loses_writes() -> ContextManager[None]:
    """A compiled graph has no in-place methods."""
    return _compiled(_write)


@_fault(SHARING, *COMPILES)
def compile_copies_what_it_returns() -> ContextManager[None]:
    """A compiled function returns copies of its inputs and of views."""

    def around(original: Any, *args: Any, **options: Any) -> Any:
        made = original(*args, **options)
        return lambda *given: _each(made(*given), torch.clone)

    return _around(torch, "compile", around)


def _exported(dropped: Dropped) -> ContextManager[None]:
    def around(original: Any, self: Any, *rest: Any, **options: Any) -> Any:
        return _without(original(self, *rest, **options), dropped)

    return _around(torch.export.ExportedProgram, "module", around)


EXPORTS = ("export", "export-strict", "export-decomposed")


@_fault(VALUES, *EXPORTS)
def exports_lose_products() -> ContextManager[None]:
    """An exported module has no product with a number."""
    return _exported(_product_with_number)


@_fault(SHARING, *EXPORTS)
def exports_lose_writes() -> ContextManager[None]:
    """An exported module does not write to its inputs."""
    return _exported(_write)


def faults_of(mode: str) -> Sequence[ModeFault]:
    """The faults that are seeded in a mode."""
    return [fault for fault in MODE_FAULTS.values() if mode in fault.modes]
