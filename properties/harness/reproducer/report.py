"""Puts message and program into pytest's report, a file and the junit record."""

import json
import os
import re
import time
from pathlib import Path
from typing import Any, List, Optional, Tuple

import hypothesis.errors
import pytest

from frostproof.properties.harness.report.drawing import network_of
from frostproof.properties.harness.reproducer import message
from frostproof.properties.harness.reproducer.recording import Recorder
from frostproof.properties.harness.reproducer.registry import Program, program, templates
from frostproof.properties.harness.session.options import value
from frostproof.properties.harness.session.shown import shown

STARTED = time.time()
RECORDER: "pytest.StashKey[Recorder]" = pytest.StashKey()


def folder(config: pytest.Config) -> Path:
    """Where programs are written."""
    asked = value(config, "reproducers")
    if asked:
        return Path(config.invocation_params.dir, asked)
    return Path(config.rootpath, ".frostproof")


def write(config: pytest.Config, nodeid: str, text: str) -> str:
    """Write a program; the line that says where it is, or why it is nowhere."""
    name = re.sub(r"[^\w.-]+", ".", nodeid.rpartition("/")[2].replace(".py::", ".")).strip(".")
    path = folder(config) / f"{name}.py"
    part = path.with_name(f"{name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_mtime >= STARTED:  # by a run beside this one
            path = path.with_name(f"{name}.{os.getpid()}.py")
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)  # whole or not at all, whoever else writes
    except OSError as problem:
        return f"not written to {path}: {problem.strerror or problem}; choose --reproducers=DIR"
    try:
        return str(path.relative_to(config.invocation_params.dir))
    except ValueError:
        return str(path)


def _program(case: message.Case, item: pytest.Item) -> Tuple[Optional[Program], str]:
    """(the program or nothing, what to say of it)."""
    try:
        if case.test not in templates():
            return None, ""  # laws of a user's own code: the program is the user's
        made = program(case)
    except Exception as problem:  # a broken torch may break the writing too: the law's message counts
        return None, (
            f"none: writing it failed with {type(problem).__name__}: {problem}\n"
            "This torch is too broken to describe the example; -vv shows the traceback."
        )
    where = write(item.config, item.nodeid, made.text)
    if made.ends is None:
        where += "\nRun alone it does not show this: it takes more than this one example."
    return made, where


def explain(item: Any, call: Any, report: Any) -> None:
    """Make a broken law's report say what was broken, by a message and a program.

    The whole traceback is kept with ``-vv`` and ``--full-trace``, and where explaining fails.
    """
    problem: Optional[BaseException] = call.excinfo.value if call.excinfo else None
    if problem is None or not isinstance(problem, Exception):
        return
    try:
        _explain(item, call.excinfo, problem, report)
    except Exception as second:
        text = f"no message could be made of this: {type(second).__name__}: {second}"
        report.sections.append(("law", text))


def _explain(item: Any, excinfo: Any, problem: Exception, report: Any) -> None:
    recorder = item.stash.get(RECORDER, None)
    parametrized = getattr(item.obj, "hypothesis", None) is None
    failed = (recorder.failed if recorder else None) or ({} if parametrized else None)
    case = message.case_of(item, failed or {}, problem)
    made: Optional[Program] = None
    properties: List[Tuple[str, str]] = []
    if failed is None or getattr(failed.get("data"), "drawing", False):
        where = message.BEFORE if case.test in templates() else ""
    else:
        made, where = _program(case, item)
    text = message.sentence(item, case, excinfo, where)
    if failed is not None:
        properties.append(("description", message.described(case)))
        seen = message.seen(problem, excinfo)
        network = network_of([*case.values.values(), *case.drawn], seen)
        if network is None and made is not None:
            network = network_of([made.run], seen)
        if network:
            properties.append(("network", json.dumps(network)))
    properties.append(("message", text))
    if made is not None:
        properties.append(("reproducer", made.text))
    item.user_properties.extend(properties)
    report.user_properties.extend(properties)
    whole = item.config.getoption("verbose") > 1 or item.config.getoption("--full-trace")
    if whole or isinstance(problem, hypothesis.errors.HypothesisException):
        report.sections.append(("law", text))
    else:
        report.longrepr = shown(text, problem, report)
    if made is not None:
        report.sections.append(("reproducer", made.text))
