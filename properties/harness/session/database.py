"""Where failing examples are kept: the option --example-database.

A directory, a Redis server or GitHub's artifacts, so that machines share failures. A
database that fails costs one warning, never the run.
"""

import os
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Optional

import pytest
from hypothesis.configuration import storage_directory
from hypothesis.database import (
    DirectoryBasedExampleDatabase,
    ExampleDatabase,
    GitHubArtifactDatabase,
    MultiplexedDatabase,
    ReadOnlyDatabase,
)

REDIS = ("redis://", "rediss://", "unix://")
GITHUB = "github://"
CONNECT = 2.0  # seconds to wait for a server
ANSWER = 5.0
KEPT = timedelta(days=30)


class Forgiving(ExampleDatabase):
    """A database whose first error is its last: ``problem`` keeps it, and from then on it is empty."""

    def __init__(self, database: ExampleDatabase, name: str) -> None:
        super().__init__()
        self.database = database
        self.name = name
        self.problem = ""

    def __repr__(self) -> str:
        return f"Forgiving({self.database!r})"

    def _try(self, action: Callable[[], Any], otherwise: Any = None) -> Any:
        if self.problem:
            return otherwise
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                return action()
        except Exception as problem:
            self.problem = (
                f"{type(problem).__name__}: {str(problem).splitlines()[0] if str(problem) else ''}"
            )
            return otherwise

    def fetch(self, key: bytes) -> Iterable[bytes]:
        """What is kept under a key; nothing where the database failed."""
        found: List[bytes] = self._try(lambda: list(self.database.fetch(key)), [])
        return found

    def save(self, key: bytes, value: bytes) -> None:
        """Keep a value."""
        self._try(lambda: self.database.save(key, value))

    def delete(self, key: bytes, value: bytes) -> None:
        """Forget a value."""
        self._try(lambda: self.database.delete(key, value))

    def move(self, src: bytes, dest: bytes, value: bytes) -> None:
        """Keep a value under another key."""
        self._try(lambda: self.database.move(src, dest, value))


def _redis(where: str) -> ExampleDatabase:
    try:
        import redis
        from hypothesis.extra.redis import RedisExampleDatabase
    except ImportError:
        raise pytest.UsageError(
            f"--example-database {where}: needs the redis library: "
            "python -m pip install redis (or frostproof[redis])"
        ) from None
    try:
        server = redis.Redis.from_url(where, socket_connect_timeout=CONNECT, socket_timeout=ANSWER)
    except ValueError as problem:
        raise pytest.UsageError(f"--example-database {where}: {problem}") from None
    return RedisExampleDatabase(server, expire_after=KEPT, key_prefix=b"frostproof:")


def _github(where: str) -> ExampleDatabase:
    parts = where[len(GITHUB) :].strip("/").split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise pytest.UsageError(
            f"--example-database {where}: give github://OWNER/REPO, or github://OWNER/REPO/ARTIFACT"
        )
    named: Dict[str, Any] = {"artifact_name": parts[2]} if len(parts) == 3 else {}
    return ReadOnlyDatabase(GitHubArtifactDatabase(parts[0], parts[1], **named))


def local(path: Optional[Path] = None) -> Forgiving:
    """The database in a directory (default: Hypothesis's own), usable or not."""
    folder = path or _home()
    return Forgiving(DirectoryBasedExampleDatabase(folder), str(folder))


def _home() -> Path:
    """Hypothesis's own folder of examples."""
    folder: Any = storage_directory("examples", intent_to_write=False)
    return Path(getattr(folder, "path", folder))  # a plain path in older versions of Hypothesis


def _writable(folder: Path) -> bool:
    """Whether a folder can be used, or made."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.R_OK | os.W_OK | os.X_OK)


def _ask(database: Forgiving) -> None:
    """Try a shared database once, so that a missing one is known from the start."""
    database.fetch(b"frostproof")


class Examples:
    """The run's database, and what is wrong with it."""

    def __init__(self) -> None:
        self.database: ExampleDatabase = local()  # Hypothesis has none where CI is set
        self.shared: Optional[Forgiving] = None
        self.warning = ""

    @property
    def lost(self) -> str:
        """What happened to a shared database during the run, or nothing."""
        if self.shared is None or not self.shared.problem or self.warning:
            return ""
        return warning_of(self.shared.name, self.shared.problem)


def warning_of(name: str, problem: str) -> str:
    """The one warning."""
    return f"--example-database {name}: cannot be used, the run goes on without it ({problem})"


def choose(where: Optional[str], here: Path, known: Optional[str]) -> Examples:
    """The database that ``--example-database`` names. Raises UsageError for nonsense.

    here: what a relative directory is relative to; known: in an xdist worker, the warning
    of the controller ("" where all is well), so that it is asked and told once.
    """
    examples = Examples()
    if not where:
        return examples
    if where.startswith(REDIS):
        shared = Forgiving(_redis(where), where.rpartition("@")[2])
    elif where.startswith(GITHUB):
        shared = Forgiving(_github(where), where)
        if not os.environ.get("GITHUB_TOKEN"):
            shared.problem = "GITHUB_TOKEN is not set"
    elif "://" in where:
        raise pytest.UsageError(
            f"--example-database {where}: give a directory, redis://HOST:PORT/0 or github://OWNER/REPO"
        )
    else:
        folder = here / where
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not _writable(folder):
                raise PermissionError(13, "not writable")
            examples.database = local(folder)
        except OSError as problem:
            examples.warning = warning_of(where, problem.strerror or str(problem))
        return examples
    if known is None:
        _ask(shared)
    elif known:
        shared.problem = known
    if shared.problem:
        examples.warning = known or warning_of(shared.name, shared.problem)
    examples.shared = shared
    examples.database = MultiplexedDatabase(local(), shared)
    return examples
