"""Laws that meet a fault of the machine in their second example or so; run by test_machine.py."""

import ctypes
import os
import signal
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from frostproof.properties.harness.core.checks import check
from frostproof.properties.harness.core.law import EXACT, law
from frostproof.strategies import MLP, mlps

NETWORKS = mlps(max_depth=2)


def deep(network: MLP) -> bool:
    """What the faults wait for."""
    check(True, "counted")
    return len(network.layers) > 1


@law("T7", "toy", EXACT)
@given(network=NETWORKS)
def test_fine(device: str, dtype: torch.dtype, network: MLP) -> None:
    """T7: holds."""
    check(True, "counted")


@law("T1", "toy", EXACT)
@given(network=NETWORKS, data=st.data())
def test_killed(device: str, dtype: torch.dtype, network: MLP, data: st.DataObject) -> None:
    """T1: is killed from outside."""
    if deep(network) and data.draw(st.integers(0, 9)) > 3:
        os.kill(os.getpid(), signal.SIGKILL)


@law("T2", "toy", EXACT)
@given(network=NETWORKS)
def test_segfault(device: str, dtype: torch.dtype, network: MLP) -> None:
    """T2: reads where nothing is."""
    if deep(network):
        ctypes.string_at(0)


@law("T3", "toy", EXACT)
@given(network=NETWORKS)
def test_out_of_memory(device: str, dtype: torch.dtype, network: MLP) -> None:
    """T3: wants more than the GPU has."""
    if deep(network):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")


@law("T5", "toy", EXACT)
@given(network=NETWORKS)
def test_hanging(device: str, dtype: torch.dtype, network: MLP) -> None:
    """T5: waits for ever."""
    if deep(network):
        time.sleep(1000)


@law("T6", "toy", EXACT)
@given(network=NETWORKS)
def test_hanging_deaf(device: str, dtype: torch.dtype, network: MLP) -> None:
    """T6: waits for ever, where no signal comes through."""
    if deep(network):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        time.sleep(1000)


@law("T4", "toy", EXACT)
@given(network=NETWORKS)
def test_poisoned(device: str, dtype: torch.dtype, network: MLP) -> None:
    """T4: asserts on the device."""
    if deep(network):
        raise RuntimeError("CUDA error: device-side assert triggered")


@law("T10", "toy", EXACT)
@given(network=NETWORKS)
def test_slow(device: str, dtype: torch.dtype, network: MLP) -> None:
    """T10: holds, slowly."""
    time.sleep(0.25)
    check(True, "counted")


@law("T8", "toy", EXACT)
@given(network=NETWORKS)
def test_broken(device: str, dtype: torch.dtype, network: MLP) -> None:
    """T8: does not hold for deep nets."""
    check(not deep(network), "it is deep")


@law("T9", "toy", EXACT)
@given(number=st.integers(0, 2**60))
def test_rarely_broken(device: str, dtype: torch.dtype, number: int) -> None:
    """T9: does not hold for some numbers."""
    check(number % 100 != 17 or number < 2**40, "it is one of those")


@law("T11", "toy", EXACT)
@given(seed=st.integers(0, 2**30))
def test_seeds(device: str, dtype: torch.dtype, seed: int) -> None:
    """T11: writes down what it drew."""
    check(True, "counted")
    path = os.environ.get("TOY_DRAWN")
    if path:
        worker = os.environ.get("PYTEST_CURRENT_TEST", "").split(" ")[0]
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{worker} {seed}\n")


@pytest.mark.parametrize("number", range(2))
@law("T12", "toy", EXACT)
def test_whole(device: str, dtype: torch.dtype, number: int) -> None:
    """T12: draws nothing, so that it is never split."""
    check(True, "counted")
