"""Blocks of a user's code under watch: what is made for ``with`` and used without it fails loudly."""

import dis
import sys
from types import FrameType
from typing import Any, List

FORGOTTEN: List[str] = []  # sentences on blocks that nobody entered; the pytest plugin empties it
# whether the plugin looks; elsewhere only Python's own "Exception ignored in" can tell
Reporting = {"by_plugin": False}


def _discarded(frame: FrameType) -> bool:
    """Whether the value of the call that a frame is in goes nowhere: a statement of its own."""
    for instruction in dis.get_instructions(frame.f_code):
        if instruction.offset > frame.f_lasti and instruction.opname != "CACHE":
            return instruction.opname == "POP_TOP"
    return False


class Block:
    """Something that watches only inside ``with``."""

    def __init__(self, name: str, depth: int = 2) -> None:
        """depth: of the user's frame above this one. Raises TypeError for a bare statement."""
        __tracebackhide__ = True
        self._name = name
        self._entered = True  # until it is whole
        if _discarded(sys._getframe(depth)):
            raise TypeError(self._sentence())

    def _ready(self) -> Any:
        """It is whole: from now on it must be entered."""
        self._entered = False
        return self

    def _sentence(self) -> str:
        return f"{self._name}(...) checks nothing without with: write  with {self._name}(...):"

    def _enter(self) -> None:
        self._entered = True

    def __enter__(self) -> Any:
        raise NotImplementedError

    def __exit__(self, kind: Any, problem: Any, trace: Any) -> None:
        raise NotImplementedError

    def __del__(self) -> None:
        if getattr(self, "_entered", True):
            return
        if Reporting["by_plugin"]:
            FORGOTTEN.append(self._sentence())
        else:
            raise TypeError(self._sentence())

    def __bool__(self) -> bool:
        raise TypeError(self._sentence())


def forgotten() -> Any:
    """The sentence on a block that was made and never entered since the last call, or None."""
    sentence = FORGOTTEN[0] if FORGOTTEN else None
    FORGOTTEN.clear()
    return sentence
