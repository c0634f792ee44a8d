"""What the harness asks of an accelerator, whichever it is: CUDA, MPS, XPU, a registered one.

The device's own module, ``torch.<kind>``, is asked first, and ``torch.accelerator`` where
that lacks a function. What neither offers is left out: None, or nothing happens.
"""

from contextlib import contextmanager
from functools import cache
from typing import Any, Callable, Iterator, List, Optional, Tuple

import torch

BUILT_IN = ("cuda", "mps", "xpu")
# torch.accelerator's names, where they differ from those of the devices' modules
GENERAL = {
    "set_device": "set_device_index",
    "current_device": "current_device_index",
    "mem_get_info": "get_memory_info",
}


def _general(kind: str) -> Any:
    """``torch.accelerator``, where this kind is its accelerator."""
    accelerator = getattr(torch, "accelerator", None)
    current = accelerator.current_accelerator() if accelerator is not None else None
    return accelerator if current is not None and current.type == kind else None


def module_of(kind: str) -> Any:
    """``torch.<kind>``, or None."""
    return getattr(torch, kind, None)


def function_of(kind: str, name: str) -> Optional[Callable[..., Any]]:
    """A function of an accelerator's, by the name that CUDA has for it; None where there is none."""
    found = getattr(module_of(kind), name, None)
    return found or getattr(_general(kind), GENERAL.get(name, name), None)


def registered() -> Optional[str]:
    """The name of a device that an extension has registered (torch calls it PrivateUse1)."""
    ask = getattr(torch._C, "_get_privateuse1_backend_name", None)  # torch 2.1
    name = None if ask is None else str(ask())
    return None if name == "privateuseone" else name


def available() -> List[str]:
    """Every kind that this torch can use now, CUDA first; none is initialised for it."""
    found = []
    for kind in (*BUILT_IN, registered()):
        module = getattr(torch.backends, kind, None) if kind == "mps" else module_of(kind or "")
        if kind and module is not None and module.is_available():
            found.append(kind)
    accelerator = getattr(torch, "accelerator", None)
    if accelerator is not None and accelerator.is_available():
        current = accelerator.current_accelerator()
        if current is not None and current.type not in found:
            found.append(current.type)
    return found


@cache
def _usable() -> Tuple[str, ...]:
    return tuple(available())


def count(kind: str) -> int:
    """How many devices of a kind this process can see."""
    ask = function_of(kind, "device_count") if kind != "cpu" else None
    return int(ask()) if ask is not None else 1


def is_accelerator(device: str) -> bool:
    """Whether a device has memory and kernels of its own."""
    return torch.device(device).type not in ("cpu", "meta")


def select(kind: str, index: int) -> None:
    """Make one of a kind the current one, which the bare name then means."""
    choose = function_of(kind, "set_device")
    if choose is not None:
        choose(index)


def cap(kind: str, index: int, fraction: float) -> None:
    """Let this process allocate only a fraction of a device's memory, where that can be said."""
    limit = getattr(module_of(kind), "set_per_process_memory_fraction", None)
    if limit is not None:
        limit(fraction, index)


def memory(kind: str, index: int) -> Optional[Tuple[int, int]]:
    """(free, total) bytes of a device; None where it does not say."""
    ask = function_of(kind, "mem_get_info")
    if ask is None:
        return None
    free, total = ask(index)
    return int(free), int(total)


def synchronize(device: str) -> None:
    """Wait for a device's kernels. Raises RuntimeError where one has failed."""
    kind, index = torch.device(device).type, torch.device(device).index
    wait = function_of(kind, "synchronize")
    if wait is not None:
        wait() if index is None else wait(index)


def give_back(device: str) -> None:
    """Return the memory that torch keeps of a device for later."""
    empty = function_of(torch.device(device).type, "empty_cache")
    if empty is not None:
        empty()


def seed(number: int) -> None:
    """Seed torch's global generators: the CPU's, and those of every accelerator in use.

    ``torch.manual_seed`` does too, and formats the Python stack each time.
    """
    torch.default_generator.manual_seed(number)
    for kind in _usable():
        everywhere, begun = (function_of(kind, name) for name in ("manual_seed_all", "is_initialized"))
        if everywhere is not None and (begun is None or begun()):
            everywhere(number)


def check_works(device: str) -> None:
    """Compute a little and read it back. Raises RuntimeError where the device's context is broken."""
    synchronize(device)
    one = torch.ones(2, device=device)
    if (one + one).sum().item() != 4.0:
        raise RuntimeError(f"{device}: 1 + 1 + 1 + 1 is not 4")
    synchronize(device)


def current(kind: str) -> int:
    """The number of the device that the bare name of a kind means now."""
    ask = function_of(kind, "current_device")
    return int(ask()) if ask is not None else 0


def neighbour(device: str) -> Optional[str]:
    """Another device of the same kind, as "cuda:1"; None where there is none."""
    kind, index = torch.device(device).type, torch.device(device).index
    most = count(kind)
    own = current(kind) if index is None else index
    return f"{kind}:{(own + 1) % most}" if most > 1 else None


@contextmanager
def selected(device: Optional[str]) -> Iterator[None]:
    """Make a device the current one of its kind for a while; None: nothing changes."""
    if device is None:
        yield
        return
    kind, index = torch.device(device).type, torch.device(device).index
    was = current(kind)
    select(kind, was if index is None else index)
    try:
        yield
    finally:
        select(kind, was)
