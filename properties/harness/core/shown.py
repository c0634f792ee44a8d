"""A message in place of a traceback."""

from typing import Any

from _pytest._code.code import (
    ReprEntryNative,
    ReprExceptionInfo,
    ReprFileLocation,
    ReprTraceback,
)


def shown(text: str, problem: BaseException, report: Any) -> ReprExceptionInfo:
    """What a report shows: the message; its first line goes to the short summary."""
    crash = getattr(report.longrepr, "reprcrash", None)
    path, line = (crash.path, crash.lineno) if crash else ("", 0)
    entry = ReprEntryNative([f"{text}\n"])
    traceback = ReprTraceback([entry], extraline=None, style="native")
    summary = f"{type(problem).__name__}: {problem}".split("\n")[0]
    return ReprExceptionInfo(traceback, ReprFileLocation(path, line, summary))
