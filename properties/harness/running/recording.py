"""Keeps the example that broke a law. A passing example costs one reference for each draw."""

import functools
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, TypeVar

from hypothesis import strategies as st

from frostproof.properties.harness.machine import running
from frostproof.strategies.digits import SHARED, Digits, blocks, reader_of

Value = TypeVar("Value")


class RecordedData:
    """Stands in for ``st.DataObject``: draws from it, and keeps what came.

    All descriptions of an example are read from one block: see ``frostproof.strategies.digits``.
    """

    def __init__(self, data: st.DataObject) -> None:
        self._data = data
        self._digits = Digits(b"")
        self.drawn: List[Any] = []
        self.drawing = False

    def draw(self, strategy: Any, label: Any = None) -> Any:
        """``data.draw``, kept; ``drawing`` stays True where it raises."""
        self.drawing = True
        value = self._drawn(strategy, label)
        self.drawing = False
        self.drawn.append(value)
        running.drawn()
        return value

    def _drawn(self, strategy: Any, label: Any) -> Any:
        reader = reader_of(strategy)
        if reader is None:
            return self._data.draw(strategy, label)
        if self._digits.left < reader.size:
            self._digits = Digits(self._data.draw(blocks(max(SHARED, reader.size)), label))
        return reader.read(self._digits)


def each_of(data: Any, values: Iterable[Value]) -> Iterator[Value]:
    """Several values made of the one drawn last, one after the other; a report shows the one at hand.

    One draw for several cases: a small case costs no more than a draw.
    """
    for value in values:
        if isinstance(data, RecordedData):
            data.drawn[-1] = value
        yield value


class Recorder:
    """The arguments of the last example that raised: Hypothesis runs the minimal one last."""

    def __init__(self) -> None:
        self.failed: Optional[Dict[str, Any]] = None
        self.current: Optional[Dict[str, Any]] = None

    @staticmethod
    def watched(named: Dict[str, Any]) -> Dict[str, Any]:
        """The arguments to call a law with."""
        data = named.get("data")
        return {**named, "data": RecordedData(data)} if isinstance(data, st.DataObject) else named


MACHINE: Dict[str, Any] = {}  # "last": the state machine that ran last


def recorded(rule: Callable[..., None]) -> Callable[..., None]:
    """Put each call of a state machine's rule, with its arguments, in the machine's ``trail``."""

    @functools.wraps(rule)
    def event(self: Any, **arguments: Any) -> None:
        __tracebackhide__ = True
        self.trail.append((rule.__name__, arguments))
        MACHINE["last"] = self
        rule(self, **arguments)

    return event
