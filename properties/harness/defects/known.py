"""Laws that a torch version breaks, as data. Strict: one that holds again is reported.

A defect is shown as xfailed. The summary counts it as known.
"""

import re
import warnings
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Set, Tuple

import pytest
import torch

from frostproof.properties.harness.core import shards
from frostproof.properties.harness.defects import conditions, optimizers, tables
from frostproof.properties.harness.defects import operators as operator_defects
from frostproof.properties.harness.defects.defect import Defect
from frostproof.properties.harness.defects.training import TRAINING
from frostproof.properties.harness.machine import accelerators


def version_tuple(text: str) -> Tuple[int, int]:
    """(major, minor) of a torch version such as "2.13.0+cpu"."""
    found = re.match(r"(\d+)\.(\d+)", text)
    if found is None:
        raise ValueError(f"not a torch version: {text!r}")
    return int(found.group(1)), int(found.group(2))


def release() -> str:
    """ "major.minor" of this torch, as the rows of the modes name versions."""
    return ".".join(map(str, version_tuple(str(torch.__version__))))


class KnownDefectWarning(pytest.PytestWarning):
    """A row of the table that matches nothing."""


RAISED = (AssertionError, RuntimeError, TypeError, UnboundLocalError, UserWarning)
DEFECTS: Sequence[Defect] = (
    Defect(
        test="test_freeze.py::test_step_without_gradients",
        sentence="a step over a group without any gradient raises UnboundLocalError",
        issue="pytorch/pytorch#53354, pytorch/pytorch#56237, pytorch/pytorch#70352; "
        "measured: on 1.8.1 AdamW and Adadelta, on 1.9.1 to 1.11.0 Rprop",
        last=(1, 11),
    ),
    Defect(
        test="test_eager_model.py::test_a_view_joins_the_graph_with_its_base",
        sentence="a write to a view made before its base required grad is refused, as a leaf's, "
        "unless its grad_fn has been read",
        issue="measured on 1.8.1 to 2.14.1; no upstream report was found",
    ),
    *TRAINING,
    *optimizers.rows(),
    Defect(
        test="test_device_copies.py::test_lazy_signs_arrive",
        sentence="CUDA's copy to the CPU turns a lazy sign twice where the source has gaps",
        issue="measured on 2.11, CUDA 13; nearest: pytorch/pytorch#146286",
        first=(1, 10),
        cells="cuda.*",
    ),
    Defect(
        test="test_detach_in_place.py::test_detach_in_place_refuses_chunks",
        sentence="detach_ of a chunk warns where it should refuse",
        issue="measured on 1.8.1 and 1.9.1, which warn of it; mended by pytorch/pytorch#58285",
        last=(1, 9),
    ),
    *operator_defects.rows(),
)


OF_THE_USER: List[Defect] = []  # from --known-defects


def configure(asked: Sequence[str], folder: Path) -> None:
    """Read the user's tables, and check all; raises pytest.UsageError for one that cannot be."""
    OF_THE_USER[:] = [row for name in asked for row in tables.read(name, folder)]
    check_table()


def applying(version: str = "") -> List[Defect]:
    """The defects of this torch version, with the accelerators that are there."""
    now = version_tuple(version or str(torch.__version__))
    return [
        defect
        for defect in (*DEFECTS, *OF_THE_USER)
        if defect.first <= now <= defect.last and (not defect.beside or _there(defect.beside))
    ]


@cache
def _there(kind: str) -> bool:
    return kind in accelerators.available()


def known(test: str, cell: str = "") -> bool:
    """Whether this torch has the defect of a test: what other laws must then step round.

    cell: the bracketed part of the test's id, such as "cpu-bfloat16"; "": whichever.
    """
    return any(
        defect.test == test and (not cell or re.fullmatch(defect.cells, cell)) for defect in applying()
    )


def check_table() -> None:
    """Raise ValueError for an entry that cannot match anything."""
    for defect in (*DEFECTS, *OF_THE_USER):
        if defect.first > defect.last:
            raise ValueError(f"known defect with an empty version range: {defect}")
        re.compile(defect.cells)
        conditions.holds(defect.condition, ())


def unmatched(items: Sequence[pytest.Item]) -> List[Defect]:
    """The defects of this torch that no collected test is, though its file was collected.

    Parts of a file, a device or a dtype may have been chosen: a row is judged by the cells
    of its own test, and a missing test only where its file has others.
    """
    cells: Dict[str, Set[str]] = {}
    for item in items:
        name, _, cell = shards.whole(item.nodeid).rpartition("/")[2].partition("[")
        cells.setdefault(name, set()).add(cell.rstrip("]"))
    files = {name.split("::")[0] for name in cells}
    devices = {re.split("[-:]", cell)[0] for of_test in cells.values() for cell in of_test}
    return [
        defect
        for defect in applying()
        if defect.test.split("::")[0] in files
        and re.split("[-:.]", defect.cells)[0] in ("", *devices)
        and not any(re.fullmatch(defect.cells, cell) for cell in cells.get(defect.test, ()))
    ]


def mark(items: Sequence[pytest.Item], whole: bool) -> None:
    """Mark the tests that a known defect breaks.

    whole: nothing was left out by node id, device or dtype, so that a row that matches
    nothing is a mistake in the table, and is warned of.
    """
    for defect in unmatched(items) if whole else ():
        warnings.warn(
            f"known defect matches nothing: {defect.test}[{defect.cells}]: mend or remove its row in "
            f"{defect.table}",
            KnownDefectWarning,
            stacklevel=1,
        )
    for defect in applying():
        for item in items if not defect.condition else ():
            if _is_of(item, defect):
                item.add_marker(
                    pytest.mark.xfail(
                        reason=f"{told(defect)}{row_of(defect)}",
                        strict=shards.whole(item.nodeid) == item.nodeid,  # shards are judged together
                        raises=RAISED,
                    )
                )


@contextmanager
def told_briefly(item: pytest.Item, call: Any) -> Iterator[None]:
    """While a known defect is reported: pytest's traceback without sources, for which it parses files.

    Nobody is shown it, unless by ``--xfail-tb``. What is raised but not known keeps the whole.
    """
    option, problem = item.config.option, call.excinfo and call.excinfo.value
    marked = any(mark.kwargs.get("raises") is RAISED for mark in item.iter_markers("xfail"))
    asked = getattr(option, "xfail_tb", False) or option.runxfail
    if not marked or asked or not isinstance(problem, RAISED):
        yield
        return
    style, option.tbstyle = option.tbstyle, "native"
    try:
        yield
    finally:
        option.tbstyle = style


def _is_of(item: pytest.Item, defect: Defect) -> bool:
    name, _, cell = shards.whole(item.nodeid).rpartition("/")[2].partition("[")
    return name == defect.test and re.fullmatch(defect.cells, cell.rstrip("]")) is not None


def told(defect: Defect) -> str:
    """A row in one sentence."""
    return f"known defect: {defect.sentence} ({defect.issue})"


def row_of(defect: Defect) -> str:
    """Where the row is, unless it is in the project's own table."""
    return "" if defect.table == Defect.table else f" [{defect.table}]"


class Conditional:
    """The rows of one test that hold for some of its examples, and what came of those examples."""

    # examples of a condition that say, all held, that the defect has gone: of a law that
    # enumerates, and of one that draws, where few say nothing
    ENOUGH, ENOUGH_DRAWN = 10, 50

    def __init__(self, item: Optional[pytest.Item]) -> None:
        self.rows = [row for row in applying() if item and row.condition and _is_of(item, row)]
        self.whole = item is None or shards.whole(item.nodeid) == item.nodeid
        drawn = item is not None and hasattr(item.obj, "hypothesis")  # type: ignore[attr-defined]
        self.enough = self.ENOUGH_DRAWN if drawn else self.ENOUGH
        self.shown: Dict[Defect, int] = {}
        self.held: Dict[Defect, int] = {}

    def _of(self, values: Sequence[Any]) -> List[Defect]:
        return [row for row in self.rows if conditions.holds(row.condition, values)]

    def holds(self, values: Sequence[Any]) -> None:
        """An example with these values held."""
        for row in self._of(values):
            self.held[row] = self.held.get(row, 0) + 1

    def covers(self, values: Sequence[Any], problem: BaseException) -> bool:
        """Whether what an example with these values raised is known; it is counted."""
        known_rows = self._of(values) if isinstance(problem, RAISED) else []
        for row in known_rows:
            self.shown[row] = self.shown.get(row, 0) + 1
        return bool(known_rows)

    def gone(self) -> str:
        """What to say of a row that showed in none of enough examples; "" where there is none."""
        for row, count in self.held.items():
            if row not in self.shown and count >= self.enough and self.whole:
                return _holds_here(f"{told(row)} in examples of {row.condition!r}", row.table)
        return ""


def _holds_here(text: str, table: str) -> str:
    return (
        f"{text}\n"
        f"It does not show with torch {torch.__version__}: the law holds here. Where that is right, "
        f"end the range of its row in {table} before this version."
    )


def holds_again(report: pytest.TestReport) -> bool:
    """Whether a known defect no longer shows; says so in place of pytest's "[XPASS(strict)]"."""
    text = str(report.longrepr)
    if report.outcome != "failed" or not text.startswith(f"{STRICT}known defect: "):
        return False
    tables = {row.table for row in OF_THE_USER if text.endswith(row_of(row))}
    report.longrepr = _holds_here(text[len(STRICT) :], min(tables, default=Defect.table))
    return True


STRICT = "[XPASS(strict)] "
