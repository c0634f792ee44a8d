"""One block of drawn bytes, read as many small choices.

A draw costs Hypothesis about 20 us whatever its size, so a description takes all of
its choices from one block, and several descriptions of one example share it: where an
example draws two blocks, Hypothesis also spends half of its time on swapping them.
Each byte shrinks on its own, towards zero: the simplest choice. Every reader takes as
many bytes whatever it reads, so that a change in one choice leaves the others as they
were.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Callable, Generic, Optional, Sequence, TypeVar
from weakref import WeakKeyDictionary

from hypothesis import strategies as st

Choice = TypeVar("Choice")
Value = TypeVar("Value")
SHARED = 80  # bytes: most examples need no more


class Digits:
    """Reads a block from the front."""

    def __init__(self, block: bytes) -> None:
        self._block = block
        self._place = 0

    @property
    def left(self) -> int:
        """How many bytes are unread."""
        return len(self._block) - self._place

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


@dataclass(frozen=True)
class Reader(Generic[Value]):
    """How a strategy makes its values: ``read`` takes ``size`` bytes and gives one value."""

    size: int
    read: Callable[[Digits], Value]


_READERS: "WeakKeyDictionary[Any, Reader[Any]]" = WeakKeyDictionary()


def read_as(size: int, read: Callable[[Digits], Value]) -> st.SearchStrategy[Value]:
    """The strategy of what ``read`` makes of ``size`` bytes; shrinks towards what zeros give."""
    strategy = blocks(size).map(lambda block: read(Digits(block)))
    _READERS[strategy] = Reader(size, read)
    return strategy


def reader_of(strategy: st.SearchStrategy[Value]) -> Optional[Reader[Value]]:
    """The reader behind a strategy made by ``read_as``; None for any other strategy."""
    return _READERS.get(strategy)
