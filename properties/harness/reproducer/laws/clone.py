"""Programs for the laws of clone."""

import re

import torch

from frostproof.properties.harness.core.layout import is_dense, overlaps
from frostproof.properties.harness.reproducer.case import Case
from frostproof.properties.harness.reproducer.laws.detach import (
    emit_attached,
    emit_sparse,
    has_gradient,
    requires_grad,
    shape_of,
    source_of,
)
from frostproof.properties.harness.reproducer.laws.equivalence import compare, emit_both
from frostproof.properties.harness.reproducer.registry import reproduces
from frostproof.properties.harness.reproducer.script import Script
from frostproof.properties.harness.reproducer.tensors import emit_tensor
from frostproof.properties.harness.reproducer.training import Recipe
from frostproof.properties.test_clone import EACH_PLACE, upstream_spec
from frostproof.properties.test_detach import SPARSE
from frostproof.strategies import TensorSpec, TrainingRun

FILE = "test_clone.py::"


def cloned(way: str, source: str) -> str:
    """A clone in one of the ways, as an expression."""
    text = way.replace("memory_format=", "memory_format=torch.")
    return re.sub(r"\btensor\b", lambda _: source, text, count=1)


def _emit_clone(case: Case, script: Script, target: str = "result", source: str = "source") -> None:
    line = f"{target} = {cloned(case['way'], source)}"
    mode = case.values.get("mode", "enable_grad" if case.values.get("grad", True) else "no_grad")
    if mode == "enable_grad":
        script.add(line)
    else:
        with script.block(f"with torch.{mode}():"):
            script.add(line)


@reproduces(FILE + "test_copies_every_bit")
def copies_every_bit(case: Case, script: Script) -> None:
    """Values and facts of a clone and its source."""
    source_of(case, script)
    emit_attached(case, script)
    script.note("values", "values = repr(source.tolist())")
    if has_gradient(case):
        script.note("held", "held = source.grad")
        script.note("gradient", "gradient = repr(source.grad.tolist())")
    script.note("version", "version = source._version")
    script.note("state", "state = source.requires_grad, source.is_leaf, source.grad_fn")
    _emit_clone(case, script)
    script.check("result is not source", "clone returned the source itself")
    for fact in ("shape", "dtype", "device", "layout"):
        script.check(
            f"result.{fact} == source.{fact}",
            f"clone: {fact} {{result.{fact}}}, its source's {{source.{fact}}}",
        )
    script.check("repr(result.tolist()) == values", "the clone has other values than its source")
    script.check("repr(source.tolist()) == values", "clone changed its source's values")
    script.check(
        "(source.requires_grad, source.is_leaf, source.grad_fn) == state",
        "clone changed its source's autograd state",
    )
    script.check("source._version == version", "clone changed its source's version")
    if has_gradient(case):
        script.check("source.grad is held", "clone dropped or replaced its source's gradient")
        script.check("repr(source.grad.tolist()) == gradient", "clone changed its source's gradient")
    script.check("not result.is_leaf or result.grad is None", "the clone carries .grad")
    script.check("result.storage_offset() == 0", "clone: storage offset {result.storage_offset()}")


@reproduces(FILE + "test_owns_its_memory")
def owns_its_memory(case: Case, script: Script) -> None:
    """Writes to a clone and to its source."""
    source_of(case, script)
    _emit_clone(case, script)
    source = case["spec"].build("cpu", case.dtype)
    if source.numel():
        script.check("result.data_ptr() != source.data_ptr()", "a clone shares its source's memory")
    mode = "no_grad" if case["mode"] == "enable_grad" else case["mode"]
    with script.block(f"with torch.{mode}():"):
        script.note("before", "before = repr(source.tolist())")
        script.add("result.data.zero_()")
        script.check("repr(source.tolist()) == before", "a write to the clone changed its source")
        if overlaps(source):
            return
        script.note("written", "written = repr(result.tolist())")
        script.add("source.fill_(1)")
        script.check("repr(result.tolist()) == written", "a write to the source changed its clone")


@reproduces(FILE + "test_layout")
def layout(case: Case, script: Script) -> None:
    """Strides of a clone."""
    source_of(case, script)
    _emit_clone(case, script)
    source = case["spec"].build("cpu", case.dtype)
    if source.numel():
        script.check(
            "1 + sum((n - 1) * s for s, n in zip(result.stride(), result.shape)) == result.numel()",
            "the clone has gaps: strides {result.stride()}",
        )
    if "contiguous" in case["way"]:
        script.check("result.is_contiguous()", "strides {result.stride()} for contiguous_format")
    elif is_dense(source) and source.numel():
        script.check(
            "all(a == b for a, b, n in zip(result.stride(), source.stride(), source.shape) if n > 1)",
            "strides {result.stride()}, its source's {source.stride()}",
        )
    wanted = {4: "torch.channels_last", 5: "torch.channels_last_3d"}.get(source.dim())
    calls = f"source.clone(memory_format={wanted})", f"torch.clone(source, memory_format={wanted})"
    for call in (*calls, f"{calls[0]}.clone(memory_format={wanted})") if wanted else ():
        script.add(f"last = {call}")
        script.check(
            f"last.is_contiguous(memory_format={wanted})", f"{call} has strides {{last.stride()}}"
        )
        script.check("repr(last.tolist()) == repr(source.tolist())", f"{call} has other values")
        if source.numel():
            script.check("last.data_ptr() != source.data_ptr()", f"{call} shares its source's memory")
            script.add(f"again = last.clone(memory_format={wanted})")
            script.check("again.data_ptr() != last.data_ptr()", f"a clone of {call} shares its memory")
        script.check(
            "last.requires_grad == source.requires_grad",
            f"{call} has requires_grad {{last.requires_grad}}",
        )


@reproduces(FILE + "test_sparse_owns_values")
def sparse_owns_values(case: Case, script: Script) -> None:
    """Indices and values of sparse tensors and of their clones."""
    for kind, count in SPARSE:
        emit_sparse(script, kind, count)
        where = f"clone of a sparse {kind} of {count}"
        script.add("result = source.clone()")
        script.check("result.layout == source.layout", f"{where}: layout {{result.layout}}")
        for part in ("_indices()", "_values()"):
            script.check(
                f"result.{part}.data_ptr() != source.{part}.data_ptr()", f"{where} shares {part}"
            )
            script.check(f"result.{part}.tolist() == source.{part}.tolist()", f"{where}: other {part}")
        script.check(
            "result.requires_grad == source.requires_grad",
            f"{where} has requires_grad {{result.requires_grad}}",
        )


@reproduces(FILE + "test_is_a_node_of_the_graph")
def is_a_node(case: Case, script: Script) -> None:
    """The node of a clone."""
    source_of(case, script)
    _emit_clone(case, script)
    script.check("type(result) is torch.Tensor", "a clone is a {type(result)}")
    if not (case["grad"] and requires_grad(case)):
        script.check(
            "result.grad_fn is None and not result.requires_grad and result.is_leaf",
            "a clone without a graph has grad_fn {result.grad_fn}",
        )
        return
    script.check(
        'type(result.grad_fn).__name__.startswith("CloneBackward")',
        "a clone has grad_fn {result.grad_fn}",
    )
    script.check("result.requires_grad and not result.is_leaf", "a clone left the graph")
    script.check("len(result.grad_fn.next_functions) == 1", "a clone's node has not one edge")
    if case["spec"].build("cpu", case.dtype).is_leaf:
        script.check(
            "getattr(result.grad_fn.next_functions[0][0], 'variable', None) is source",
            "a clone's node does not lead to its source",
        )
    else:
        script.check(
            "result.grad_fn.next_functions[0][0] is source.grad_fn",
            "a clone's node does not lead to its source's",
        )


@reproduces(FILE + "test_passes_gradients_unchanged")
def passes_gradients(case: Case, script: Script) -> None:
    """A gradient through a clone, twice."""
    source_of(case, script)
    if not case["spec"].build("cpu", case.dtype).is_leaf:
        script.add("source.retain_grad()")
    script.note("calls", "calls = []")
    script.add("source.register_hook(lambda gradient: calls.append(1))")
    spec = upstream_spec(case["upstream"], shape_of(case), case["seed"])
    expand = ".expand(source.shape)" if case["upstream"] == "expanded" else ""
    emit_tensor(script, "upstream", spec, case.device, case.dtype)
    script.add(f"values = repr(upstream{expand}.tolist())")
    _emit_clone(case, script)
    script.add(f"result.backward(upstream{expand}, retain_graph=True)")
    script.check("source.grad is not None", "no gradient came through a clone")
    script.check("repr(source.grad.tolist()) == values", "a clone changed the gradient that passes it")
    script.check("len(calls) == 1", "{len(calls)} calls of the source's hook in one backward")
    script.add("source.grad = None")
    emit_tensor(script, "upstream", spec, case.device, case.dtype)
    script.add(f"result.backward(upstream{expand})")
    script.check("source.grad is not None", "no gradient came at the second backward")
    script.check(
        "repr(source.grad.tolist()) == values", "a clone changed the gradient of the second backward"
    )


@reproduces(FILE + "test_passes_second_derivatives")
def passes_second_derivatives(case: Case, script: Script) -> None:
    """d2/dx2 of x**3 with and without a clone."""
    script.add("seconds = []")
    with script.block("for through in (True, False):"):
        source_of(case, script)
        script.add(f"value = {cloned(case['way'], 'source')} if through else source")
        script.add(
            "(first,) = torch.autograd.grad((value * value * value).sum(), source, create_graph=True)",
            "first.sum().backward()",
        )
        script.check("source.grad is not None", "no second derivative came through a clone")
        script.add("seconds.append(repr(source.grad.tolist()))")
    script.check("seconds[0] == seconds[1]", "second derivative with a clone is another")


@reproduces(FILE + "test_passes_tangents")
def passes_tangents(case: Case, script: Script) -> None:
    """A dual tensor's tangent through a clone."""
    source_of(case, script, "primal")
    if not hasattr(torch, "inference_mode"):
        script.check(
            f"repr({cloned(case['way'], 'primal')}.tolist()) == repr(primal.tolist())", "other values"
        )
        return
    spec = TensorSpec(shape_of(case), seed=case["spec"].seed + 1)
    emit_tensor(script, "tangent", spec, case.device, case.dtype)
    script.add("from torch.autograd import forward_ad")
    with script.block("with forward_ad.dual_level():"):
        script.add("dual = forward_ad.make_dual(primal, tangent)")
        script.add(f"got = forward_ad.unpack_dual({cloned(case['way'], 'dual')}).tangent")
        script.check("got is not None", "a clone lost the tangent")
        script.check("repr(got.tolist()) == repr(tangent.tolist())", "a clone changed the tangent")
        if case["spec"].build("cpu", case.dtype).numel():
            script.check(
                "got.data_ptr() != forward_ad.unpack_dual(dual).tangent.data_ptr()",
                "a clone shares its source's tangent",
            )


@reproduces(FILE + "test_is_the_identity_in_training")
def identity_in_training(case: Case, script: Script) -> None:
    """The same training with and without clones."""
    run, places, way = case.draws(None, 1, "tensor.clone()")
    recipe = Recipe(script, case, run)

    def at(place: int, value: str) -> str:
        return cloned(way, value) if places >> place & 1 else value

    emit_both(script, recipe, recipe.with_run(), {"at": at}, {})
    shown = recipe.if_small(": {p.grad.tolist()}, not {q.grad.tolist()}")
    with script.block("for (name, p), q in zip(net.named_parameters(), twin.parameters()):"):
        script.check(
            "(p.grad is None) == (q.grad is None)", "{name} gets a gradient only with or without clones"
        )
        script.check(
            "p.grad is None or repr(p.grad.tolist()) == repr(q.grad.tolist())",
            f"{{name}} has another gradient with clones put in{shown}",
        )
    compare(script, recipe, "ends otherwise with clones put in")


@reproduces(FILE + "test_is_a_snapshot")
def is_a_snapshot(case: Case, script: Script) -> None:
    """Clones of parameters through training."""
    network = case["network"]
    recipe = Recipe(script, case, TrainingRun(network, batch=4, steps=2, seed=network.seed)).setup()
    recipe.before()
    recipe.backward()
    source = "p.detach()" if case["detach"] == "before" else "p"
    end = ".detach()" if case["detach"] == "after" else ""
    copied = cloned(case["way"], source) + end
    script.add(f"copies = {{name: {copied} for name, p in net.named_parameters()}}")
    with script.block("for name, copied in copies.items():"):
        script.check("type(copied) is torch.Tensor", "a clone of {name} is a {type(copied)}")
        script.check("not copied.is_leaf or copied.grad is None", "a clone of {name} carries .grad")
    recipe.steps()
    with script.block("for name, copied in copies.items():"):
        script.check("repr(copied.tolist()) == before[name]", "the clone of {name} changed in training")
    script.note("steep", "steep = any((p.grad.abs() > 0.1).any() for p in net.parameters())")
    script.check(
        "not steep or any(repr(p.tolist()) != before[name] for name, p in net.named_parameters())",
        "nothing was trained",
    )


@reproduces(FILE + "test_state_dict_follows")
def state_dict_follows(case: Case, script: Script) -> None:
    """state_dict and its deep copies through training."""
    network, mask, train = case.draws(None, (), True)
    run = TrainingRun(network, mask, batch=4, seed=network.seed)
    recipe = Recipe(script, case, run).setup()
    if not train:
        script.add("net.eval()")
    script.add(
        f"live = dict(net.named_parameters({'remove_duplicate=False' if EACH_PLACE else ''}))",
        "live.update(net.named_buffers())",
    )
    script.note("before", "before = {name: repr(t.tolist()) for name, t in live.items()}")
    script.add("saved = dict(net.state_dict())")
    script.note("copied", "copied = copy.deepcopy(net.state_dict())")
    script.note("fork", "fork = copy.deepcopy(net)")
    with script.block("for name, t in live.items():"):
        script.check("name in saved", "state_dict() has no {name}")
        script.check(
            "saved[name].data_ptr() == t.data_ptr()", "state_dict()[{name}] has memory of its own"
        )
        script.check(
            "not saved[name].requires_grad and saved[name].grad_fn is None",
            "state_dict()[{name}] is in the graph",
        )
    recipe.steps()
    with script.block("for name, t in live.items():"):
        script.check(
            "repr(saved[name].tolist()) == repr(t.tolist())",
            "state_dict()[{name}] does not follow training",
        )
        script.check("repr(copied[name].tolist()) == before[name]", "deepcopied {name} changed")
    with script.block("for name, t in [*fork.named_parameters(), *fork.named_buffers()]:"):
        script.check("repr(t.tolist()) == before[name]", "{name} of a deepcopied net changed")
        script.check(
            "t.requires_grad == live[name].requires_grad",
            "{name} of a deepcopied net has requires_grad {t.requires_grad}",
        )
    script.check(
        "len(list(fork.parameters())) == len(list(net.parameters()))",
        "a deepcopied net has {len(list(fork.parameters()))} parameters",
    )


@reproduces(FILE + "test_detach_and_clone_commute")
def detach_and_clone_commute(case: Case, script: Script) -> None:
    """Both orders of detach and clone."""
    source_of(case, script)
    script.add("one, two = source.detach().clone(), source.clone().detach()")
    some = case["spec"].build("cpu", case.dtype).numel()
    with script.block("for result in (one, two):"):
        script.check(
            "repr(result.tolist()) == repr(source.tolist())", "a detached clone has other values"
        )
        script.check("result.is_leaf and not result.requires_grad", "a detached clone is in the graph")
        if some:
            script.check("result.data_ptr() != source.data_ptr()", "a detached clone shares memory")
    script.check("one.stride() == two.stride()", "strides {one.stride()} and {two.stride()}")
    if not case["spec"].build("cpu", case.dtype).is_leaf:
        return
    script.add("copied = copy.deepcopy(source)")
    script.check("repr(copied.tolist()) == repr(source.tolist())", "a deepcopy has other values")
    script.check("type(copied) is type(source)", "a deepcopy is a {type(copied)}")
    script.check(
        "copied.requires_grad == source.requires_grad",
        "a deepcopy has requires_grad {copied.requires_grad}",
    )
    if some:
        script.check("copied.data_ptr() != source.data_ptr()", "a deepcopy shares memory")


@reproduces(FILE + "test_does_not_follow_the_optimizer")
def does_not_follow(case: Case, script: Script) -> None:
    """A clone through an optimizer step."""
    source_of(case, script)
    script.add("before = repr(source.tolist())")
    _emit_clone(case, script)
    script.add("source.grad = torch.ones(source.shape, dtype=dtype, device=device)")
    script.add("torch.optim.SGD([source], lr=0.5).step()")
    script.check("repr(result.tolist()) == before", "the clone followed the optimizer's step")
    if case["spec"].build("cpu", case.dtype).numel():
        script.check("repr(source.tolist()) != before", "the optimizer's step moved nothing")
