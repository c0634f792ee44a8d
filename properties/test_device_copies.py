"""Copies between devices: every bit arrives, flags and graph stay, gradients come home."""

import copy
from functools import cache
from typing import Any, Callable, Dict, List, Tuple

import torch
from hypothesis import given
from hypothesis import strategies as st

from frostproof.properties.harness.core.bits import read_bits
from frostproof.properties.harness.core.checks import check, check_equal, check_same_bits
from frostproof.properties.harness.core.law import ANY, DIFFERENTIABLE, PRECISE, law
from frostproof.properties.harness.core.layout import autograd_state, overlaps
from frostproof.properties.harness.machine import accelerators
from frostproof.strategies import TensorSpec, tensors
from frostproof.strategies.tensors import TENSOR_LAYOUTS

DOCUMENT = "torch.Tensor.to and torch.Tensor.copy_ documentation"


def made_on(tensor: torch.Tensor, device: str, **options: Any) -> torch.Tensor:
    """An empty tensor of the same shape and dtype."""
    return torch.empty(tuple(tensor.shape), dtype=tensor.dtype, device=device, **options)


# How a tensor comes to a device: as a new tensor there.
DEVICE_COPIES: Dict[str, Callable[[torch.Tensor, str], torch.Tensor]] = {
    "to(device)": lambda tensor, end: tensor.to(end),
    "to(device, non_blocking=True)": lambda tensor, end: tensor.to(end, non_blocking=True),
    "to(other)": lambda tensor, end: tensor.to(torch.empty(0, dtype=tensor.dtype, device=end)),
    "copy_": lambda tensor, end: made_on(tensor, end).copy_(tensor),
    "copy_(non_blocking=True)": lambda tensor, end: made_on(tensor, end).copy_(
        tensor, non_blocking=True
    ),
}
PINNED: Dict[str, Callable[[torch.Tensor, str], torch.Tensor]] = {
    "into pinned memory": lambda tensor, end: made_on(tensor, end, pin_memory=end == "cpu").copy_(
        tensor, non_blocking=True
    ),
    "out of pinned memory": lambda tensor, end: (
        tensor.pin_memory() if tensor.device.type == "cpu" else tensor
    ).to(end, non_blocking=True),
}


@cache
def pins(device: str) -> bool:
    """Whether the host's memory can be pinned beside this device."""
    try:
        torch.empty(1).pin_memory().to(device, non_blocking=True)
    except (RuntimeError, NotImplementedError, AssertionError):
        return False
    return True


def ways(device: str, source: torch.Tensor) -> Tuple[str, ...]:
    """The names of the ways that there are for a source.

    torch pins nothing that overlaps itself, and differentiates no complex pinning.
    """
    refused = overlaps(source) or (source.dtype.is_complex and source.requires_grad)
    return tuple(DEVICE_COPIES) if refused or not pins(device) else (*DEVICE_COPIES, *PINNED)


def routes(device: str) -> List[Tuple[str, str]]:
    """(start, end) of the copies that a device takes part in: the CPU, and its neighbour if any."""
    other = accelerators.neighbour(device)
    found = [("cpu", device), (device, "cpu")]
    return found if other is None else [*found, (device, other), (other, device)]


def moved(source: torch.Tensor, way: str, end: str, device: str) -> torch.Tensor:
    """The source at the end of the way, when it has arrived."""
    result = {**DEVICE_COPIES, **PINNED}[way](source, end)
    accelerators.synchronize(device)
    return result


def check_place(tensor: torch.Tensor, where: str, what: str) -> None:
    """A tensor lies on a device; one without a number is any of its kind."""
    wanted = torch.device(where)
    check_equal(tensor.device.type, wanted.type, f"{what}: device")
    if wanted.index is not None:
        check_equal(tensor.device.index or 0, wanted.index, f"{what}: number of the device")


@law("X4", DOCUMENT, ANY, beside_cpu=True)
@given(data=st.data(), spec=tensors(layouts=tuple(name for name in TENSOR_LAYOUTS if name != "lazy")))
def test_every_bit_arrives(
    device: str, dtype: torch.dtype, spec: TensorSpec, data: st.DataObject
) -> None:
    """X4: copied to another device, a tensor keeps its bits and its flag, and its source all."""
    start, end = data.draw(st.sampled_from(routes(device)))
    source = spec.build(start, dtype)
    way = data.draw(st.sampled_from(ways(device, source)))
    bits, before = read_bits(source), autograd_state(source)
    result, what = moved(source, way, end, device), f"{way} from {start} to {end}"
    check_place(result, end, what)
    check_equal((result.shape, result.dtype), (source.shape, source.dtype), f"{what}: shape, dtype")
    check_same_bits(result, bits, f"{what}: values")
    check_equal(result.requires_grad, source.requires_grad, f"{what}: requires_grad")
    check_equal(result.is_leaf, not source.requires_grad, f"{what}: is_leaf")
    check_same_bits(source, bits, f"{what}: the source's values")
    check_equal(autograd_state(source), before, f"{what}: the source's state")


@law("X4", DOCUMENT, PRECISE, beside_cpu=True)
@given(data=st.data(), spec=tensors(layouts=("lazy",), specials=("ordinary",), kinds=("leaf",)))
def test_lazy_signs_arrive(
    device: str, dtype: torch.dtype, spec: TensorSpec, data: st.DataObject
) -> None:
    """X4: a negative that is yet to be computed (z.conj().imag) is the same number elsewhere."""
    way = data.draw(st.sampled_from(ways(device, spec.build("cpu", dtype))))
    for start, end in routes(device):
        source = spec.build(start, dtype)
        result = moved(source, way, end, device)
        check_same_bits(result, read_bits(source), f"{way} from {start} to {end}")


@law("X4 C2", "PyTorch notes, Autograd mechanics", DIFFERENTIABLE, beside_cpu=True)
@given(data=st.data(), spec=tensors(kinds=("requires_grad", "parameter")))
def test_gradients_come_home(
    device: str, dtype: torch.dtype, spec: TensorSpec, data: st.DataObject
) -> None:
    """X4: through a copy, a gradient comes back bit for bit, to the source's device."""
    start, end = data.draw(st.sampled_from(routes(device)))
    source = spec.build(start, dtype)
    way = data.draw(st.sampled_from(ways(device, source)))
    result, what = moved(source, way, end, device), f"{way} from {start} to {end}"
    gradient = TensorSpec(tuple(result.shape), seed=spec.seed + 1).build(end, dtype)
    bits = read_bits(gradient)
    result.backward(gradient)
    accelerators.synchronize(device)
    arrived = source.grad
    check(arrived is not None, f"{what}: the source has no gradient")
    assert arrived is not None
    check_equal(arrived.device, source.device, f"{what}: device of the gradient")
    check_same_bits(arrived, bits, f"{what}: the gradient")


STAYING: Dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "detach()": lambda tensor: tensor.detach(),
    "clone()": lambda tensor: tensor.clone(),
    "detach().clone()": lambda tensor: tensor.detach().clone(),
    "clone(memory_format=contiguous)": lambda tensor: tensor.clone(
        memory_format=torch.contiguous_format
    ),
    "deepcopy(detach())": lambda tensor: copy.deepcopy(tensor.detach()),
    "torch.zeros_like(tensor)": torch.zeros_like,
}


@law("X4 D1 C1", "torch.Tensor.detach and torch.clone documentation", PRECISE, beside_cpu=True)
@given(data=st.data(), spec=tensors(), way=st.sampled_from(sorted(STAYING)))
def test_the_device_stays(
    device: str, dtype: torch.dtype, spec: TensorSpec, way: str, data: st.DataObject
) -> None:
    """X4: detach and clone stay on their source's device, whichever is the current one."""
    other = accelerators.neighbour(device)
    place = data.draw(st.sampled_from([one for one in (device, other) if one]))
    current = data.draw(st.sampled_from([None, other]))
    source = spec.build(place, dtype)
    with accelerators.selected(current):
        result = STAYING[way](source)
        loss = (source * source).sum() if source.requires_grad else None
        if loss is not None and source.is_leaf:
            loss.backward()
    what = f"{way} while {current or 'the same'} is the current device"
    check_equal(result.device, source.device, f"{what}: device")
    if "zeros" not in way:
        check_same_bits(result, read_bits(source), f"{what}: values")
    if source.is_leaf and source.grad is not None:
        check_equal(source.grad.device, source.device, f"{what}: device of the gradient")
