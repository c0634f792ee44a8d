"""Programs for the laws of clone."""

import torch

from properties.harness.layout import is_dense, overlaps
from properties.harness.reproducer.case import Case
from properties.harness.reproducer.laws.detach import requires_grad, shape_of, source_of
from properties.harness.reproducer.laws.equivalence import compare, emit_both
from properties.harness.reproducer.registry import reproduces
from properties.harness.reproducer.script import Script
from properties.harness.reproducer.tensors import emit_tensor
from properties.harness.reproducer.training import Recipe
from strategies import TensorSpec, TrainingRun

FILE = "test_clone.py::"


def cloned(way: str, source: str) -> str:
    """A clone in one of the ways, as an expression."""
    text = way.replace("memory_format=", "memory_format=torch.")
    return text.replace("(tensor)", f"({source})").replace("tensor.", f"{source}.", 1)


def _emit_clone(case: Case, script: Script, target: str = "result", source: str = "source") -> None:
    line = f"{target} = {cloned(case['way'], source)}"
    if case.values.get("grad", True):
        script.add(line)
    else:
        with script.block("with torch.no_grad():"):
            script.add(line)


@reproduces(FILE + "test_copies_every_bit")
def copies_every_bit(case: Case, script: Script) -> None:
    """Values and facts of a clone and its source."""
    source_of(case, script)
    script.note("values", "values = repr(source.tolist())")
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
    script.check("result.storage_offset() == 0", "clone: storage offset {result.storage_offset()}")


@reproduces(FILE + "test_owns_its_memory")
def owns_its_memory(case: Case, script: Script) -> None:
    """Writes to a clone and to its source."""
    source_of(case, script)
    _emit_clone(case, script)
    source = case["spec"].build("cpu", case.dtype)
    if source.numel():
        script.check("result.data_ptr() != source.data_ptr()", "a clone shares its source's memory")
    with script.block("with torch.no_grad():"):
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
    if wanted:
        script.add(f"last = source.clone(memory_format={wanted})")
        script.check(
            f"last.is_contiguous(memory_format={wanted})", f"{wanted}: strides {{last.stride()}}"
        )
        script.check("repr(last.tolist()) == repr(source.tolist())", f"{wanted}: other values")


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
    spec = TensorSpec(shape_of(case), special=case["special"], seed=case["seed"])
    emit_tensor(script, "upstream", spec, case.device, case.dtype)
    script.add("values = repr(upstream.tolist())")
    _emit_clone(case, script)
    script.add("result.backward(upstream, retain_graph=True)")
    script.check("source.grad is not None", "no gradient came through a clone")
    script.check("repr(source.grad.tolist()) == values", "a clone changed the gradient that passes it")
    script.add("source.grad = None")
    emit_tensor(script, "upstream", spec, case.device, case.dtype)
    script.add("result.backward(upstream)")
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
    spec = TensorSpec(case["spec"].shape, seed=case["spec"].seed + 1)
    emit_tensor(script, "tangent", spec, case.device, case.dtype)
    script.add("from torch.autograd import forward_ad")
    with script.block("with forward_ad.dual_level():"):
        script.add("dual = forward_ad.make_dual(primal, tangent)")
        script.add(f"got = forward_ad.unpack_dual({cloned(case['way'], 'dual')}).tangent")
        script.check("got is not None", "a clone lost the tangent")
        script.check("repr(got.tolist()) == repr(tangent.tolist())", "a clone changed the tangent")


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
    network = case["network"]
    recipe = Recipe(script, case, TrainingRun(network, batch=4, seed=network.seed)).setup()
    recipe.before()
    script.add("saved = dict(net.state_dict())")
    script.note("copied", "copied = copy.deepcopy(net.state_dict())")
    script.note("fork", "fork = copy.deepcopy(net)")
    with script.block("for name, p in net.named_parameters():"):
        script.check(
            "saved[name].data_ptr() == p.data_ptr()", "state_dict()[{name}] has memory of its own"
        )
        script.check(
            "not saved[name].requires_grad and saved[name].grad_fn is None",
            "state_dict()[{name}] is in the graph",
        )
    recipe.steps()
    with script.block("for name, p in net.named_parameters():"):
        script.check(
            "repr(saved[name].tolist()) == repr(p.tolist())",
            "state_dict()[{name}] does not follow training",
        )
        script.check("repr(copied[name].tolist()) == before[name]", "deepcopied {name} changed")
    with script.block("for name, p in fork.named_parameters():"):
        script.check("repr(p.tolist()) == before[name]", "{name} of a deepcopied net changed")
        script.check("p.requires_grad", "{name} of a deepcopied net is frozen")
    script.add("net.requires_grad_(False)")
    with script.block("for name, p in copy.deepcopy(net).named_parameters():"):
        script.check("not p.requires_grad", "{name} of a deepcopied frozen net is live")


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
