"""Detach in place: outside the graph, unless it is a view of what is inside."""

from typing import Callable, Dict

import torch
from hypothesis import given
from hypothesis import strategies as st

from frostproof.properties.harness.core.bits import read_bits
from frostproof.properties.harness.core.checks import (
    check,
    check_equal,
    check_raises,
    check_same_bits,
)
from frostproof.properties.harness.core.law import DIFFERENTIABLE, FLOATING, law
from frostproof.properties.harness.core.layout import (
    geometry,
    storage_address,
)
from frostproof.strategies import TensorSpec, tensors

IN_PLACE: Dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "tensor.detach_()": lambda tensor: tensor.detach_(),
    "torch.detach_(tensor)": lambda tensor: torch.detach_(tensor),
}


@law("D8", "torch.Tensor.detach_ documentation", DIFFERENTIABLE)
@given(
    spec=tensors(
        kinds=("requires_grad", "parameter", "non_leaf", "leaf", "frozen"),
        layouts=("contiguous", "transposed", "channels_last"),
    ),
    way=st.sampled_from(sorted(IN_PLACE, reverse=True)),
    mode=st.sampled_from(("enable_grad", "no_grad")),
)
def test_detach_in_place(
    device: str, dtype: torch.dtype, spec: TensorSpec, way: str, mode: str
) -> None:
    """D8: detach_ returns the tensor itself, now a leaf; an earlier graph still reaches its source."""
    source = spec.build(device, dtype)
    leaf = torch.ones((), dtype=dtype, device=device, requires_grad=True)
    middle = leaf * 2
    early = middle * 3
    bits, place, storage = read_bits(source), geometry(source), storage_address(source)
    version = source._version
    for tensor in (middle,) if source._is_view() else (source, middle):
        with getattr(torch, mode)():
            result = IN_PLACE[way](tensor)
        check(result is tensor, f"{way}: returned another tensor")
        check(tensor.is_leaf and not tensor.requires_grad, f"after {way} still in the graph")
        check(tensor.grad_fn is None, f"after {way} grad_fn is {tensor.grad_fn}")
        check(not (tensor * 2).requires_grad, f"what is made after {way} requires grad")
    check_same_bits(source, bits, f"values after {way}")
    check_equal(geometry(source), place, f"geometry after {way}")
    check_equal(storage_address(source), storage, f"storage after {way}")
    check_equal(source._version, version, f"version after {way}")
    early.abs().backward()
    check(leaf.grad is not None, f"the graph from before {way} no longer reaches its leaf")
    assert leaf.grad is not None
    check_equal(complex(leaf.grad), 6 + 0j, "gradient through the earlier graph")


# Views that detach_ refuses, of a square matrix, as expressions of it.
VIEWS: Dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "whole[0]": lambda whole: whole[0],
    "whole[0, 0]": lambda whole: whole[0, 0],
    "whole[:]": lambda whole: whole[:],
    "whole.t()": lambda whole: whole.t(),
    "whole.diagonal()": lambda whole: whole.diagonal(),
    "whole.view(-1)": lambda whole: whole.view(-1),
    "whole.unsqueeze(0)": lambda whole: whole.unsqueeze(0),
    "whole.expand(2, -1, -1)": lambda whole: whole.expand(2, -1, -1),
    "whole.unbind()[0]": lambda whole: whole.unbind()[0],
}
CHUNKS: Dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "whole.chunk(2)[0]": lambda whole: whole.chunk(2)[0],
    "whole.split(1)[0]": lambda whole: whole.split(1)[0],
}


def check_refused(view: torch.Tensor, part: str, way: str) -> None:
    """detach_ of a view raises and changes nothing."""
    __tracebackhide__ = True
    node = view.grad_fn
    check_raises(RuntimeError, lambda: IN_PLACE[way](view), f"{way} of {part}", "detach")
    check(view.requires_grad and view.grad_fn is node, f"{part}, refused by {way}, left the graph")


@law("D8", "torch.Tensor.detach_ documentation", FLOATING)
@given(
    size=st.integers(1, 9),
    part=st.sampled_from(list(VIEWS)),
    way=st.sampled_from(sorted(IN_PLACE, reverse=True)),
)
def test_detach_in_place_refuses_views(
    device: str, dtype: torch.dtype, size: int, part: str, way: str
) -> None:
    """D8: detach_ of a view raises, and the view stays in the graph."""
    leaf = torch.ones(size, size, dtype=dtype, device=device, requires_grad=True)
    check_refused(VIEWS[part](leaf * 2), part, way)


@law("D8", "torch.Tensor.detach_ documentation", FLOATING)
@given(
    size=st.integers(2, 9),
    part=st.sampled_from(list(CHUNKS)),
    way=st.sampled_from(sorted(IN_PLACE, reverse=True)),
)
def test_detach_in_place_refuses_chunks(
    device: str, dtype: torch.dtype, size: int, part: str, way: str
) -> None:
    """D8: detach_ of one of several views made at once raises, and it stays in the graph."""
    leaf = torch.ones(size, size, dtype=dtype, device=device, requires_grad=True)
    check_refused(CHUNKS[part](leaf * 2), part, way)
