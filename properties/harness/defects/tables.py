"""A user's own table of known defects: TOML, or JSON where Python cannot read TOML.

    [[defect]]
    test = "test_freeze.py::test_frozen_stay"
    sentence = "our fork's ASGD moves what is frozen"
    issue = "https://example.org/issues/7"
    last = "2.14"
    cells = "cpu-.*"
    condition = "ASGD foreach"

The columns are those of ``Defect``; ``test``, ``sentence`` and ``issue`` must be there.
"""

import importlib
import json
import re
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest

from frostproof.properties.harness.defects import conditions
from frostproof.properties.harness.defects.defect import Defect

NEEDED = ("test", "sentence", "issue")
COLUMNS = (*NEEDED, "first", "last", "cells", "condition", "beside")


def _parsed(path: Path) -> Any:
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    for name in ("tomllib", "tomli"):
        try:
            reader = importlib.import_module(name)
        except ImportError:
            continue
        return reader.loads(path.read_text(encoding="utf-8"))
    raise ValueError(
        "this Python reads no TOML: python -m pip install tomli, or give the same table as FILE.json, "
        'such as {"defect": [{"test": "test_freeze.py::test_frozen_stay", ...}]}'
    )


def _version(text: Any, column: str) -> Tuple[int, int]:
    found = re.fullmatch(r"(\d+)\.(\d+)(\.\d+)?", str(text)) if isinstance(text, str) else None
    if found is None:
        raise ValueError(f'{column} is {text!r}: give a version as text, such as "2.14"')
    return int(found.group(1)), int(found.group(2))


def _row(found: Any, table: str) -> Defect:
    if not isinstance(found, dict):
        raise ValueError("each defect must be a table of columns")
    unknown = sorted(set(found) - set(COLUMNS))
    missing = [column for column in NEEDED if not found.get(column)]
    if unknown or missing:
        what = f"has no column {unknown[0]}" if unknown else f"lacks {missing[0]}"
        raise ValueError(f"a defect {what}; its columns are {', '.join(COLUMNS)}")
    columns: Dict[str, Any] = {**found, "table": table}
    for column in ("first", "last"):
        if column in columns:
            columns[column] = _version(columns[column], column)
    wrong = [
        name
        for name, value in columns.items()
        if name not in ("first", "last") and type(value) is not str
    ]
    if wrong:
        raise ValueError(f"{wrong[0]} is {columns[wrong[0]]!r}: give a text")
    if "::" not in columns["test"]:
        raise ValueError(f"test is {columns['test']!r}: give it as FILE.py::FUNCTION")
    row = Defect(**columns)
    if row.first > row.last:
        raise ValueError(f"the versions of {row.test} are none: first is after last")
    try:
        re.compile(row.cells)
    except re.error as problem:
        raise ValueError(f"cells is {row.cells!r}, no regular expression: {problem}") from None
    conditions.holds(row.condition, ())
    return row


def read(name: str, folder: Path) -> List[Defect]:
    """The rows of ``--known-defects NAME``; raises pytest.UsageError in one sentence."""
    path = Path(folder, name)
    try:
        found = _parsed(path)
        if (
            not isinstance(found, dict)
            or set(found) != {"defect"}
            or not isinstance(found["defect"], list)
        ):
            raise ValueError("it must hold [[defect]] tables and nothing else")
        return [_row(row, name) for row in found["defect"]]
    except FileNotFoundError:
        raise pytest.UsageError(f"--known-defects {name}: there is no such file") from None
    except OSError as problem:
        raise pytest.UsageError(f"--known-defects {name}: {problem.strerror or problem}") from None
    except ValueError as problem:  # what TOML and JSON raise, too
        raise pytest.UsageError(f"--known-defects {name}: {problem}") from None
