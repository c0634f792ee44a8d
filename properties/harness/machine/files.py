"""A disk that refuses loses no verdict: junit's file is written elsewhere, or done without."""

import tempfile
from pathlib import Path
from typing import Any, Callable, List

import pytest


class Refused:
    """What could not be written, for the end of the run."""

    def __init__(self) -> None:
        self.sentences: List[str] = []

    def _guarded(
        self, session: pytest.Session, write: Callable[..., Any], xml: Any
    ) -> Callable[..., Any]:
        def finish() -> None:
            try:
                write()
            except OSError as problem:
                asked, where = xml.logfile, ""
                try:
                    folder = Path(tempfile.mkdtemp(prefix="frostproof-junit-"))
                    xml.logfile = str(folder / Path(asked).name)
                    write()
                    where = f"; it is in {xml.logfile}"
                except OSError:
                    pass
                reason = problem.strerror or str(problem)
                self.sentences.append(f"--junit-xml {asked}: cannot be written: {reason}{where}")
                if session.exitstatus == pytest.ExitCode.OK:
                    session.exitstatus = pytest.ExitCode.USAGE_ERROR

        return finish

    def guard(self, session: pytest.Session) -> None:
        """Let pytest's junit plugin fail to write without losing the summary."""
        for found in session.config.hook.pytest_sessionfinish.get_hookimpls():
            if type(found.plugin).__name__ == "LogXML":
                guarded = self._guarded(session, found.function, found.plugin)
                setattr(found, "function", guarded)  # noqa: B010
