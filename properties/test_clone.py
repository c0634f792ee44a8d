"""Clone: other memory, the same graph."""

import copy
from typing import Any, Callable, Dict, List, Tuple

import torch
from hypothesis import given
from hypothesis import strategies as st

from frostproof.properties.harness.core.bits import read_bits
from frostproof.properties.harness.core.checks import (
    check,
    check_equal,
    check_moved,
    check_same_bits,
    check_same_gradient,
    snapshot,
)
from frostproof.properties.harness.core.law import ANY, DIFFERENTIABLE, FLOATING, PRECISE, law
from frostproof.properties.harness.core.layout import (
    ATTACHED,
    attach,
    autograd_state,
    is_dense,
    overlaps,
    storage_address,
)
from frostproof.properties.harness.running.trainer import Trainer
from frostproof.properties.test_detach import SPARSE, modes, sparse_matrix
from frostproof.strategies import (
    MLP,
    TensorSpec,
    TrainingRun,
    freeze_masks,
    mlps,
    tensors,
    training_runs,
)
from frostproof.strategies.capabilities import NotOffered, accepts, of_bytes

DOCUMENT = "torch.clone documentation"
CLONE_CALLS: Dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "tensor.clone()": lambda tensor: tensor.clone(),
    "torch.clone(tensor)": lambda tensor: torch.clone(tensor),
    "tensor.clone(memory_format=preserve_format)": lambda tensor: tensor.clone(
        memory_format=torch.preserve_format
    ),
    "tensor.clone(memory_format=contiguous_format)": lambda tensor: tensor.clone(
        memory_format=torch.contiguous_format
    ),
    "torch.clone(tensor, memory_format=contiguous_format)": lambda tensor: torch.clone(
        tensor, memory_format=torch.contiguous_format
    ),
}
WAY = st.sampled_from(sorted(CLONE_CALLS))
MODE = st.sampled_from(modes())


@law("C1", DOCUMENT, ANY)
@given(spec=tensors(), way=WAY, mode=MODE, attached=st.sampled_from(ATTACHED))
def test_copies_every_bit(
    device: str, dtype: torch.dtype, spec: TensorSpec, way: str, mode: str, attached: str
) -> None:
    """C1: a clone has its source's bits, shape, dtype and device, and leaves the source alone."""
    source = spec.build(device, dtype)
    attach(source, attached)
    bits, before = read_bits(source), autograd_state(source)
    gradient = before.pop("grad")
    ones = None if gradient is None else read_bits(gradient)
    with getattr(torch, mode)():
        result = CLONE_CALLS[way](source)
    check(result is not source, f"{way}: returned the source itself")
    for fact in ("shape", "dtype", "device", "layout"):
        check_equal(getattr(result, fact), getattr(source, fact), f"{way}: {fact}")
    check_same_bits(result, bits, f"{way}: values")
    check_same_bits(source, bits, f"{way}: the source's values")
    after = autograd_state(source)
    check(after.pop("grad") is gradient, f"{way}: the source's gradient is another object, or gone")
    check_equal(after, before, f"{way}: the source's state")
    if gradient is not None:
        check_same_bits(gradient, ones, f"{way}: the source's gradient")
    if result.is_leaf:
        check(result.grad is None, f"{way}: the clone carries .grad")
    check_equal(result.storage_offset(), 0, f"{way}: storage offset")


@law("C1", DOCUMENT, ANY)
@given(spec=tensors(), way=WAY, mode=MODE)
def test_owns_its_memory(
    device: str, dtype: torch.dtype, spec: TensorSpec, way: str, mode: str
) -> None:
    """C1: no write passes between a clone and its source, whichever is written to."""
    source = spec.build(device, dtype)
    with getattr(torch, mode)():
        result = CLONE_CALLS[way](source)
    if source.numel():
        check(storage_address(result) != storage_address(source), f"{way}: shares its storage")
    # an inference tensor refuses writes outside its mode
    with getattr(torch, "no_grad" if mode == "enable_grad" else mode)():
        before = read_bits(source)
        result.data.copy_(of_bytes(tuple(source.shape), dtype, device, 0))
        check_same_bits(source, before, f"{way}: the source after a write to its clone")
        if overlaps(source):
            return  # torch refuses writes to a tensor that overlaps itself
        written = read_bits(result)
        source.copy_(of_bytes(tuple(source.shape), dtype, device))
        check_same_bits(result, written, f"{way}: the clone after a write to its source")


@law("C1 C2", "torch.memory_format documentation", ANY)
@given(spec=tensors(), way=WAY)
def test_layout(device: str, dtype: torch.dtype, spec: TensorSpec, way: str) -> None:
    """C1: strides are kept where dense, memory_format is honoured, overlap is densified."""
    source = spec.build(device, dtype)
    result = CLONE_CALLS[way](source)
    check(is_dense(result), f"{way}: clone of strides {source.stride()} has {result.stride()}")
    if "contiguous" in way:
        check(result.is_contiguous(), f"{way}: strides {result.stride()}")
    elif is_dense(source):
        kept = [s for s, n in zip(source.stride(), source.shape) if n > 1]
        got = [s for s, n in zip(result.stride(), result.shape) if n > 1]
        if source.numel():
            check_equal(got, kept, f"{way}: strides")
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    wanted = formats.get(source.dim())
    if wanted is not None:
        first = source.clone(memory_format=wanted)
        again = first.clone(memory_format=wanted)  # of what has the format already
        check(storage_address(again) != storage_address(first), f"{wanted}, twice: shares its storage")
        for last in (first, torch.clone(source, memory_format=wanted), again):
            check(last.is_contiguous(memory_format=wanted), f"{wanted}: strides {last.stride()}")
            check_same_bits(last, source, f"{wanted}: values")
            check(storage_address(last) != storage_address(source), f"{wanted}: shares its storage")
            check_equal(last.requires_grad, source.requires_grad, f"{wanted}: requires_grad")


@law("C1 C2", DOCUMENT, PRECISE)
def test_sparse_owns_values(device: str, dtype: torch.dtype) -> None:
    """C1: clone of a sparse tensor owns its values, and stays in the graph."""
    for kind, count in SPARSE:
        source = sparse_matrix(kind, count, device, dtype)
        where = f"clone of a sparse {kind} of {count}"
        result = source.clone()
        check_equal(result.layout, source.layout, f"{where}: layout")
        for part in ("_indices", "_values"):
            ours, theirs = getattr(result, part)(), getattr(source, part)()
            check(ours.data_ptr() != theirs.data_ptr(), f"{where}: shares {part}")
            check_same_bits(ours, read_bits(theirs), f"{where}: {part}")
        check_equal(result.requires_grad, source.requires_grad, f"{where}: requires_grad")


@law("C2", "PyTorch notes, Autograd mechanics; the source article", DIFFERENTIABLE)
@given(spec=tensors(), way=WAY, grad=st.booleans())
def test_is_a_node_of_the_graph(
    device: str, dtype: torch.dtype, spec: TensorSpec, way: str, grad: bool
) -> None:
    """C2: a clone of what requires grad has a CloneBackward node next to its source's; else none."""
    source = spec.build(device, dtype)
    with torch.set_grad_enabled(grad):
        result = CLONE_CALLS[way](source)
    check(type(result) is torch.Tensor, f"{way}: gives a {type(result).__name__}")
    if not (grad and source.requires_grad):
        check(result.grad_fn is None, f"{way}: grad_fn {result.grad_fn} without a graph")
        check(not result.requires_grad and result.is_leaf, f"{way}: requires grad without a graph")
        return
    node = result.grad_fn
    check(node is not None, f"{way}: no grad_fn")
    assert node is not None
    check(type(node).__name__.startswith("CloneBackward"), f"{way}: grad_fn {node}")
    check(result.requires_grad and not result.is_leaf, f"{way}: a leaf, or no grad required")
    before = node.next_functions[0][0]
    check_equal(len(node.next_functions), 1, f"{way}: edges")
    if source.is_leaf:
        check(getattr(before, "variable", None) is source, f"{way}: leads to {before}")
    else:
        check(before is source.grad_fn, f"{way}: leads to {before}, not {source.grad_fn}")


UPSTREAMS = ("ordinary", "mixed", "transposed", "expanded")


def upstream_spec(upstream: str, shape: Tuple[int, ...], seed: int) -> TensorSpec:
    """A gradient of a shape: one number for all elements, other strides, or special values."""
    if upstream == "expanded":
        return TensorSpec(seed=seed)
    if upstream == "transposed" and len(shape) > 1:
        return TensorSpec((shape[-1], *shape[1:-1], shape[0]), layout="transposed", seed=seed)
    return TensorSpec(shape, special="mixed" if upstream == "mixed" else "ordinary", seed=seed)


def gradient_of(
    upstream: str, shape: Tuple[int, ...], seed: int, device: str, dtype: torch.dtype
) -> torch.Tensor:
    """What ``upstream_spec`` describes, as a tensor of the whole shape."""
    return upstream_spec(upstream, shape, seed).build(device, dtype).expand(shape)


@law("C3", "the source article", DIFFERENTIABLE)
@given(
    spec=tensors(kinds=("requires_grad", "parameter", "non_leaf", "view")),
    way=WAY,
    upstream=st.sampled_from(UPSTREAMS),
    seed=st.integers(0, 255),
)
def test_passes_gradients_unchanged(
    device: str, dtype: torch.dtype, spec: TensorSpec, way: str, upstream: str, seed: int
) -> None:
    """C3: the gradient of a clone reaches its source bit for bit, at every backward, once."""
    source = spec.build(device, dtype)
    if not source.is_leaf:
        source.retain_grad()
    calls: List[int] = []
    source.register_hook(lambda gradient: calls.append(1))
    shape = tuple(source.shape)
    bits = read_bits(gradient_of(upstream, shape, seed, device, dtype))
    result = CLONE_CALLS[way](source)
    # made anew for each: autograd may take the very tensor as a .grad
    result.backward(gradient_of(upstream, shape, seed, device, dtype), retain_graph=True)
    check(source.grad is not None, f"{way}: no gradient came through")
    assert source.grad is not None
    check_same_bits(source.grad, bits, f"{way}: gradient")
    check_equal(len(calls), 1, f"{way}: calls of the source's hook in one backward")
    source.grad = None
    result.backward(gradient_of(upstream, shape, seed, device, dtype))
    check(source.grad is not None, f"{way}: no gradient came at the second backward")
    assert source.grad is not None
    check_same_bits(source.grad, bits, f"{way}: gradient of the second backward")


@law("C3", DOCUMENT, PRECISE)
@given(
    spec=tensors(
        kinds=("requires_grad",),
        layouts=("contiguous", "transposed"),
        specials=("ordinary",),
        max_elements=1025,
    ),
    way=WAY,
)
def test_passes_second_derivatives(device: str, dtype: torch.dtype, spec: TensorSpec, way: str) -> None:
    """C3: double backward through a clone is that without it: d2/dx2 of x**3."""
    grads = []
    for through in (lambda tensor: tensor, CLONE_CALLS[way]):
        source = spec.build(device, dtype)
        value = through(source)
        (first,) = torch.autograd.grad((value * value * value).sum(), source, create_graph=True)
        first.sum().backward()
        check(source.grad is not None, f"{way}: no second derivative")
        assert source.grad is not None
        grads.append(source.grad)
    check_same_bits(grads[1], grads[0], f"{way}: second derivative")


@law("C3", "torch.autograd.forward_ad documentation", PRECISE)
@given(
    spec=tensors(
        kinds=("leaf",),
        layouts=("contiguous", "transposed"),
        specials=("ordinary",),
        max_elements=1025,
    ),
    way=WAY,
)
def test_passes_tangents(device: str, dtype: torch.dtype, spec: TensorSpec, way: str) -> None:
    """C3: forward mode: a clone's tangent is its source's, in other memory."""
    forward = getattr(torch.autograd, "forward_ad", None)
    if forward is None or not hasattr(torch, "inference_mode"):
        raise NotOffered("forward mode: this torch has none for clone")
    primal = spec.build(device, dtype)
    tangent = TensorSpec(tuple(primal.shape), seed=spec.seed + 1).build(device, dtype)
    with forward.dual_level():
        dual = forward.make_dual(primal, tangent)
        result = forward.unpack_dual(CLONE_CALLS[way](dual)).tangent
        check(result is not None, f"{way}: the tangent is lost")
        check_same_bits(result, tangent, f"{way}: tangent")
        held = forward.unpack_dual(dual).tangent
        if primal.numel():
            check(storage_address(result) != storage_address(held), f"{way}: shares its tangent")


@law("C3", "the source article", FLOATING)
@given(data=st.data())
def test_is_the_identity_in_training(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """C3: clones put anywhere in a net leave every gradient and every trained bit the same."""
    # without skips: a sum of three gradients may be taken in another order with a clone in it
    networks = mlps(skips=False)
    run: TrainingRun = data.draw(
        training_runs(networks=networks, device=device, dtype=dtype, learns=True)
    )
    places = data.draw(st.integers(1, 2 ** (run.network.depth + 1) - 1))
    way = CLONE_CALLS[data.draw(WAY)]
    plain, cloned = Trainer(run, device, dtype), Trainer(run, device, dtype)

    def output() -> torch.Tensor:
        value: torch.Tensor = cloned.network(
            cloned.inputs,
            cuts=run.cuts.positions,
            cut_by=run.cuts.by,
            at=lambda place, value: way(value) if places >> place & 1 else value,
        )
        return value

    cloned.output = output  # type: ignore[method-assign]
    plain.train()
    cloned.train()
    expected, gradients = plain.bits(), plain.gradient_bits()
    for name, parameter in cloned.named.items():
        check_same_gradient(parameter, gradients[name], f"gradient of {name} with clones put in")
        check_same_bits(parameter, expected[name], f"{name} trained with clones put in")


@law("C4", "the source article", FLOATING)
@given(network=mlps(max_width=40), way=WAY, detach=st.sampled_from(("no", "before", "after")))
def test_is_a_snapshot(device: str, dtype: torch.dtype, network: MLP, way: str, detach: str) -> None:
    """C4: clones of parameters keep their bits through training; .grad is not carried."""
    trainer = Trainer(TrainingRun(network, batch=4, steps=2, seed=network.seed), device, dtype)
    trainer.backward()
    copies: Dict[str, torch.Tensor] = {}
    for name, parameter in trainer.named.items():
        source = parameter.detach() if detach == "before" else parameter
        copied = CLONE_CALLS[way](source)
        copies[name] = copied.detach() if detach == "after" else copied
        check(type(copied) is torch.Tensor, f"a clone of {name} is a {type(copied).__name__}")
        if copied.is_leaf:
            check(copied.grad is None, f"a clone of {name} carries .grad")
    trainer.train()
    moved = 0
    for name, copied in copies.items():
        check_same_bits(copied, trainer.before[name], f"the clone of {name} after training")
        moved += read_bits(trainer.named[name]) != trainer.before[name]
    grads = [p.grad for p in trainer.named.values() if p.grad is not None]
    if any(bool((grad.abs() > 0.1).any()) for grad in grads):
        check(moved > 0, "nothing was trained")


@law("C5 D3", "torch.nn.Module.state_dict documentation", FLOATING)
@given(data=st.data())
def test_state_dict_follows(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """C5: state_dict values are detached aliases that follow training; a deepcopy does not."""
    network = data.draw(mlps(max_width=40))
    mask, train = data.draw(freeze_masks(network)), data.draw(st.booleans())
    trainer = Trainer(TrainingRun(network, mask, batch=4, seed=network.seed), device, dtype)
    trainer.network.train(train)
    live: Dict[str, torch.Tensor] = dict(trainer.network.named_parameters(**EACH_PLACE))
    live.update(trainer.network.named_buffers())
    before = snapshot(live)
    saved: Dict[str, Any] = dict(trainer.network.state_dict())
    frozen_copy = copy.deepcopy(trainer.network.state_dict())
    fork = copy.deepcopy(trainer.network)
    check_equal([name for name in live if name not in saved], [], "missing in state_dict()")
    for name, tensor in live.items():
        value = saved[name]
        check_equal(storage_address(value), storage_address(tensor), f"storage of {name}")
        check(not value.requires_grad and value.grad_fn is None, f"{name} is in the graph")
    trainer.train()
    for name, tensor in live.items():
        check_same_bits(saved[name], tensor, f"state_dict()[{name}] after training")
        check_same_bits(frozen_copy[name], before[name], f"deepcopied {name}")
    copied = dict(fork.named_parameters(**EACH_PLACE))
    for name, parameter in copied.items():
        check_same_bits(parameter, before[name], f"{name} of a deepcopied net")
        flag = live[name].requires_grad
        check_equal(parameter.requires_grad, flag, f"requires_grad of {name} of a deepcopied net")
    for name, buffer in fork.named_buffers():
        check_same_bits(buffer, before[name], f"{name} of a deepcopied net")
    check_equal(len(list(fork.parameters())), len(trainer.named), "parameters of a deepcopied net")


# Names of tied parameters too, where torch can tell them.
EACH_PLACE: Dict[str, Any] = {"remove_duplicate": False}
if not accepts(lambda: torch.nn.Linear(1, 1).named_parameters(**EACH_PLACE)):
    EACH_PLACE = {}


@law("C5", DOCUMENT, ANY)
@given(spec=tensors())
def test_detach_and_clone_commute(device: str, dtype: torch.dtype, spec: TensorSpec) -> None:
    """C5: detach().clone(), clone().detach() and deepcopy agree: own memory, same bits."""
    source = spec.build(device, dtype)
    one, two = source.detach().clone(), source.clone().detach()
    for name, result in (("detach().clone()", one), ("clone().detach()", two)):
        check_same_bits(result, source, name)
        check(result.is_leaf and not result.requires_grad, f"{name} is in the graph")
        if source.numel():
            check(storage_address(result) != storage_address(source), f"{name} shares storage")
    check_equal(one.stride(), two.stride(), "strides")
    if not source.is_leaf:
        return  # deepcopy refuses what was computed
    copied = copy.deepcopy(source)
    check_same_bits(copied, source, "deepcopy")
    check(type(copied) is type(source), f"deepcopy gives a {type(copied).__name__}")
    check_equal(copied.requires_grad, source.requires_grad, "requires_grad of a deepcopy")
    if source.numel():
        check(storage_address(copied) != storage_address(source), "a deepcopy shares storage")


@law("C4", "the source article", FLOATING)
@given(
    spec=tensors(
        kinds=("requires_grad", "parameter"),
        layouts=("contiguous", "offset"),
        specials=("ordinary",),
    ),
    way=WAY,
)
def test_does_not_follow_the_optimizer(
    device: str, dtype: torch.dtype, spec: TensorSpec, way: str
) -> None:
    """C4: an in-place optimizer step on a tensor of any size leaves its clone alone."""
    source = spec.build(device, dtype)
    copied, before = CLONE_CALLS[way](source), read_bits(source)
    source.grad = torch.ones(tuple(source.shape), dtype=dtype, device=device)
    torch.optim.SGD([source], lr=0.5).step()
    check_same_bits(copied, before, f"{way}: after a step")
    if before:
        check_moved(source, before, "the source after a step")
