"""The axes that each law runs over: devices and dtypes, as named in the test's id."""

from typing import List, Optional, Sequence, Set, Tuple

import pytest
import torch

from frostproof.properties.harness.core import law
from frostproof.properties.harness.running.known_defects import version_tuple
from frostproof.strategies import all_dtypes

TRAINABLE = ("float32", "float64", "bfloat16", "float16")
# The first torch whose CPU kernels run every layer, activation and loss in a dtype.
CPU_TRAINS_SINCE = {"bfloat16": (2, 0), "float16": (2, 4)}
COMPLEX = ("complex64", "complex128")


def available_devices() -> List[str]:
    """ "cpu" and every accelerator type that this torch can use now; never initialises one."""
    found = ["cpu"]
    if torch.cuda.is_available():
        found.append("cuda")
    for kind in ("mps", "xpu"):
        if kind == "mps":
            backend = getattr(torch.backends, "mps", None)
        else:
            backend = getattr(torch, "xpu", None)
        if backend is not None and backend.is_available():
            found.append(kind)
    accelerator = getattr(torch, "accelerator", None)
    if accelerator is not None and accelerator.is_available():
        current = accelerator.current_accelerator()
        if current is not None and current.type not in found:
            found.append(current.type)
    return found


def device_count(kind: str) -> int:
    """How many devices of a type this process can see."""
    if kind == "cpu":
        return 1
    if kind == "cuda":
        return torch.cuda.device_count()
    module = getattr(torch, kind, None)
    count = getattr(module, "device_count", None)
    return int(count()) if count is not None else 1


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
        count = device_count(device.type)
        if device.index is not None and device.index >= count:
            raise pytest.UsageError(
                f"--device {name}: there is no {device.type} device number {device.index}; "
                f"this process sees {count}"
            )
        chosen.append(name)
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
        if device == "cpu":
            now = version_tuple(str(torch.__version__))
            names = tuple(name for name in names if CPU_TRAINS_SINCE.get(name, (0, 0)) <= now)
        if group == law.DIFFERENTIABLE:
            names += COMPLEX
    elif group == law.PRECISE:
        names = TRAINABLE[:2]
    elif group == law.COMPLEX:
        names = COMPLEX
    else:
        names = (group,)
    return tuple(name for name in names if not asked or name in asked)


_capped: Set[int] = set()


def settle(name: str, worker: int, fraction: Optional[float] = None) -> None:
    """Make the worker's own device of a type the current one, so that "cuda" means it.

    worker: the number of its GPU, or any number: they are dealt in turn; fraction: of the
    GPU's memory that this process may allocate.
    """
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count()
        index = device.index if device.index is not None else worker % count
        torch.cuda.set_device(index)
        if fraction is not None and index not in _capped:
            _capped.add(index)
            torch.cuda.set_per_process_memory_fraction(fraction, index)
