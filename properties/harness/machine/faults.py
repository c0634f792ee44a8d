"""Errors of the machine, told from a broken law: GPU memory that ran out, a poisoned context.

They are no examples to shrink: after a device-side assert every call fails. They pass
through Hypothesis, and the process that met them is replaced where there is another.
"""

import gc
from typing import Any, Callable, Optional

import torch

OUT_OF_MEMORY = "the GPU ran out of memory"
POISONED = "the CUDA context is broken: every later call in this process would fail"
EXIT_CODE = 70  # of a worker that leaves because of a fault


class MachineFault(BaseException):
    """Not an Exception, so that Hypothesis neither catches nor shrinks it."""

    def __init__(self, what: str, detail: str) -> None:
        super().__init__(f"{what} ({detail})" if detail else what)
        self.what = what


def fault_of(problem: BaseException, synchronize: Callable[[], Any]) -> Optional[MachineFault]:
    """The fault that an error shows, or None for an error of the law.

    An error of CUDA is a poisoned context where ``synchronize()`` fails too.
    """
    text = str(problem)
    first = text.splitlines()[0] if text else type(problem).__name__
    kind = type(problem).__name__
    if (
        kind == "OutOfMemoryError"
        or "CUDA out of memory" in text
        or "CUDA error: out of memory" in text
    ):
        return MachineFault(OUT_OF_MEMORY, first)
    if isinstance(problem, RuntimeError) and ("CUDA error" in text or kind == "AcceleratorError"):
        try:
            synchronize()
        except Exception:
            return MachineFault(POISONED, first)
    return None


def raise_fault(problem: BaseException) -> None:
    """Raise the fault that a law's error shows; return where it is the law's own."""
    fault = fault_of(problem, torch.cuda.synchronize)
    if fault is not None:
        raise fault from problem


def finish(device: str) -> None:
    """Wait for a law's last kernels, so that their errors are the law's and not the next one's."""
    if torch.device(device).type == "cuda":
        try:
            torch.cuda.synchronize()
        except RuntimeError as problem:
            raise_fault(problem)
            raise


def free_memory() -> None:
    """Give cached GPU memory back."""
    gc.collect()
    torch.cuda.empty_cache()
