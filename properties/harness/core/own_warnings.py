"""Warnings while a law runs: errors, unless torch warns of what torch itself does.

A release deprecates what its own code still calls (2.14: torch.jit.script, inside forward
mode). That is nothing that a law does, and no law breaks by it. What a law calls itself is
judged: a warning of it is an error. So the filters hold while a law runs and no longer:
what other plugins of pytest warn of, in their own hooks, is pytest's to show.
"""

import os
import sys
import warnings
from contextlib import contextmanager
from types import FrameType
from typing import Any, Iterator, Optional, Sequence, Tuple

import torch
from _pytest.config import parse_warning_filter

ABOUT_CODE = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)
# torch and the packages that it is shipped with
PARENT = os.path.dirname(os.path.dirname(os.path.abspath(torch.__file__)))
TORCH = tuple(os.path.join(PARENT, name) + os.sep for name in ("torch", "functorch", "torchgen"))
# What such a warning may pass on its way out of the function that is deprecated.
BETWEEN = ("typing_extensions", "functools", "contextlib", "warnings", __name__)
# Like pytest's filterwarnings: (action, message, category); the last that matches decides.
FILTERS: Tuple[Tuple[str, str, Any], ...] = (
    ("error", "", Warning),
    # complex32 and bcomplex32 are verified like any other dtype, experimental or not
    ("ignore", r"\w+ support is experimental", UserWarning),
    # torch < 2.4 without numpy says so once; nothing here needs numpy
    ("ignore", "Failed to initialize NumPy", UserWarning),
    # 2.8: torch's own LBFGS makes a number of its loss, and warns of that
    ("ignore", "Converting a tensor with requires_grad=True to a scalar", UserWarning),
    # sparse gradients are made right here, from sorted indices
    ("ignore", "Sparse invariant checks are implicitly disabled", UserWarning),
)


def _is_torchs(frame: Optional[FrameType]) -> bool:
    return frame is not None and os.path.abspath(frame.f_code.co_filename).startswith(TORCH)


def _outwards(frame: Optional[FrameType]) -> Optional[FrameType]:
    """The frame, or the next one out of it that is no helper of the standard library's."""
    while frame is not None and frame.f_globals.get("__name__") in BETWEEN:
        frame = frame.f_back
    return frame


def _blamed(frame: Optional[FrameType], stacklevel: int) -> Optional[FrameType]:
    for _ in range(stacklevel - 1):
        frame = frame.f_back if frame is not None else None
    return frame


def of_torchs_own(frame: Optional[FrameType], stacklevel: int) -> bool:
    """Whether a warning from ``frame`` is torch's, of a call that torch's own code made."""
    warns = _outwards(frame)
    if not _is_torchs(warns) and not _is_torchs(_blamed(frame, stacklevel)):
        return False
    if not _is_torchs(warns):  # a decorator of another package: torch is who called
        return True
    assert warns is not None
    return _is_torchs(_outwards(warns.f_back)) and _is_torchs(_outwards(_blamed(frame, stacklevel)))


def _outside(frame: Optional[FrameType]) -> int:
    """The stacklevel of the first frame out of ``frame`` that is not torch's."""
    level = 1
    while frame is not None and (_is_torchs(frame) or frame.f_globals.get("__name__") in BETWEEN):
        frame, level = frame.f_back, level + 1
    return level


@contextmanager
def judged(asked: Sequence[str] = ()) -> Iterator[None]:
    """Warnings are errors inside, but for those of torch about its own calls.

    asked: filters of the command line, as ``-W`` takes them, which come before these.
    """
    warn = warnings.warn

    def judge(
        message: Any, category: Any = None, stacklevel: int = 1, *rest: Any, **named: Any
    ) -> None:
        kind = type(message) if isinstance(message, Warning) else category or UserWarning
        if isinstance(kind, type) and issubclass(kind, ABOUT_CODE):
            frame = sys._getframe(1)
            if of_torchs_own(frame, stacklevel):
                return
            if _is_torchs(frame):  # to the law's account, past the filter below
                stacklevel = max(stacklevel, _outside(frame))
        warn(message, category, stacklevel + 1, *rest, **named)

    # what torch says once in a process would break one example and not the same one again
    always = getattr(torch, "set_warn_always", None)
    if always is not None:
        always(True)
    with warnings.catch_warnings():
        for action, text, category in FILTERS:
            warnings.filterwarnings(action, text, category)  # type: ignore[arg-type]
        for category in ABOUT_CODE:  # from C++, to the account of torch's line that called it
            warnings.filterwarnings("ignore", "", category, r"(torch|functorch|torchgen)(\.|$)")
        for text in asked:
            warnings.filterwarnings(*parse_warning_filter(text, escape=True))
        warnings.warn = judge  # type: ignore[assignment]
        try:
            yield
        finally:
            warnings.warn = warn
