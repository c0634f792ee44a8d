"""The example at hand, noted in a file before it runs: a process that dies cannot tell.

An example costs one ``pwrite`` into the page cache. The file holds a JSON of the law, and
behind it the number of the example with the choices that Hypothesis made for it.
"""

import json
import marshal
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from hypothesis import control

LAW = 65_536  # bytes for the law; the example stands behind them
MOST = 1_000_000  # bytes of choices


class Note:
    """This process's note; without a file (``descriptor`` -1) only the number is kept."""

    path: Optional[Path] = None
    descriptor = -1
    number = 0
    context: Any = getattr(control, "_current_build_context", None)


def open_note(path: Path) -> None:
    """Note examples in a file from now on; nothing where it cannot be written."""
    try:
        Note.descriptor = os.open(str(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        Note.path = path
    except OSError:
        Note.descriptor = -1


def close_note() -> None:
    """No law is at hand any more."""
    if Note.descriptor >= 0:
        os.close(Note.descriptor)
    Note.descriptor = -1


def _write(blob: bytes, place: int) -> None:
    try:
        os.pwrite(Note.descriptor, blob, place)
    except OSError:  # a full disk: the verdict matters, the note does not
        close_note()


def begin(law: Dict[str, Any]) -> None:
    """A law begins; ``law`` is what a report needs, as JSON."""
    Note.number = 0
    if Note.descriptor >= 0:
        text = json.dumps({**law, "started": time.time()}).encode()[: LAW - 1]
        _write(text + b"\0", 0)
        _write(marshal.dumps((0, ())), LAW)


def end() -> None:
    """The law is over."""
    if Note.descriptor >= 0:
        _write(b"\0", 0)


def example() -> None:
    """The next example is about to run."""
    Note.number += 1
    drawn()


def drawn() -> None:
    """The example at hand has drawn more."""
    if Note.descriptor < 0:
        return
    try:
        choices = Note.context.value.data.choices
    except AttributeError:  # a Hypothesis that keeps them elsewhere
        choices = ()
    blob = marshal.dumps((Note.number, choices))
    _write(blob if len(blob) < MOST else marshal.dumps((Note.number, ())), LAW)


@dataclass
class Noted:
    """What a note says: the law, the number of its example (0: none yet) and the choices."""

    law: Dict[str, Any] = field(default_factory=dict)
    number: int = 0
    choices: Tuple[Any, ...] = ()

    @property
    def nodeid(self) -> str:
        """Of the law; nothing where none was running."""
        return str(self.law.get("nodeid", ""))

    @property
    def properties(self) -> List[Tuple[str, str]]:
        """What the record says of the law."""
        return [(str(name), str(value)) for name, value in self.law.get("properties", ())]


def read(path: Path) -> Noted:
    """The note in a file; an empty one where there is none or it cannot be understood."""
    try:
        blob = path.read_bytes()
        law = json.loads(blob[:LAW].partition(b"\0")[0] or b"{}")
        number, choices = marshal.loads(blob[LAW:]) if len(blob) > LAW else (0, ())
        return Noted(law, int(number), tuple(choices))
    except (OSError, ValueError, EOFError, TypeError):
        return Noted()
