"""One block of drawn bytes, read as many small choices.

A draw costs Hypothesis about 20 us whatever its size, so a description takes all of
its choices from one block. Each byte shrinks on its own, towards zero: the simplest
choice. Every reader takes as many bytes whatever it reads, so that a change in one
choice leaves the others as they were.
"""

from functools import cache
from typing import Sequence, TypeVar

from hypothesis import strategies as st

Choice = TypeVar("Choice")


class Digits:
    """Reads a block from the front."""

    def __init__(self, block: bytes) -> None:
        self._block = block
        self._place = 0

    def below(self, count: int) -> int:
        """A whole number from 0 to ``count - 1`` (at most 64), from one byte."""
        self._place += 1
        return self._block[self._place - 1] % count

    def bits(self, size: int) -> int:
        """A whole number of ``size`` bytes."""
        self._place += size
        return int.from_bytes(self._block[self._place - size : self._place], "big")

    def one_of(self, choices: Sequence[Choice]) -> Choice:
        """One of at most 64 choices, the first the simplest, from one byte."""
        return choices[self.below(len(choices))]

    def skip(self, size: int) -> None:
        """Leave ``size`` bytes unread."""
        self._place += size


@cache
def blocks(size: int) -> st.SearchStrategy[bytes]:
    """Blocks of ``size`` bytes; shrinks towards zeros."""
    return st.binary(min_size=size, max_size=size)
