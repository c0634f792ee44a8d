"""Programs for the laws of detach."""

from typing import Tuple

import torch

from properties.harness.reproducer.case import Case
from properties.harness.reproducer.registry import reproduces
from properties.harness.reproducer.script import Script
from properties.harness.reproducer.tensors import emit_tensor
from properties.harness.reproducer.training import Recipe, options_text
from properties.test_detach import _numpy_works
from strategies import OptimizerSpec, TrainingRun
from strategies.tensors import can_require_grad

FILE = "test_detach.py::"


def source_of(case: Case, script: Script, name: str = "source") -> None:
    """Define the drawn tensor."""
    emit_tensor(script, name, case["spec"], case.device, case.dtype)


def emit_call(script: Script, target: str, source: str, way: str, mode: str = "enable_grad") -> None:
    """``target = source.detach()`` in one of the ways, under one of the modes."""
    line = f"{target} = {way.replace('tensor', source)}"
    if mode == "enable_grad":
        script.add(line)
    else:
        with script.block(f"with torch.{mode}():"):
            script.add(line)


def _emit_how(case: Case, script: Script, target: str, source: str = "source") -> None:
    emit_call(script, target, source, *case["how"])


def emit_gradient(case: Case, script: Script) -> None:
    """Give the source a gradient of ones, where the law drew it."""
    spec = case["spec"].build("cpu", case.dtype)
    if case["with_grad"] and spec.is_leaf and spec.requires_grad:
        script.add("source.grad = torch.ones(source.shape, dtype=dtype, device=device)")


GEOMETRY = ("shape", "stride()", "storage_offset()", "dtype", "device", "layout")


@reproduces(FILE + "test_shares_storage")
def shares_storage(case: Case, script: Script) -> None:
    """Storage, geometry and values of source and alias."""
    source_of(case, script)
    _emit_how(case, script, "result")
    script.check("result is not source", "detach returned its source itself")
    for fact in GEOMETRY:
        script.check(
            f"result.{fact} == source.{fact}",
            f"detached tensor: {fact.rstrip('()')} {{result.{fact}}}, its source's {{source.{fact}}}",
        )
    script.check("result.data_ptr() == source.data_ptr()", "a detached tensor has memory of its own")
    script.check("repr(result.tolist()) == repr(source.tolist())", "a detached tensor has other values")


@reproduces(FILE + "test_writes_are_seen_both_ways")
def writes_are_seen(case: Case, script: Script) -> None:
    """Writes through the alias and through the source."""
    source_of(case, script)
    _emit_how(case, script, "result")
    if case["how"][1] == "inference_mode":
        script.add("source.tolist()")
        return
    with script.block("with torch.no_grad():"):
        script.add("result.zero_()")
        script.check(
            "repr(source.tolist()) == repr(torch.zeros_like(source).tolist())",
            "the source does not see a write through its detached alias",
        )
        script.add("source.fill_(1)")
        script.check(
            "repr(result.tolist()) == repr(source.tolist())",
            "the detached alias does not see a write to its source",
        )


@reproduces(FILE + "test_is_outside_the_graph")
def outside_the_graph(case: Case, script: Script) -> None:
    """The autograd state of the alias."""
    source_of(case, script)
    emit_gradient(case, script)
    _emit_how(case, script, "result")
    script.check("not result.requires_grad", "the detached tensor requires grad")
    script.check("result.grad_fn is None", "the detached tensor has grad_fn {result.grad_fn}")
    script.check("result.is_leaf", "the detached tensor is not a leaf")
    script.check("result.grad is None", "the detached tensor carries .grad")
    script.check("type(result) is torch.Tensor", "the detached tensor is a {type(result)}")


@reproduces(FILE + "test_leaves_its_source_alone")
def leaves_its_source(case: Case, script: Script) -> None:
    """The state of the source before and after."""
    source_of(case, script)
    emit_gradient(case, script)
    facts = ["requires_grad", "is_leaf", "grad_fn", "_version", *GEOMETRY]
    if case["spec"].build("cpu", case.dtype).is_leaf:
        facts.append("grad")
    for fact in facts:
        name = "old_" + fact.strip("_()")
        script.note(name, f"{name} = source.{fact}")
    script.note("old_type", "old_type = type(source)")
    script.note("values", "values = repr(source.tolist())")
    _emit_how(case, script, "result")
    for fact in facts:
        name = "old_" + fact.strip("_()")
        same = "is" if fact in ("grad", "grad_fn") else "=="
        script.check(
            f"source.{fact} {same} {name}",
            f"detach changed its source's {fact.strip('_()')} from {{{name}}} to {{source.{fact}}}",
        )
    script.check("type(source) is old_type", "detach changed its source's type")
    script.check("repr(source.tolist()) == values", "detach changed its source's values")
    script.add("result.requires_grad_(False)")
    script.check(
        "source.requires_grad == old_requires_grad",
        "requires_grad_ on the detached tensor changed its source",
    )


@reproduces(FILE + "test_follows_the_optimizer")
def follows_the_optimizer(case: Case, script: Script) -> None:
    """The alias after each step."""
    source_of(case, script)
    name, options = case["choice"]
    script.add("alias = source.detach()")
    script.note("first", "first = repr(source.tolist())")
    spec = OptimizerSpec(name, tuple(sorted(options.items())))
    script.add(f"optimizer = torch.optim.{name}([source]{options_text(spec)})")
    with script.block(f"for step in range(1, {case['steps'] + 1}):"):
        script.add("source.grad = torch.ones(source.shape, dtype=dtype, device=device)")
        script.add("optimizer.step()")
        script.check(
            "repr(alias.tolist()) == repr(source.tolist())",
            f"the detached alias does not follow step {{step}} of {name}",
        )
    if case["spec"].build("cpu", case.dtype).numel():
        script.check("repr(alias.tolist()) != first", f"{name} moved nothing")


@reproduces(FILE + "test_follows_training")
def follows_training(case: Case, script: Script) -> None:
    """Aliases of a net's parameters after training."""
    network = case["network"]
    recipe = Recipe(script, case, TrainingRun(network, batch=4, steps=2, seed=network.seed))
    recipe.setup()
    recipe.before()
    script.add("aliases = {name: p.detach() for name, p in net.named_parameters()}")
    recipe.steps()
    with script.block("for name, p in net.named_parameters():"):
        script.check(
            "repr(aliases[name].tolist()) == repr(p.tolist())",
            "the detached alias of {name} does not follow training",
        )
        script.check(
            "not (p.grad.abs() > 0.1).any() or repr(aliases[name].tolist()) != before[name]",
            "the detached alias of {name} did not move in training",
        )


@reproduces(FILE + "test_cuts_only_its_own_path")
def cuts_its_own_path(case: Case, script: Script) -> None:
    """Gradients through the attached path and the detached one."""
    source_of(case, script)
    if case["spec"].kind == "non_leaf":
        script.add("source.retain_grad()")
    _emit_how(case, script, "constant")
    script.add("(source * constant).sum().backward()")
    script.check("source.grad is not None", "the attached path gave no gradient")
    script.check(
        "repr(source.grad.tolist()) == repr(constant.tolist())",
        "the gradient of x * x.detach() by x is not x",
    )
    script.check("constant.grad is None", "the detached tensor got a gradient")
    _emit_how(case, script, "constant")
    script.add("loss = (constant * 2).sum()")
    script.check("not loss.requires_grad", "a result of detached tensors alone requires grad")
    script.raises(
        "RuntimeError", "loss.backward()", "backward through detached tensors", "require grad"
    )


@reproduces(FILE + "test_shares_the_version_counter")
def shares_the_version(case: Case, script: Script) -> None:
    """Version counters after writes through detach and through .data."""
    source_of(case, script)
    script.add("saved, version = source * source, source._version")
    emit_call(script, "alias", "source", case["way"])
    script.check("alias._version == version", "the alias begins with another version")
    script.add("alias.add_(1)")
    script.check("source._version > version", "a write through detach left the source's version")
    script.check("alias._version == source._version", "source and alias have different versions")
    script.raises(
        "RuntimeError",
        "saved.sum().backward()",
        "backward after a write through detach",
        "modified by an inplace operation",
    )
    source_of(case, script)
    script.add("saved, version = source * source, source._version")
    script.add("source.data.add_(1)")
    script.check("source._version == version", "a write through .data changed the version")
    script.add("saved.sum().backward()")


@reproduces(FILE + "test_is_idempotent")
def is_idempotent(case: Case, script: Script) -> None:
    """Detached once and twice."""
    source_of(case, script)
    _emit_how(case, script, "once")
    _emit_how(case, script, "twice", "once")
    for fact in GEOMETRY:
        script.check(
            f"twice.{fact} == once.{fact}",
            f"detached twice: {fact.rstrip('()')} {{twice.{fact}}}, once {{once.{fact}}}",
        )
    script.check("twice.data_ptr() == once.data_ptr()", "detached twice: other memory")
    script.check(
        "not twice.requires_grad and twice.grad_fn is None", "detached twice, still in a graph"
    )
    script.check("repr(twice.tolist()) == repr(once.tolist())", "detached twice: other values")


@reproduces(FILE + "test_keeps_lazy_bits")
def keeps_lazy_bits(case: Case, script: Script) -> None:
    """The conj and neg bits of lazy views."""
    source_of(case, script)
    views = ["source.conj()"]
    if hasattr(torch, "resolve_neg"):
        views.append("source.conj().imag")
    for view in views:
        script.add(f"view = {view}")
        _emit_how(case, script, "result", "view")
        for flag in ("is_conj", "is_neg"):
            if hasattr(torch.Tensor, flag):
                script.check(f"result.{flag}() == view.{flag}()", f"detach of {view} lost {flag}")
        script.check("repr(result.tolist()) == repr(view.tolist())", f"detach changed {view}")


@reproduces(FILE + "test_detach_in_place")
def detach_in_place(case: Case, script: Script) -> None:
    """detach_ on a tensor, and a graph from before."""
    source_of(case, script)
    script.add("leaf = torch.ones((), dtype=dtype, device=device, requires_grad=True)")
    script.add("middle = leaf * 2", "early = middle * 3")
    script.note("values", "values = repr(source.tolist())")
    script.note("place", "place = source.data_ptr()")
    with script.block("for tensor in (source, middle):"):
        script.add("result = tensor.detach_()")
        script.check("result is tensor", "detach_ returned another tensor")
        script.check(
            "tensor.is_leaf and not tensor.requires_grad and tensor.grad_fn is None",
            "after detach_ still in the graph",
        )
    script.check("repr(source.tolist()) == values", "detach_ changed values")
    script.check("source.data_ptr() == place", "detach_ moved its tensor to other memory")
    script.add("early.backward()")
    script.check("leaf.grad is not None", "the graph from before detach_ no longer reaches its leaf")
    script.check("leaf.grad.item() == 6", "through the earlier graph: {leaf.grad.item()}, not 6")


def _refuses(case: Case, script: Script, view: str, part: str) -> None:
    size = case["size"]
    script.add(f"leaf = torch.ones({size}, {size}, dtype=dtype, device=device, requires_grad=True)")
    script.add("whole = leaf * 2", f"view = {view}")
    script.raises("RuntimeError", "view.detach_()", f"detach_ of a {part}", "detach")
    script.check("view.requires_grad", f"the {part} that detach_ refused left the graph")


@reproduces(FILE + "test_detach_in_place_refuses_views")
def refuses_views(case: Case, script: Script) -> None:
    """detach_ of a view."""
    views = {"slice": "whole[0]", "diagonal": "whole.diagonal()", "transpose": "whole.t()"}
    _refuses(case, script, views[case["part"]], case["part"])


@reproduces(FILE + "test_detach_in_place_refuses_chunks")
def refuses_chunks(case: Case, script: Script) -> None:
    """detach_ of a chunk."""
    _refuses(case, script, "whole.chunk(2)[0]", "chunk")


@reproduces(FILE + "test_numpy_needs_detach")
def numpy_needs_detach(case: Case, script: Script) -> None:
    """numpy() before and after detach."""
    source_of(case, script)
    errors = "(RuntimeError, TypeError)"
    script.raises(errors, "source.numpy()", "numpy() of a tensor that requires grad")
    source = case["spec"].build("cpu", case.dtype)
    if case.device != "cpu" or case.dtype is torch.bfloat16 or not _numpy_works():
        return
    script.add("array = source.detach().numpy()")
    if source.numel() and source.is_contiguous():
        with script.block("with torch.no_grad():"):
            script.add("source.fill_(7)")
        script.check("(array == 7).all()", "the array does not see a write to its tensor")


@reproduces(FILE + "test_drops_tangents")
def drops_tangents(case: Case, script: Script) -> None:
    """A dual tensor's tangent."""
    if not hasattr(torch, "inference_mode"):
        return
    script.add("from torch.autograd import forward_ad")
    source_of(case, script, "primal")
    with script.block("with forward_ad.dual_level():"):
        script.add("dual = forward_ad.make_dual(primal, torch.ones_like(primal))")
        emit_call(script, "result", "dual", case["way"])
        script.check(
            "forward_ad.unpack_dual(result).tangent is None", "the detached tensor has a tangent"
        )
        script.check("forward_ad.unpack_dual(dual).tangent is not None", "the source lost its tangent")


def requires_grad(case: Case) -> bool:
    """Whether the drawn tensor requires grad."""
    return case["spec"].kind != "leaf" and can_require_grad(case.dtype)


def shape_of(case: Case) -> Tuple[int, ...]:
    """The drawn tensor's shape after its layout."""
    return tuple(case["spec"].build("cpu", case.dtype).shape)
