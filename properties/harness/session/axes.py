"""The axes that each law runs over: devices and dtypes, as named in the test's id."""

from typing import List, Mapping, Optional, Sequence, Set, Tuple

import pytest
import torch

from frostproof.properties.harness.core import law
from frostproof.properties.harness.machine import accelerators
from frostproof.strategies import all_dtypes

TRAINABLE = ("float32", "float64", "bfloat16", "float16")
LEFT_OUT = "this law has no dtype among --dtype"  # why a test is skipped
COMPLEX = ("complex64", "complex128")


def available_devices() -> List[str]:
    """ "cpu" and every accelerator type that this torch can use now; never initialises one."""
    return ["cpu", *accelerators.available()]


def canonical(device: torch.device) -> str:
    """The one name of a device: without a number where the bare name can mean nothing else.

    "mirror" and "mirror:0" stay apart where there are two: the first is any worker's own.
    """
    if device.index is None or accelerators.count(device.type) == 1:
        return device.type
    return f"{device.type}:{device.index}"


def chosen_devices(asked: Sequence[str]) -> List[str]:
    """The devices that ``--device`` asks for, checked; raises UsageError for a missing one."""
    available = available_devices()
    chosen: List[str] = []
    for name in asked or ("auto",):
        if name == "auto":
            chosen += available
            continue
        try:
            device = torch.device(name)
        except (RuntimeError, ValueError) as problem:
            raise pytest.UsageError(
                f"--device {name}: not a device that torch knows; use auto, or one of "
                f"{', '.join(available)}"
            ) from problem
        if device.type not in available:
            raise pytest.UsageError(
                f"--device {name}: this torch ({torch.__version__}) has no {device.type} device "
                f"here; available: {', '.join(available)}"
            )
        count = accelerators.count(device.type)
        if device.index is not None and device.index >= count:
            raise pytest.UsageError(
                f"--device {name}: there is no {device.type} device number {device.index}; "
                f"this process sees {count}"
            )
        chosen.append(canonical(device))
    return list(dict.fromkeys(chosen))


def chosen_dtypes(asked: Sequence[str]) -> List[str]:
    """The dtypes that ``--dtype`` asks for, checked; raises UsageError for an unknown one."""
    known = all_dtypes()
    for name in asked:
        if name not in known:
            raise pytest.UsageError(
                f"--dtype {name}: this torch ({torch.__version__}) has no such dtype; "
                f"known: {', '.join(known)}"
            )
    return list(dict.fromkeys(asked))


def dtypes_of(group: str, device: str, asked: Sequence[str], thorough: bool) -> Tuple[str, ...]:
    """The dtype names that a law of a group runs with on a device; ``asked`` narrows them.

    float16 is trained where it is asked for, or in thorough runs.
    """
    if group == law.ANY:
        names: Tuple[str, ...] = all_dtypes()
    elif group in (law.FLOATING, law.DIFFERENTIABLE):
        names = TRAINABLE if thorough or "float16" in asked else TRAINABLE[:3]
        if group == law.DIFFERENTIABLE:
            names += COMPLEX
    elif group == law.PRECISE:
        names = TRAINABLE[:2]
    elif group == law.COMPLEX:
        names = COMPLEX
    else:
        names = (group,)
    return tuple(name for name in names if not asked or name in asked)


_capped: Set[str] = set()


def settle(name: str, worker: int, seats: Mapping[str, Tuple[int, Optional[float]]]) -> None:
    """Make the worker's own device of a type the current one, so that "cuda" means it.

    worker: its number; seats: the number of its device, and the fraction of that one's memory
    that this process may allocate, by type. Where it has none, devices are dealt in turn.
    """
    device = torch.device(name)
    if not accelerators.is_accelerator(name):
        return
    index, fraction = seats.get(device.type, (worker % accelerators.count(device.type), None))
    if device.index is not None:
        index = device.index
    accelerators.select(device.type, index)
    own = f"{device.type}:{index}"
    if fraction is not None and own not in _capped:
        _capped.add(own)
        accelerators.cap(device.type, index, fraction)
