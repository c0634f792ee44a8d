"""Shows the example of a process that died: draws it again in another one, and does not run it.

``describe`` starts pytest on the one law; there, ``prepare`` lets Hypothesis replay the
noted choices. They are also put into the example database, so that the next run tries
them first.
"""

import functools
import json
import marshal
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterable, List

from hypothesis import Phase, settings
from hypothesis.database import ExampleDatabase, choices_to_bytes

from frostproof.properties.harness.core.shards import DIGEST, USED
from frostproof.properties.harness.core.shards import whole as whole_id
from frostproof.properties.harness.machine.running import Note, Noted

ASKED = "FROSTPROOF_DESCRIBE"
LIMIT = 60.0
HIDDEN = ("device", "dtype", "data")  # said elsewhere


class _Described(BaseException):
    """All that was noted has been drawn."""


class _Replayed(ExampleDatabase):
    """Holds one example under every key, and keeps the key of the law."""

    def __init__(self, value: bytes) -> None:
        super().__init__()
        self.value = value
        self.key = b""

    def fetch(self, key: bytes) -> Iterable[bytes]:
        first = not self.key
        self.key = self.key or key
        return [self.value] if first else []

    def save(self, key: bytes, value: bytes) -> None:
        pass

    def delete(self, key: bytes, value: bytes) -> None:
        pass


def asked() -> bool:
    """Whether this process is to describe an example."""
    return ASKED in os.environ


def prepare(item: Any) -> None:
    """Let the law draw the noted example, write it to the file asked for, and stop there."""
    folder = Path(os.environ[ASKED])
    choices = marshal.loads((folder / "choices").read_bytes())
    handle, test = item.obj.hypothesis, item.obj.hypothesis.inner_test
    whole: settings = getattr(item.obj, USED)
    database = _Replayed(choices_to_bytes(choices))
    replay = settings(whole, database=database, derandomize=False, phases=[Phase.reuse])
    setattr(item.obj, USED, replay)
    lines: List[str] = []

    def write(line: str) -> None:
        lines.append(line)
        (folder / "example").write_text(json.dumps(lines), encoding="utf-8")
        if len(Note.context.value.data.choices) >= len(choices):
            if whole.database is not None and database.key:
                whole.database.save(database.key, database.value)
            raise _Described()

    @functools.wraps(test)
    def example(*arguments: Any, **named: Any) -> None:
        data = named.get("data")
        shown = [f"{name}={value!r}" for name, value in named.items() if name not in HIDDEN]
        if data is not None:
            named["data"] = _Drawing(data, write)
        if shown:
            write("\n".join(shown))
        test(*arguments, **named)

    setattr(example, DIGEST, whole_id(item.nodeid).encode())
    handle.inner_test = example


class _Drawing:
    """Stands in for ``st.DataObject``."""

    def __init__(self, data: Any, write: Any) -> None:
        self._data = data
        self._write = write
        self._number = 0

    def draw(self, strategy: Any, label: Any = None) -> Any:
        value = self._data.draw(strategy, label)
        self._number += 1
        self._write(f"draw {self._number}: {value!r}")
        return value


def describe(noted: Noted, folder: Path, root: Path) -> str:
    """The noted example as text; what is known of it where it cannot be drawn again."""
    known = f"number {noted.number} of this seed" if noted.number else "none had begun"
    if not noted.choices:
        return known
    place = folder / "described"
    try:
        place.mkdir(exist_ok=True)
        (place / "choices").write_bytes(marshal.dumps(noted.choices))
        (place / "example").write_text("[]", encoding="utf-8")
        words = shlex.split(noted.law["rerun"])[1:]
        # with a seed Hypothesis leaves its database alone
        words = [word for word in words if not word.startswith("--hypothesis-seed")]
        command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", *words]
        environment = {key: value for key, value in os.environ.items() if key != "GITHUB_STEP_SUMMARY"}
        subprocess.run(
            command,
            cwd=str(root),
            env={**environment, ASKED: str(place)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=LIMIT,
            check=False,
        )
        lines: List[str] = json.loads((place / "example").read_text(encoding="utf-8"))
        return "\n".join(lines) or known
    except (OSError, ValueError, KeyError, subprocess.SubprocessError):
        return known
