"""Faults in the ways of running that transform or trace a function: torch.func, graphs."""

import contextlib
from typing import Any, Callable, ContextManager, Iterator

import torch

from frostproof.properties.selftest.faults.mode_fault import (
    NO_DETACH,
    NUMBERS_LOST,
    SHARING,
    VALUES,
    WRITES_LOST,
    Changes,
    each_of,
    inside,
    mode_fault,
    patched,
)

# torch.func


@mode_fault(VALUES, "functionalize")
def functionalize_loses_numbers() -> ContextManager[None]:
    """In a functionalized function a product with a number is the tensor."""
    return inside(torch.func, "functionalize", NUMBERS_LOST)


@mode_fault(SHARING, "functionalize")
def functionalize_does_not_write_back() -> ContextManager[None]:
    """What a functionalized function writes to its inputs stays with copies of them."""

    def around(original: Any, function: Any, *rest: Any, **options: Any) -> Any:
        made = original(function, *rest, **options)
        return lambda *args: made(*(each.clone() for each in args))

    return patched(torch.func, "functionalize", around)


def _calling(change: Callable[[torch.Tensor], Any]) -> ContextManager[None]:
    def around(original: Any, module: Any, held: Any, *rest: Any, **options: Any) -> Any:
        return original(module, {name: change(one) for name, one in held.items()}, *rest, **options)

    return patched(torch.func, "functional_call", around)


@mode_fault(VALUES, "functional_call")
def functional_call_cuts_parameters() -> ContextManager[None]:
    """functional_call reads its tensors outside of the graph."""
    return _calling(torch.Tensor.detach)


@mode_fault(SHARING, "functional_call")
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
                    stack.enter_context(inside(owner, name, changes))
            yield

    return broken


@mode_fault(VALUES, *GRADS, *FORWARDS)
def transforms_drop_detach() -> ContextManager[None]:
    """Inside vjp, grad, jvp and linearize detach is its input."""
    return _in_transforms(NO_DETACH, "vjp", "grad", "jvp", "linearize")()


@mode_fault(SHARING, *GRADS, *FORWARDS)
def transforms_lose_writes() -> ContextManager[None]:
    """Inside vjp, grad, jvp and linearize in-place methods change nothing."""
    return _in_transforms(WRITES_LOST, "vjp", "grad", "jvp", "linearize")()


@mode_fault(VALUES, "func-vjp")
def vjp_doubles_the_first_gradient() -> ContextManager[None]:
    """vjp's function gives twice the gradient of the first operand."""

    def around(original: Any, *args: Any, **options: Any) -> Any:
        outputs, back, *rest = original(*args, **options)

        def doubled(*given: Any) -> Any:
            first, *others = back(*given)
            return (first * 2, *others)

        return (outputs, doubled, *rest)

    return patched(torch.func, "vjp", around)


@mode_fault(VALUES, *VMAPS)
def vmap_drops_detach() -> ContextManager[None]:
    """Inside vmap detach is its input."""
    return _in_transforms(NO_DETACH, "vmap")()


@mode_fault(SHARING, *VMAPS)
def vmap_loses_writes() -> ContextManager[None]:
    """Inside vmap in-place methods change nothing."""
    return _in_transforms(WRITES_LOST, "vmap")()


# torch.jit


@mode_fault(VALUES, "jit-trace")
def traces_drop_detach() -> ContextManager[None]:
    """A trace has no detach."""
    return inside(torch.jit, "trace", NO_DETACH)


@mode_fault(VALUES, "jit-trace")
def traces_lose_numbers() -> ContextManager[None]:
    """In a trace a product with a number is the tensor."""
    return inside(torch.jit, "trace", NUMBERS_LOST)


@mode_fault(SHARING, "jit-trace")
def traces_lose_writes() -> ContextManager[None]:
    """A trace has no in-place methods."""
    return inside(torch.jit, "trace", WRITES_LOST)


@mode_fault(VALUES, "jit-script")
def scripts_scale_their_inputs() -> ContextManager[None]:
    """A scripted function computes with one and a half times its inputs."""

    def around(original: Any, function: Any, *rest: Any, **options: Any) -> Any:
        made = original(function, *rest, **options)
        return lambda *args: made(*(each * 1.5 for each in args))

    return patched(torch.jit, "script", around)


@mode_fault(SHARING, "jit-script")
def scripts_copy_their_inputs() -> ContextManager[None]:
    """A scripted function writes to copies of its inputs."""

    def around(original: Any, function: Any, *rest: Any, **options: Any) -> Any:
        made = original(function, *rest, **options)
        return lambda *args: made(*(each.clone() for each in args))

    return patched(torch.jit, "script", around)


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

    return patched(proxy_tensor, "make_fx", around)


MAKE_FX = ("make_fx", "make_fx-fake")


@mode_fault(VALUES, *MAKE_FX)
def make_fx_loses_products() -> ContextManager[None]:
    """make_fx does not record a product with a number."""
    return _traced(_product_with_number)


@mode_fault(SHARING, *MAKE_FX)
def make_fx_loses_writes() -> ContextManager[None]:
    """make_fx does not record in-place operations."""
    return _traced(_write)


@mode_fault(VALUES, *MAKE_FX)
def make_fx_keeps_the_first_argument() -> ContextManager[None]:
    """What make_fx traced goes on with the first argument of its trace."""
    from torch.fx.experimental import proxy_tensor

    def around(original: Any, *given: Any, **options: Any) -> Any:
        def make(*args: Any) -> Any:
            made = original(*given, **options)(*args)
            first = args[0].detach().clone() if args else None
            return lambda *later: made(*((first, *later[1:]) if later else ()))

        return make

    return patched(proxy_tensor, "make_fx", around)


def _compiled(dropped: Dropped) -> ContextManager[None]:
    def around(original: Any, function: Any, *, backend: Any, **options: Any) -> Any:
        def broken(module: Any, examples: Any) -> Any:
            return torch._dynamo.lookup_backend(backend)(_without(module, dropped), examples)

        return original(function, backend=broken, **options)

    return patched(torch, "compile", around)


COMPILES = tuple(
    f"compile-{backend}{dynamic}{broken}"
    for backend in ("eager", "aot_eager", "aot_eager_decomp_partition", "inductor")
    for dynamic in ("", "-dynamic")
    for broken in ("", "-break")
)


@mode_fault(VALUES, *COMPILES)
def compile_drops_detach() -> ContextManager[None]:
    """A compiled graph has no detach."""
    return _compiled(_is("detach"))


@mode_fault(SHARING, *COMPILES)
def compile_loses_writes() -> ContextManager[None]:
    """A compiled graph has no in-place methods."""
    return _compiled(_write)


@mode_fault(SHARING, *COMPILES)
def compile_copies_what_it_returns() -> ContextManager[None]:
    """A compiled function returns copies of its inputs and of views."""

    def around(original: Any, *args: Any, **options: Any) -> Any:
        made = original(*args, **options)
        return lambda *given: each_of(made(*given), torch.clone)

    return patched(torch, "compile", around)


def _compiled_backward(change: Callable[[Any, Any], Any]) -> ContextManager[None]:
    """change(run, inputs) runs a compiled backward on the tensors that it begins with."""

    def around(original: Any, compiler: Any, *rest: Any, **options: Any) -> Any:
        def broken(graph: Any) -> Any:
            compiled = compiler(graph)
            return lambda inputs, *more: change(lambda given: compiled(given, *more), inputs)

        return original(broken, *rest, **options)

    return patched(torch._dynamo.compiled_autograd, "_enable", around)


@mode_fault(VALUES, "compiled-autograd")
def compiled_backward_doubles() -> ContextManager[None]:
    """A compiled backward begins with twice the first gradient."""

    def change(run: Any, inputs: Any) -> Any:
        return run([inputs[0] * 2, *inputs[1:]])

    return _compiled_backward(change)


@mode_fault(SHARING, "compiled-autograd")
def compiled_backward_writes_to_what_was_saved() -> ContextManager[None]:
    """A compiled backward negates the tensors that were saved for it, where they are."""

    def change(run: Any, inputs: Any) -> Any:
        kept = list(inputs)
        made = run(inputs)
        for one in kept[1:]:
            one.data.neg_()
        return made

    return _compiled_backward(change)


@mode_fault(SHARING, "compiled-autograd")
def compiled_autograd_leaves_grad_mode_off() -> ContextManager[None]:
    """Grad mode is off after a block of compiled autograd."""

    @contextlib.contextmanager
    def around(original: Any, *rest: Any, **options: Any) -> Iterator[None]:
        with original(*rest, **options):
            yield
        torch.set_grad_enabled(False)

    return patched(torch._dynamo.compiled_autograd, "_enable", around)


def _exported(dropped: Dropped) -> ContextManager[None]:
    def around(original: Any, self: Any, *rest: Any, **options: Any) -> Any:
        return _without(original(self, *rest, **options), dropped)

    return patched(torch.export.ExportedProgram, "module", around)


EXPORTS = ("export", "export-strict", "export-decomposed")


@mode_fault(VALUES, *EXPORTS)
def exports_lose_products() -> ContextManager[None]:
    """An exported module has no product with a number."""
    return _exported(_product_with_number)


@mode_fault(SHARING, *EXPORTS)
def exports_lose_writes() -> ContextManager[None]:
    """An exported module does not write to its inputs."""
    return _exported(_write)
