"""Detach: the same storage, outside the graph."""

import importlib.util
from itertools import product
from typing import Any, Callable, Dict, List, Tuple

import torch
from hypothesis import given
from hypothesis import strategies as st

from frostproof.properties.harness.core.bits import read_bits
from frostproof.properties.harness.core.checks import (
    check,
    check_equal,
    check_moved,
    check_raises,
    check_same_bits,
    snapshot,
)
from frostproof.properties.harness.core.law import ANY, COMPLEX, DIFFERENTIABLE, FLOATING, PRECISE, law
from frostproof.properties.harness.core.layout import (
    ATTACHED,
    attach,
    autograd_state,
    geometry,
    overlaps,
    storage_address,
)
from frostproof.properties.harness.running.trainer import Trainer
from frostproof.strategies import MLP, TensorSpec, TrainingRun, mlps, tensors
from frostproof.strategies.capabilities import NotOffered, of_bytes

DOCUMENT = "torch.Tensor.detach documentation"
# Both ways to call it, and the modes under which it must do the same.
DETACH_CALLS: Dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "tensor.detach()": lambda tensor: tensor.detach(),
    "torch.detach(tensor)": lambda tensor: torch.detach(tensor),
}

# Tensors that do not overlap themselves: torch refuses writes to those that do.
WRITABLE = ("contiguous", "offset", "transposed", "strided", "channels_last")


def modes() -> Tuple[str, ...]:
    """Names of torch's grad modes, the ordinary one first."""
    found = ("enable_grad", "no_grad")
    return (*found, "inference_mode") if hasattr(torch, "inference_mode") else found


def ways_and_modes() -> st.SearchStrategy:
    """(way to call, name of the mode around the call)."""
    return st.sampled_from(list(product(sorted(DETACH_CALLS, reverse=True), modes())))


def detached(source: torch.Tensor, how: Tuple[str, str]) -> torch.Tensor:
    """``source`` detached in one of the ways, under one of the modes."""
    with getattr(torch, how[1])():
        return DETACH_CALLS[how[0]](source)


@law("D1", DOCUMENT, ANY)
@given(spec=tensors(), how=ways_and_modes(), attached=st.sampled_from(ATTACHED))
def test_shares_storage(
    device: str, dtype: torch.dtype, spec: TensorSpec, how: Tuple[str, str], attached: str
) -> None:
    """D1: detach shares storage, address, offset, shape, strides, dtype, device and layout."""
    source = spec.build(device, dtype)
    attach(source, attached)
    result = detached(source, how)
    check(result is not source, f"{how}: detach returned its source itself")
    check_equal(geometry(result), geometry(source), f"{how}: geometry of the detached tensor")
    check_equal(storage_address(result), storage_address(source), f"{how}: storage")
    check_equal(result.data_ptr(), source.data_ptr(), f"{how}: data_ptr")
    check_same_bits(result, source, f"{how}: values")


@law("D1 D6", DOCUMENT, ANY)
@given(spec=tensors(layouts=WRITABLE), how=ways_and_modes())
def test_writes_are_seen_both_ways(
    device: str, dtype: torch.dtype, spec: TensorSpec, how: Tuple[str, str]
) -> None:
    """D1: what is written through the detached tensor is read from the source, and the reverse."""
    source = spec.build(device, dtype)
    result = detached(source, how)
    version = source._version
    with torch.no_grad():
        before = read_bits(source)
        result.copy_(of_bytes(tuple(source.shape), dtype, device, 0))
        check_same_bits(source, result, "the source after a write through its detached alias")
        check_same_bits(source, bytes(len(before)), "zeros written through the alias")
        check(source._version > version, f"{how}: a write through the alias is no new version")
        source.copy_(of_bytes(tuple(source.shape), dtype, device))
        check_same_bits(result, source, "the detached alias after a write to its source")
        check_equal(result._version, source._version, f"{how}: versions after writes")


def sparse_matrix(kind: str, count: int, device: str, dtype: torch.dtype) -> torch.Tensor:
    """A sparse matrix of ``count`` ones on its diagonal: a leaf, a live leaf or a non-leaf."""
    places = torch.arange(count, device=device).expand(2, count)
    values = torch.ones(count, dtype=dtype, device=device)
    made = torch.sparse_coo_tensor(places, values, (count + 1, count + 1))
    if kind == "leaf":
        return made
    return made.requires_grad_() if kind == "requires_grad" else made.requires_grad_() * 2


SPARSE = [(kind, count) for kind in ("leaf", "requires_grad", "non_leaf") for count in (1, 300)]


@law("D1 D2", DOCUMENT, PRECISE)
def test_sparse_shares_values(device: str, dtype: torch.dtype) -> None:
    """D1: detach of a sparse tensor shares its indices and values, outside the graph."""
    for kind, count in SPARSE:
        source = sparse_matrix(kind, count, device, dtype)
        for how, call in DETACH_CALLS.items():
            result, where = call(source), f"{how} of a sparse {kind} of {count}"
            check_equal(result.layout, source.layout, f"{where}: layout")
            for part in ("_indices", "_values"):
                address = getattr(source, part)().data_ptr()
                check_equal(getattr(result, part)().data_ptr(), address, f"{where}: {part}")
            check(not result.requires_grad, f"{where}: requires grad")
            check(result.grad_fn is None, f"{where}: has grad_fn {result.grad_fn}")


@law("D2", DOCUMENT, ANY)
@given(spec=tensors(), how=ways_and_modes(), attached=st.sampled_from(ATTACHED))
def test_is_outside_the_graph(
    device: str, dtype: torch.dtype, spec: TensorSpec, how: Tuple[str, str], attached: str
) -> None:
    """D2: a detached tensor is a plain leaf Tensor without grad_fn, requires_grad or .grad."""
    source = spec.build(device, dtype)
    attach(source, attached)
    result = detached(source, how)
    check(not result.requires_grad, f"{how}: the detached tensor requires grad")
    check(result.grad_fn is None, f"{how}: the detached tensor has grad_fn {result.grad_fn}")
    check(result.is_leaf, f"{how}: the detached tensor is not a leaf")
    check(result.grad is None, f"{how}: the detached tensor carries .grad")
    check(type(result) is torch.Tensor, f"{how}: the detached tensor is a {type(result).__name__}")


@law("D5", DOCUMENT, ANY)
@given(spec=tensors(), how=ways_and_modes(), attached=st.sampled_from(ATTACHED))
def test_leaves_its_source_alone(
    device: str, dtype: torch.dtype, spec: TensorSpec, how: Tuple[str, str], attached: str
) -> None:
    """D5: detach leaves its source's requires_grad, grad, grad_fn, is_leaf, version and bits."""
    source = spec.build(device, dtype)
    attach(source, attached)
    before, kind, place = autograd_state(source), type(source), geometry(source)
    bits, gradient = read_bits(source), before["grad"]
    ones = None if gradient is None else read_bits(gradient)
    result = detached(source, how)
    after = autograd_state(source)
    for fact, value in before.items():
        check(
            after[fact] is value or after[fact] == value if fact != "grad" else after[fact] is value,
            f"{how}: the source's {fact} was {value}, is {after[fact]}",
        )
    check_equal(type(source), kind, f"{how}: the source's type")
    check_equal(geometry(source), place, f"{how}: the source's geometry")
    check_same_bits(source, bits, f"{how}: the source's values")
    if gradient is not None:
        check_same_bits(gradient, ones, f"{how}: the source's gradient")
    if dtype.is_floating_point or dtype.is_complex:
        for flag in (True, False):
            result.requires_grad_(flag)
            check_equal(source.requires_grad, before["requires_grad"], "source, once its alias changed")


OPTIMIZERS: Tuple[Tuple[str, Dict[str, Any]], ...] = (
    ("SGD", {"lr": 0.5}),
    ("SGD", {"lr": 0.5, "momentum": 0.9, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.1}),
    ("RMSprop", {"lr": 0.1}),
)


def step_shows(parameter: torch.Tensor) -> bool:
    """Whether a step by 0.1 times the gradient must change the bits of some element."""
    if parameter.grad is None:
        return False
    spacing = torch.finfo(parameter.dtype).eps * parameter.detach().abs()  # at most
    moved = (parameter.grad.abs() > 0.1) & (0.1 * parameter.grad.abs() > 2 * spacing)
    return bool(moved.any())


@law("D3", "the source article", FLOATING)
@given(
    spec=tensors(
        kinds=("requires_grad", "parameter"),
        layouts=("contiguous", "offset"),
        specials=("ordinary",),
    ),
    choice=st.sampled_from(OPTIMIZERS),
    steps=st.integers(1, 3),
)
def test_follows_the_optimizer(
    device: str,
    dtype: torch.dtype,
    spec: TensorSpec,
    choice: Tuple[str, Dict[str, Any]],
    steps: int,
) -> None:
    """D3: after each in-place step the detached tensor has the parameter's new bits."""
    source = spec.build(device, dtype)
    alias = source.detach()
    first = read_bits(source)
    optimizer = getattr(torch.optim, choice[0])([source], **choice[1])
    for step in range(steps):
        source.grad = torch.ones(tuple(source.shape), dtype=dtype, device=device)
        optimizer.step()
        check_same_bits(alias, source, f"the detached alias after step {step + 1} of {choice}")
    if first:
        check_moved(alias, first, f"the alias after {choice}")


@law("D3", "the source article", FLOATING)
@given(network=mlps(max_width=40))
def test_follows_training(device: str, dtype: torch.dtype, network: MLP) -> None:
    """D3: detached aliases of a net's parameters follow its training."""
    trainer = Trainer(TrainingRun(network, batch=4, seed=network.seed), device, dtype)
    aliases = {name: parameter.detach() for name, parameter in trainer.named.items()}
    trainer.train()
    first = snapshot(trainer.named)
    trainer.train()
    for name, alias in aliases.items():
        check_same_bits(alias, trainer.named[name], f"the detached alias of {name}")
        if step_shows(trainer.named[name]):
            check_moved(alias, first[name], f"the detached alias of {name} in the second step")


@law("D4", DOCUMENT, FLOATING)
@given(
    spec=tensors(kinds=("requires_grad", "parameter", "non_leaf"), specials=("ordinary",)),
    how=st.tuples(st.sampled_from(sorted(DETACH_CALLS)), st.sampled_from(("enable_grad", "no_grad"))),
)
def test_cuts_only_its_own_path(
    device: str, dtype: torch.dtype, spec: TensorSpec, how: Tuple[str, str]
) -> None:
    """D4: no gradient comes through the detached path, the whole one through the attached path."""
    source = spec.build(device, dtype)
    if not source.is_leaf:
        source.retain_grad()
    calls: List[int] = []
    source.register_hook(lambda gradient: calls.append(1))
    constant = detached(source, how)
    (source * constant).sum().backward()  # d/dx of x * c is c: exact
    check(source.grad is not None, "the attached path gave no gradient")
    assert source.grad is not None
    check_same_bits(source.grad, constant, "gradient of x * x.detach() by x")
    check_equal(len(calls), 1, "calls of the source's hook, by the attached path alone")
    check(constant.grad is None, "the detached tensor got a gradient")
    loss = (detached(source, how) * 2).sum()
    check(not loss.requires_grad, "a result of detached tensors alone requires grad")
    check_raises(RuntimeError, loss.backward, "backward through detached tensors", "require grad")
    gradient = read_bits(source.grad)
    (constant.requires_grad_() * 2).sum().backward()
    check(constant.grad is not None, "the detached tensor, made to require grad, got no gradient")
    check_same_bits(source.grad, gradient, "the source's gradient, once its alias got one of its own")
    check_equal(len(calls), 1, "calls of the source's hook, once its alias got a gradient")


@law("D6", "PyTorch notes, In-place correctness checks", DIFFERENTIABLE)
@given(
    spec=tensors(
        kinds=("requires_grad", "parameter", "non_leaf", "view"),
        layouts=WRITABLE,
        max_elements=5600,
    ),
    how=ways_and_modes(),
)
def test_shares_the_version_counter(
    device: str, dtype: torch.dtype, spec: TensorSpec, how: Tuple[str, str]
) -> None:
    """D6: a write through detach bumps the source's version and backward refuses; .data does not."""
    source = spec.build(device, dtype)
    with torch.no_grad():
        source.mul_(1)  # its version is no new tensor's, and so not that of a copy
    saved = source * source
    version = source._version
    alias = detached(source, how)
    check_equal(alias._version, version, f"{how}: version of the alias")
    alias.add_(1)
    check(source._version > version, f"{how}: a write through the alias left the source's version")
    check_equal(alias._version, source._version, f"{how}: versions after a write")
    check_raises(
        RuntimeError,
        saved.abs().sum().backward,
        f"backward after a write through {how}",
        "modified by an inplace operation",
    )
    source = spec.build(device, dtype)
    saved = source * source
    version = source._version
    source.data.add_(1)
    check_equal(source._version, version, "version after a write through .data")
    saved.abs().sum().backward()


@law("D7", DOCUMENT, ANY)
@given(spec=tensors(), how=ways_and_modes())
def test_is_idempotent(device: str, dtype: torch.dtype, spec: TensorSpec, how: Tuple[str, str]) -> None:
    """D7: detaching twice gives what detaching once gives."""
    source = spec.build(device, dtype)
    once = detached(source, how)
    for what, other in (("twice", detached(once, how)), ("a second time", detached(source, how))):
        check_equal(geometry(other), geometry(once), f"{what}: geometry")
        check_equal(storage_address(other), storage_address(once), f"{what}: storage")
        in_graph = other.requires_grad or other.grad_fn is not None
        check(not in_graph, f"detached {what}, still in a graph")
        check_same_bits(other, once, f"{what}: values")


@law("D7", "torch.Tensor.conj documentation", COMPLEX)
@given(spec=tensors(layouts=("contiguous", "offset", "transposed")), how=ways_and_modes())
def test_keeps_lazy_bits(
    device: str, dtype: torch.dtype, spec: TensorSpec, how: Tuple[str, str]
) -> None:
    """D7: the conj and neg bits of a lazy view survive detach."""
    source = spec.build(device, dtype)
    views = [source.conj()]
    if hasattr(torch, "resolve_neg"):  # lazy views: absent on torch 1.8, where conj copies
        views.append(source.conj().imag)
    for view in views:
        result = detached(view, how)
        for flag in ("is_conj", "is_neg"):
            if hasattr(view, flag):
                check_equal(getattr(result, flag)(), getattr(view, flag)(), flag)
        check_same_bits(result, view, "values of a lazy view")


@law("D9", "torch.Tensor.numpy documentation", FLOATING)
@given(
    spec=tensors(
        kinds=("requires_grad", "parameter", "non_leaf", "view"),
        layouts=(*WRITABLE, "expanded"),
        max_elements=5600,
    )
)
def test_numpy_needs_detach(device: str, dtype: torch.dtype, spec: TensorSpec) -> None:
    """D9: numpy() refuses a tensor that requires grad."""
    need_numpy(device)
    source = spec.build(device, dtype)
    check_raises((RuntimeError, TypeError), source.numpy, "numpy() of what requires grad", "grad")  # type: ignore[arg-type]


def need_numpy(device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
    """Raise NotOffered where there is no numpy, or none for a device or dtype."""
    if importlib.util.find_spec("numpy") is None:
        raise NotOffered("numpy: it is not installed, and a part of D9 needs it")
    name = str(dtype).rpartition(".")[2]
    if torch.device(device).type != "cpu":
        raise NotOffered("numpy: arrays are in the CPU's memory")
    if name not in NUMPY:
        raise NotOffered("numpy: it has no such dtype that every torch knows")


# The dtypes of numpy that torch 1.8 knew too.
NUMPY = "bool uint8 int8 int16 int32 int64 float16 float32 float64 complex64 complex128".split()


@law("D9", "torch.Tensor.numpy documentation", FLOATING)
@given(
    spec=tensors(
        kinds=("requires_grad", "parameter", "non_leaf", "view"),
        layouts=(*WRITABLE, "expanded"),
        max_elements=5600,
    )
)
def test_numpy_sees_writes(device: str, dtype: torch.dtype, spec: TensorSpec) -> None:
    """D9: numpy() of a detached tensor sees what is written to the source."""
    need_numpy(device, dtype)
    source = spec.build(device, dtype)
    array = source.detach().numpy()
    check_equal(array.shape, tuple(source.shape), "shape of the array")
    if source.numel() and not overlaps(source):
        with torch.no_grad():
            source.fill_(7)
        check(bool((array == 7).all()), "the array does not see a write to its tensor")


@law("D9", "torch.Tensor.numpy documentation", ANY)
def test_numpy_shares_memory(device: str, dtype: torch.dtype) -> None:
    """D9: numpy() of a detached tensor of any dtype that numpy has shares its memory."""
    need_numpy(device, dtype)
    for size in (1, 5000):
        source = of_bytes((size, 2), dtype, device)
        for part in (source, source.t(), source[size // 2 :, 1:]):
            alias = part.detach()
            check_equal(alias.data_ptr(), part.data_ptr(), "address of the detached tensor")
            array = alias.numpy()
            check_equal(array.ctypes.data, part.data_ptr(), "address of its array")
            check_equal(array.shape, tuple(part.shape), "shape of its array")


@law("D9", "torch.autograd.forward_ad documentation", PRECISE)
@given(
    spec=tensors(
        kinds=("leaf",),
        layouts=("contiguous", "transposed"),
        specials=("ordinary",),
        max_elements=1025,
    ),
    way=st.sampled_from(sorted(DETACH_CALLS)),
)
def test_drops_tangents(device: str, dtype: torch.dtype, spec: TensorSpec, way: str) -> None:
    """D9: detach drops a forward-mode tangent; its source keeps it."""
    forward = getattr(torch.autograd, "forward_ad", None)
    if not hasattr(torch, "inference_mode") or forward is None:
        raise NotOffered("forward mode: this torch has none for detach")
    primal = spec.build(device, dtype)
    tangent = torch.ones(tuple(primal.shape), dtype=dtype, device=device)
    with forward.dual_level():
        dual = forward.make_dual(primal, tangent)
        result = forward.unpack_dual(DETACH_CALLS[way](dual))
        check(result.tangent is None, f"{way}: the detached tensor has a tangent")
        check(forward.unpack_dual(dual).tangent is not None, "the source lost its tangent")
