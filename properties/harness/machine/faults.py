"""Errors of the machine, told from a broken law: a device's memory that ran out, a broken context.

They are no examples to shrink: after a device-side assert every call fails. They pass
through Hypothesis, and the process that met them is replaced where there is another.
"""

import gc
from typing import Any, Callable, Optional

from frostproof.properties.harness.machine import accelerators

# what a device did or is; its name stands before it
OUT_OF_MEMORY = "ran out of memory"
POISONED = "has a broken context: every later call in this process would fail"
EXIT_CODE = 70  # of a worker that leaves because of a fault


class Running:
    """The device of the law that is running now."""

    device = "cpu"


class MachineFault(BaseException):
    """Not an Exception, so that Hypothesis neither catches nor shrinks it."""

    def __init__(self, device: str, what: str, detail: str) -> None:
        super().__init__(f"{device} {what} ({detail})" if detail else f"{device} {what}")
        self.what = what


def fault_of(
    problem: BaseException, device: str, check: Callable[[str], Any] = accelerators.check_works
) -> Optional[MachineFault]:
    """The fault that an error of a law on a device shows, or None for an error of the law.

    An error is a broken context where ``check(device)`` fails too.
    """
    text = str(problem)
    first = text.splitlines()[0] if text else type(problem).__name__
    kind = type(problem).__name__
    if not isinstance(problem, RuntimeError):
        return None
    if not accelerators.is_accelerator(device):
        if "CUDA" not in text and kind not in ("AcceleratorError", "OutOfMemoryError"):
            return None
        device = "cuda"
    if kind == "OutOfMemoryError" or "out of memory" in first.lower():
        return MachineFault(device, OUT_OF_MEMORY, first)
    try:
        check(device)
    except Exception:
        return MachineFault(device, POISONED, first)
    return None


def raise_fault(problem: BaseException) -> None:
    """Raise the fault that a law's error shows; return where it is the law's own."""
    fault = fault_of(problem, Running.device)
    if fault is not None:
        raise fault from problem


def finish(device: str) -> None:
    """Wait for a law's last kernels, so that their errors are the law's and not the next one's."""
    if accelerators.is_accelerator(device):
        try:
            accelerators.synchronize(device)
        except RuntimeError as problem:
            raise_fault(problem)
            raise


def free_memory(device: str) -> None:
    """Give back the memory of a device that torch keeps for later."""
    gc.collect()
    if accelerators.is_accelerator(device):
        accelerators.give_back(device)
