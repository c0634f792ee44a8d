"""Laws that a torch version breaks, as data. Strict: one that holds again is reported.

A defect is shown as xfailed. The summary counts it as known.
"""

import re
import warnings
from dataclasses import dataclass
from typing import List, Sequence, Tuple

import pytest
import torch


def version_tuple(text: str) -> Tuple[int, int]:
    """(major, minor) of a torch version such as "2.13.0+cpu"."""
    found = re.match(r"(\d+)\.(\d+)", text)
    if found is None:
        raise ValueError(f"not a torch version: {text!r}")
    return int(found.group(1)), int(found.group(2))


@dataclass(frozen=True)
class Defect:
    """A law broken by torch versions ``first`` to ``last`` (inclusive), by node id pattern.

    test: file::function; cells: a regular expression on the bracketed id, such as
    "cpu-.*"; issue: the upstream report or document; sentence: what goes wrong.
    """

    test: str
    sentence: str
    issue: str
    first: Tuple[int, int] = (0, 0)
    last: Tuple[int, int] = (999, 0)
    cells: str = ".*"


RAISED = (AssertionError, RuntimeError, TypeError, UnboundLocalError, UserWarning)
DEFECTS: Sequence[Defect] = (
    Defect(
        test="test_freeze.py::test_step_without_gradients",
        sentence="a step over a group without any gradient raises UnboundLocalError",
        issue="measured on 1.8.1: Adam, AdamW, Adadelta, Adagrad",
        last=(1, 8),
    ),
    Defect(
        test="test_optimizers.py::test_fused_sgd_moves_every_element",
        sentence="fused SGD on the CPU leaves whole vectors of low-precision elements unmoved",
        issue="pytorch/pytorch#191763",
        first=(2, 4),
        last=(2, 13),
        cells="cpu-(bfloat16|float16)",
    ),
    Defect(
        test="test_freeze.py::test_fused_sgd_takes_a_late_gradient",
        sentence="fused SGD with momentum cannot step once another parameter of a group is unfrozen",
        issue="measured on 2.13",
        first=(2, 4),
    ),
    Defect(
        test="test_detach.py::test_detach_in_place_refuses_chunks",
        sentence="detach_ of a chunk warns where it should refuse",
        issue="measured on 1.8.1, whose warning says that it will be forbidden",
        last=(1, 8),
    ),
)


def applying(version: str = "") -> List[Defect]:
    """The defects of this torch version."""
    now = version_tuple(version or str(torch.__version__))
    return [defect for defect in DEFECTS if defect.first <= now <= defect.last]


def known(test: str) -> bool:
    """Whether this torch has the defect of a test: what other laws must then step round."""
    return any(defect.test == test for defect in applying())


def check_table() -> None:
    """Raise ValueError for an entry that cannot match anything."""
    for defect in DEFECTS:
        if defect.first > defect.last:
            raise ValueError(f"known defect with an empty version range: {defect}")
        re.compile(defect.cells)


def mark(items: Sequence[pytest.Item]) -> None:
    """Mark the tests that a known defect breaks; warn of a defect whose file is here but not it."""
    files = {item.nodeid.split("::")[0].rpartition("/")[2] for item in items}
    names = {item.nodeid.split("[")[0].rpartition("/")[2] for item in items}
    for defect in applying():
        file = defect.test.split("::")[0]
        if file in files and len(items) > 50 and defect.test not in names:
            warnings.warn(
                f"known defect matches no test: {defect.test}", pytest.PytestWarning, stacklevel=1
            )
        for item in items:
            name, _, cell = item.nodeid.rpartition("/")[2].partition("[")
            if name == defect.test and re.fullmatch(defect.cells, cell.rstrip("]")):
                item.add_marker(
                    pytest.mark.xfail(
                        reason=f"known defect: {defect.sentence} ({defect.issue})",
                        strict=True,
                        raises=(
                            AssertionError,
                            RuntimeError,
                            TypeError,
                            UnboundLocalError,
                            UserWarning,
                        ),
                    )
                )
