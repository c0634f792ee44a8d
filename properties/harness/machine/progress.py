"""Lines that show that a long run lives: what is done, and each running law's examples.

A thread writes them to a copy of stdout: one every half minute, whole, on a line of its
own, so that neither xdist's dots nor a CI's log are spoiled.
"""

import os
import threading
import time
from pathlib import Path
from typing import Any, Callable, List, Optional

import pytest

from frostproof.properties.harness.core.options import value
from frostproof.properties.harness.machine import running

EVERY = 30.0  # seconds, in the nightly profile
MOST = 6  # laws told in a line


def every(config: pytest.Config, nightly: bool) -> float:
    """Seconds between two lines; 0 for none. Raises UsageError for a negative number."""
    asked = value(config, "progress")
    if asked is None:
        return EVERY if nightly else 0.0
    if not 0 <= asked < float("inf"):
        raise pytest.UsageError(f"--progress {asked:g}: give seconds, or 0 for none")
    return float(asked)


def clock(seconds: float) -> str:
    """As 1:02:03."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def law_line(noted: running.Noted, now: float) -> str:
    """One running law: its examples done and remaining, or its seconds where it does not draw."""
    name = noted.nodeid.rpartition("::")[2]
    wanted = int(noted.law.get("examples", 0))
    if not wanted or not noted.number:
        return f"{name} for {clock(now - float(noted.law.get('started', now)))}"
    if noted.number > wanted:
        return f"{name} {noted.number} done, more than {wanted}: shrinking, or many rejected"
    return f"{name} {noted.number} done, {wanted - noted.number} to go"


def line(notes: List[running.Noted], done: int, total: int, since: float, now: float) -> str:
    """The whole line."""
    laws = sorted(
        (note for note in notes if note.nodeid), key=lambda note: note.law.get("started", now)
    )
    told = [law_line(note, now) for note in laws[:MOST]]
    more = [f"and {len(laws) - MOST} more"] if len(laws) > MOST else []
    count = f"{done} of {total} tests" if total else f"{done} tests"
    return f"frostproof {clock(now - since)}: {count} done; " + ("; ".join(told + more) or "starting")


class Progress:
    """The thread."""

    def __init__(self, folder: Path, seconds: float, state: Callable[[], Any]) -> None:
        self.folder = folder
        self.seconds = seconds
        self.state = state  # () -> (tests done, tests in all)
        self.ended = threading.Event()
        self.thread: Optional[threading.Thread] = None
        self.descriptor = -1

    def start(self) -> None:
        """Begin; nothing where stdout cannot be copied."""
        try:
            self.descriptor = os.dup(1)  # pytest redirects 1 itself while a law runs
        except OSError:
            return
        self.thread = threading.Thread(target=self._run, name="frostproof-progress", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """End, and wait for the line being written."""
        self.ended.set()
        if self.thread is not None:
            self.thread.join(5)
            self.thread = None
            os.close(self.descriptor)

    def _run(self) -> None:
        since = time.time()
        while not self.ended.wait(self.seconds):
            notes = [running.read(path) for path in sorted(self.folder.glob("*.note"))]
            done, total = self.state()
            text = "\n" + line(notes, done, total, since, time.time()) + "\n"
            try:
                os.write(self.descriptor, text.encode())
            except OSError:
                return
