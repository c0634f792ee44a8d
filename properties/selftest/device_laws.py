"""Laws that meet a real fault of an accelerator, between others that hold; for any device.

On CUDA they bring it about themselves; on the device "mirror" MIRROR_FAULT does, at the
operator MIRROR_FAULT_AT=erfinv, which nothing else uses.
"""

import torch
from hypothesis import given
from hypothesis import strategies as st

from frostproof.properties.harness.core.checks import check
from frostproof.properties.harness.core.law import PRECISE, law
from frostproof.properties.harness.machine import accelerators
from frostproof.strategies import MLP, mlps

NETWORKS = mlps(max_depth=2)


def holds(network: MLP, device: str, dtype: torch.dtype) -> bool:
    """One forward pass; whether the net is what the faults wait for."""
    module = network.build(device, dtype)
    output = module(torch.ones(3, network.inputs, device=device, dtype=dtype))
    check(bool(torch.isfinite(output).all()), "a net's output is finite")
    return len(network.layers) > 1


@law("T11", "toy", PRECISE)
@given(network=NETWORKS)
def test_first(device: str, dtype: torch.dtype, network: MLP) -> None:
    """T11: holds."""
    holds(network, device, dtype)


@law("T12", "toy", PRECISE)
@given(network=NETWORKS)
def test_too_much_memory(device: str, dtype: torch.dtype, network: MLP) -> None:
    """T12: wants a petabyte."""
    if holds(network, device, dtype):
        torch.empty(2**50, dtype=torch.uint8, device=device)


@law("T13", "toy", PRECISE)
@given(network=NETWORKS, number=st.integers(0, 9))
def test_broken_context(device: str, dtype: torch.dtype, network: MLP, number: int) -> None:
    """T13: reads outside of a tensor, in a kernel; what breaks is told by a later call."""
    if holds(network, device, dtype):
        values = torch.ones(3, device=device, dtype=dtype)
        if values.device.type == "cuda":
            values[torch.full((1,), 1000 + number, device=device)]
        else:
            values.erfinv()
        accelerators.synchronize(device)


@law("T14", "toy", PRECISE)
@given(network=NETWORKS)
def test_last(device: str, dtype: torch.dtype, network: MLP) -> None:
    """T14: holds."""
    holds(network, device, dtype)
