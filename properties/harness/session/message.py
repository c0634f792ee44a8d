"""What a broken law says: the law, what was seen, the example, where, and how to run it again."""

import dataclasses
import platform
import shlex
from typing import Any, Dict, List, Optional, Tuple

import hypothesis
import pytest
import torch

from frostproof.properties.harness.core.options import value
from frostproof.properties.harness.own import options as own
from frostproof.properties.harness.running.case import Case
from frostproof.properties.harness.running.recording import MACHINE
from frostproof.properties.harness.session import evidence
from frostproof.properties.harness.session.state import of


def brief(value: Any) -> str:
    """``repr`` without the fields that have their default; it evaluates to an equal object."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        named = [(field, getattr(value, field.name)) for field in dataclasses.fields(value)]
        shown = [f"{field.name}={brief(item)}" for field, item in named if item != field.default]
        return f"{type(value).__name__}({', '.join(shown)})"
    if type(value) is tuple:
        return f"({', '.join(map(brief, value))}{',' if len(value) == 1 else ''})"
    return repr(value)


def described(case: Case) -> str:
    """The drawn descriptions, one a line."""
    events = [(f"{event}({arguments})") for event, arguments in _events(case)]
    own = [name for name in case.values if name not in ("device", "dtype", "data", "events")]
    lines = [f"{name}={brief(case.values[name])}" for name in own]
    lines += [f"draw {index + 1}: {brief(value)}" for index, value in enumerate(case.drawn)]
    return "\n".join([*lines, *events])


def _events(case: Case) -> List[Tuple[str, str]]:
    """The events of a history, with their arguments as text."""
    return [
        (event, ", ".join(f"{name}={brief(value)}" for name, value in arguments.items()))
        for event, arguments in case.values.get("events", ())
    ]


def seen(problem: BaseException, excinfo: Any) -> str:
    """The broken law's sentence, or the unexpected error and where it came from."""
    if type(problem).__name__ == "LawBroken":
        return str(problem)
    place = excinfo.traceback[-1]
    return f"{type(problem).__name__}: {problem}\nraised at {place.path}:{place.lineno + 1}"


BEFORE = "none: the error came while the example was drawn, before the law's first line"


def rerun_command(item: pytest.Item, case: Case) -> str:
    """The command that runs this one test with the same seed."""
    config = item.config
    plugins = [word for name in evidence.Current.plugins for word in ("-p", name)]
    words = ["pytest", *plugins, f'"{item.nodeid}"', *map(shlex.quote, own.command(config))]
    session = of(config)
    if session.shards > 1:
        words.append(f"--shards={session.shards}")
    if [name for name in value(config, "device") if name != "auto"]:
        words += ["--device", shlex.quote(case.device)]
    if case.dtype is torch.float16 and not session.thorough:
        words += ["--dtype", case.dtype_name]
    if session.profile != "default":
        words += ["--hypothesis-profile", session.profile]
    words.append(f"--hypothesis-seed={session.seed}")
    return " ".join(words)


def sentence(item: pytest.Item, case: Case, excinfo: Any, program: str) -> str:
    """The whole message."""
    assert case.seen is not None
    where = f"{case.device}, {case.dtype_name}; " if "device" in case.values else ""
    parts: List[Tuple[str, str]] = [
        ("expected", case.sentence),
        ("seen", seen(case.seen, excinfo)),
        ("example", described(case)),
        (
            "on",
            f"{where}torch {torch.__version__}, "
            f"Hypothesis {hypothesis.__version__}, Python {platform.python_version()}",
        ),
        ("rerun", rerun_command(item, case)),
        ("program", program),
    ]
    lines = []
    for label, text in parts:
        for number, line in enumerate(text.split("\n") if text else []):
            lines.append(f"{'' if number else label:<10}{line}")
    return "\n".join(lines)


def case_of(item: Any, failed: Dict[str, Any], problem: Optional[BaseException]) -> Case:
    """The case of a collected law and the arguments of its failing example."""
    values = {**(item.callspec.params if hasattr(item, "callspec") else {}), **failed}
    mark = item.get_closest_marker("law")
    text = " ".join((item.obj.__doc__ or "").split())
    data = values.pop("data", None)
    return Case(
        test=item.nodeid.rpartition("/")[2].partition("[")[0],
        ident=mark.args[0],
        sentence=text,
        device=str(values.get("device", "cpu")),
        dtype=values.get("dtype", torch.float32),
        values=values,
        drawn=list(getattr(data, "drawn", [])),
        draws_data=data is not None,
        machine=MACHINE.get("last"),
        seen=problem,
    )
