"""Programs for the laws of detach."""

from typing import Tuple

import torch

from frostproof.properties.harness.core.layout import overlaps
from frostproof.properties.harness.reproducer.case import Case
from frostproof.properties.harness.reproducer.registry import reproduces
from frostproof.properties.harness.reproducer.script import Script
from frostproof.properties.harness.reproducer.tensors import emit_tensor
from frostproof.properties.harness.reproducer.training import Recipe, options_text
from frostproof.properties.test_detach import SPARSE, WAYS
from frostproof.strategies import OptimizerSpec, TrainingRun
from frostproof.strategies.tensors import can_require_grad

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


def emit_attached(case: Case, script: Script, name: str = "source") -> None:
    """Give the drawn tensor a gradient of ones or a hook, where the law drew one."""
    source = case["spec"].build("cpu", case.dtype)
    if case["attached"] == "gradient" and can_require_grad(case.dtype):
        if not source.is_leaf:
            script.add(f"{name}.retain_grad()")
        script.add(f"{name}.grad = torch.ones({name}.shape, dtype=dtype, device=device)")
    elif case["attached"] == "hook" and source.requires_grad:
        script.add(f"{name}.register_hook(lambda gradient: None)")


def has_gradient(case: Case) -> bool:
    """Whether ``emit_attached`` gives the source a gradient."""
    return case["attached"] == "gradient" and can_require_grad(case.dtype)


GEOMETRY = ("shape", "stride()", "storage_offset()", "dtype", "device", "layout")


@reproduces(FILE + "test_shares_storage")
def shares_storage(case: Case, script: Script) -> None:
    """Storage, geometry and values of source and alias."""
    source_of(case, script)
    emit_attached(case, script)
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
    script.note("version", "version = source._version")
    with script.block("with torch.no_grad():"):
        script.add("result.zero_()")
        script.check(
            "repr(source.tolist()) == repr(torch.zeros_like(source).tolist())",
            "the source does not see a write through its detached alias",
        )
        script.check(
            "source._version > version", "a write through the detached alias is no new version"
        )
        script.add("source.fill_(1)")
        script.check(
            "repr(result.tolist()) == repr(source.tolist())",
            "the detached alias does not see a write to its source",
        )
        script.check(
            "result._version == source._version",
            "after a write: version {result._version} of the alias, {source._version} of its source",
        )


def emit_sparse(script: Script, kind: str, count: int) -> None:
    """Define ``source``, a sparse matrix."""
    script.add(
        f"places = torch.arange({count}, device=device).expand(2, {count})",
        f"values = torch.ones({count}, dtype=dtype, device=device)",
        f"source = torch.sparse_coo_tensor(places, values, {(count + 1, count + 1)})",
    )
    if kind != "leaf":
        script.add("source.requires_grad_()")
    if kind == "non_leaf":
        script.add("source = source * 2")


@reproduces(FILE + "test_sparse_shares_values")
def sparse_shares_values(case: Case, script: Script) -> None:
    """Indices and values of sparse tensors and of their aliases."""
    for kind, count in SPARSE:
        emit_sparse(script, kind, count)
        for way in WAYS:
            where = f"{way} of a sparse {kind} of {count}"
            emit_call(script, "result", "source", way)
            script.check("result.layout == source.layout", f"{where}: layout {{result.layout}}")
            for part in ("_indices()", "_values()"):
                script.check(
                    f"result.{part}.data_ptr() == source.{part}.data_ptr()",
                    f"{where}: {part} has memory of its own",
                )
            script.check(
                "not result.requires_grad and result.grad_fn is None", f"{where} is in the graph"
            )


@reproduces(FILE + "test_numpy_shares_memory")
def numpy_shares_memory(case: Case, script: Script) -> None:
    """Addresses of arrays."""
    for size in (1, 5000):
        script.add(f"source = torch.zeros({size}, 2, dtype=dtype)")
        for part in ("source", "source.t()", f"source[{size // 2}:, 1:]"):
            script.add(f"part = {part}")
            script.add("alias = part.detach()")
            script.check("alias.data_ptr() == part.data_ptr()", f"detach of {part} copies")
            script.add("array = alias.numpy()")
            script.check("array.ctypes.data == part.data_ptr()", f"numpy() of {part} copies")
            script.check(
                "array.shape == tuple(part.shape)", f"numpy() of {part} has shape {{array.shape}}"
            )


@reproduces(FILE + "test_is_outside_the_graph")
def outside_the_graph(case: Case, script: Script) -> None:
    """The autograd state of the alias."""
    source_of(case, script)
    emit_attached(case, script)
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
    emit_attached(case, script)
    facts = ["requires_grad", "is_leaf", "grad_fn", "_version", *GEOMETRY]
    if case["spec"].build("cpu", case.dtype).is_leaf or has_gradient(case):
        facts.append("grad")
    if has_gradient(case):
        script.note("gradient", "gradient = repr(source.grad.tolist())")
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
    if has_gradient(case):
        script.check("repr(source.grad.tolist()) == gradient", "detach changed its source's gradient")
    if case.dtype.is_floating_point or case.dtype.is_complex:
        for flag in (True, False):
            script.add(f"result.requires_grad_({flag})")
            script.check(
                "source.requires_grad == old_requires_grad",
                f"requires_grad_({flag}) on the detached tensor changed its source",
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
    script.note("calls", "calls = []")
    script.add("source.register_hook(lambda gradient: calls.append(1))")
    _emit_how(case, script, "constant")
    script.add("(source * constant).sum().backward()")
    script.check("source.grad is not None", "the attached path gave no gradient")
    script.check(
        "repr(source.grad.tolist()) == repr(constant.tolist())",
        "the gradient of x * x.detach() by x is not x",
    )
    script.check("len(calls) == 1", "{len(calls)} calls of the source's hook by its one attached path")
    script.check("constant.grad is None", "the detached tensor got a gradient")
    _emit_how(case, script, "other")
    script.add("loss = (other * 2).sum()")
    script.check("not loss.requires_grad", "a result of detached tensors alone requires grad")
    script.raises(
        "RuntimeError", "loss.backward()", "backward through detached tensors", "require grad"
    )
    script.note("gradient", "gradient = repr(source.grad.tolist())")
    script.add("(constant.requires_grad_() * 2).sum().backward()")
    script.check("constant.grad is not None", "the detached tensor, made to require grad, got none")
    script.check(
        "repr(source.grad.tolist()) == gradient",
        "a gradient of the detached alias changed its source's",
    )
    script.check("len(calls) == 1", "{len(calls)} calls of the source's hook, one of them by its alias")


@reproduces(FILE + "test_shares_the_version_counter")
def shares_the_version(case: Case, script: Script) -> None:
    """Version counters after writes through detach and through .data."""
    source_of(case, script)
    script.add("saved, version = source * source, source._version")
    _emit_how(case, script, "alias")
    script.check("alias._version == version", "the alias begins with another version")
    script.add("alias.add_(1)")
    script.check("source._version > version", "a write through detach left the source's version")
    script.check("alias._version == source._version", "source and alias have different versions")
    script.raises(
        "RuntimeError",
        "saved.abs().sum().backward()",
        "backward after a write through detach",
        "modified by an inplace operation",
    )
    source_of(case, script)
    script.add("saved, version = source * source, source._version")
    script.add("source.data.add_(1)")
    script.check("source._version == version", "a write through .data changed the version")
    script.add("saved.abs().sum().backward()")


@reproduces(FILE + "test_is_idempotent")
def is_idempotent(case: Case, script: Script) -> None:
    """Detached once and twice."""
    source_of(case, script)
    _emit_how(case, script, "once")
    for what, source in (("twice", "once"), ("a second time", "source")):
        _emit_how(case, script, "other", source)
        for fact in GEOMETRY:
            script.check(
                f"other.{fact} == once.{fact}",
                f"detached {what}: {fact.rstrip('()')} {{other.{fact}}}, before {{once.{fact}}}",
            )
        script.check("other.data_ptr() == once.data_ptr()", f"detached {what}: other memory")
        script.check(
            "not other.requires_grad and other.grad_fn is None", f"detached {what}, still in a graph"
        )
        script.check("repr(other.tolist()) == repr(once.tolist())", f"detached {what}: other values")


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
    call, way = case["way"], case["way"].replace("tensor.", "").replace("(tensor)", "")
    script.add("leaf = torch.ones((), dtype=dtype, device=device, requires_grad=True)")
    script.add("middle = leaf * 2", "early = middle * 3")
    script.note("values", "values = repr(source.tolist())")
    for fact in (*GEOMETRY, "data_ptr()", "_version"):
        script.note(f"old_{fact.strip('_()')}", f"old_{fact.strip('_()')} = source.{fact}")
    refused = case["spec"].build("cpu", case.dtype)._is_view()
    with script.block(f"for tensor in ({'' if refused else 'source, '}middle,):"):
        if case["mode"] == "enable_grad":
            script.add(f"result = {call}")
        else:
            with script.block(f"with torch.{case['mode']}():"):
                script.add(f"result = {call}")
        script.check("result is tensor", f"{way} returned another tensor")
        script.check(
            "tensor.is_leaf and not tensor.requires_grad and tensor.grad_fn is None",
            f"after {way} still in the graph",
        )
        script.check("not (tensor * 2).requires_grad", f"what is made after {way} requires grad")
    script.check("repr(source.tolist()) == values", f"{way} changed values")
    for fact in (*GEOMETRY, "data_ptr()", "_version"):
        name = fact.strip("_()")
        script.check(
            f"source.{fact} == old_{name}",
            f"{way} changed {name} from {{old_{name}}} to {{source.{fact}}}",
        )
    script.add("early.abs().backward()")
    script.check("leaf.grad is not None", f"the graph from before {way} no longer reaches its leaf")
    script.check("leaf.grad.item() == 6", "through the earlier graph: {leaf.grad.item()}, not 6")


def _refuses(case: Case, script: Script) -> None:
    size, part = case["size"], case["part"]
    script.add(f"leaf = torch.ones({size}, {size}, dtype=dtype, device=device, requires_grad=True)")
    script.add("whole = leaf * 2", f"view = {part}", "node = view.grad_fn")
    call = case["way"].replace("tensor", "view")
    script.raises("RuntimeError", call, f"{call} of {part}", "detach")
    script.check(
        "view.requires_grad and view.grad_fn is node", f"{part}, refused by {call}, left the graph"
    )


@reproduces(FILE + "test_detach_in_place_refuses_views")
def refuses_views(case: Case, script: Script) -> None:
    """detach_ of a view."""
    _refuses(case, script)


@reproduces(FILE + "test_detach_in_place_refuses_chunks")
def refuses_chunks(case: Case, script: Script) -> None:
    """detach_ of a chunk."""
    _refuses(case, script)


@reproduces(FILE + "test_numpy_needs_detach")
def numpy_needs_detach(case: Case, script: Script) -> None:
    """numpy() before detach."""
    source_of(case, script)
    errors = "(RuntimeError, TypeError)"
    script.raises(errors, "source.numpy()", "numpy() of a tensor that requires grad")


@reproduces(FILE + "test_numpy_sees_writes")
def numpy_sees_writes(case: Case, script: Script) -> None:
    """numpy() after detach, and a write."""
    source_of(case, script)
    source = case["spec"].build("cpu", case.dtype)
    script.add("array = source.detach().numpy()")
    script.check("array.shape == tuple(source.shape)", "the array has shape {array.shape}")
    if source.numel() and not overlaps(source):
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
    return case["spec"].kind not in ("leaf", "frozen") and can_require_grad(case.dtype)


def shape_of(case: Case) -> Tuple[int, ...]:
    """The drawn tensor's shape after its layout."""
    return tuple(case["spec"].build("cpu", case.dtype).shape)
