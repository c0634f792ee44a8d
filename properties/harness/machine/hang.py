"""A law that stands still is stopped: first by an exception, then by the end of the process.

Still means no new example and no assertion for the limit. Where the exception is not
raised, since the process hangs outside of Python, faulthandler writes the stacks and ends it.
"""

import faulthandler
import signal
import threading
import time
from contextlib import contextmanager
from typing import Any, Iterator, Optional, Tuple

from frostproof.properties.harness.core.checks import Tally
from frostproof.properties.harness.machine.running import Note

LIMIT = 600.0  # seconds by default: a hundred times what the slowest example takes
GRACE = 10.0
TICK = 15.0


class Hang(BaseException):
    """Not an Exception, so that Hypothesis does not try the example again."""


def _done() -> Tuple[int, int]:
    return Note.number, Tally.assertions


def _arm(limit: float, stacks: Any) -> None:
    grace = min(GRACE, limit)
    faulthandler.dump_traceback_later(limit + grace, exit=True, **({"file": stacks} if stacks else {}))


@contextmanager
def watched(limit: float, stacks: Optional[Any]) -> Iterator[None]:
    """Stop the body where it stands still for ``limit`` seconds (0: never).

    stacks: an open file for the stacks of a process that must be ended; None: stderr.
    """
    if limit <= 0:
        yield
        return
    tick = min(TICK, limit / 4)
    last, since = _done(), time.monotonic()

    def look(signum: int, frame: Any) -> None:
        nonlocal last, since
        now = _done()
        if now != last:
            last, since = now, time.monotonic()
            _arm(limit, stacks)
        elif time.monotonic() - since >= limit:
            raise Hang(f"no new example and no assertion for {limit:g} s")

    main = threading.current_thread() is threading.main_thread()
    alarmed = main and hasattr(signal, "setitimer")
    before: Any = None
    if alarmed:
        before = signal.signal(signal.SIGALRM, look)
        signal.setitimer(signal.ITIMER_REAL, tick, tick)
        _arm(limit, stacks)
    try:
        yield
    finally:
        if alarmed:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            faulthandler.cancel_dump_traceback_later()
