"""Puts message and program into pytest's report, a file and the junit record."""

import json
import os
import re
import time
from pathlib import Path
from typing import Any, List, Optional, Tuple

import hypothesis.errors
import pytest

from frostproof.properties.harness.core.options import value
from frostproof.properties.harness.core.shown import shown
from frostproof.properties.harness.report.drawing import network_of
from frostproof.properties.harness.reproducer.replay import Found, found_by, outcome
from frostproof.properties.harness.running.case import Case
from frostproof.properties.harness.running.recording import Recorder
from frostproof.properties.harness.session import message

STARTED = time.time()
OF_THE_USER = ("test_model.py", "test_optimizer.py", "test_recipe.py")
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


def _found(case: Case, item: Any) -> Found:
    """The program of a case, or why there is none."""
    made = getattr(case.seen, "program", None)
    handle = getattr(item.obj, "hypothesis", None)
    if case.test.split("::")[0] in OF_THE_USER and "own" in Path(item.path).parts:
        return Found(why="this law runs your own code: that is the program")
    try:
        if made is not None:
            text = made()
            return Found(text) if outcome(text) else Found(why="run alone it does not show this")
        return found_by(item.obj if handle is None else handle.inner_test, case)
    except Exception as problem:  # a broken torch may break the writing too: the law's message counts
        return Found(
            why=f"writing it failed with {type(problem).__name__}: {problem}\n"
            "This torch is too broken to describe the example; -vv shows the traceback."
        )


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
    found = Found()
    properties: List[Tuple[str, str]] = []
    if failed is None or getattr(failed.get("data"), "drawing", False):
        where = message.BEFORE
    else:
        found = _found(case, item)
        made = found.program
        where = write(item.config, item.nodeid, made) if made else f"none: {found.why}"
    text = message.sentence(item, case, excinfo, where)
    if failed is not None:
        properties.append(("description", message.described(case)))
        values = [*case.values.values(), *case.drawn]
        network = network_of(values, found.marks) or network_of(found.networks, found.marks)
        if network:
            properties.append(("network", json.dumps(network)))
    properties.append(("message", text))
    made = found.program
    if made:
        properties.append(("reproducer", made))
    item.user_properties.extend(properties)
    report.user_properties.extend(properties)
    whole = item.config.getoption("verbose") > 1 or item.config.getoption("--full-trace")
    if whole or isinstance(problem, hypothesis.errors.HypothesisException):
        report.sections.append(("law", text))
    else:
        report.longrepr = shown(text, problem, report)
    if made:
        report.sections.append(("reproducer", made))
