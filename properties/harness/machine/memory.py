"""Keeps a long run's memory flat: what torch caches for ever, and what a law has freed."""

import ctypes
import os
from typing import Any

# Kernels that oneDNN has compiled, one for each shape of a matrix in bfloat16: random nets
# have a thousand shapes, at half a megabyte each. One run meets fewer than this.
ONEDNN = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")


def limit_caches() -> None:
    """Before torch is imported: oneDNN reads its limit once. The user's own value stays."""
    os.environ.setdefault(*ONEDNN)


def _trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):  # only glibc has it
        return None


TRIM = _trim()


def give_back() -> None:
    """Return what is free to the system: small nets leave holes between what lives on."""
    if TRIM is not None:
        TRIM(0)
