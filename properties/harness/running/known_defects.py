"""Laws that a torch version breaks, as data. Strict: one that holds again is reported.

A defect is shown as xfailed. The summary counts it as known.
"""

import re
import warnings
from typing import Dict, List, Sequence, Set, Tuple

import pytest
import torch

from frostproof.properties.harness.operators import defects as operator_defects
from frostproof.properties.harness.running.defect import Defect
from frostproof.properties.harness.running.training_defects import TRAINING
from frostproof.properties.harness.session import shards


def version_tuple(text: str) -> Tuple[int, int]:
    """(major, minor) of a torch version such as "2.13.0+cpu"."""
    found = re.match(r"(\d+)\.(\d+)", text)
    if found is None:
        raise ValueError(f"not a torch version: {text!r}")
    return int(found.group(1)), int(found.group(2))


class KnownDefectWarning(pytest.PytestWarning):
    """A row of the table that matches nothing."""


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
        test="test_freeze_midway.py::test_fused_sgd_takes_a_late_gradient",
        sentence="fused SGD with momentum cannot step once another parameter of a group is unfrozen",
        issue="measured on 2.13",
        first=(2, 4),
    ),
    Defect(
        test="test_gradients.py::test_linear_under_autocast",
        sentence="what autocast keeps of a weight under no_grad is a constant to the forward after it",
        issue="pytorch/pytorch#112583, mended by #165068",
        last=(2, 8),
        cells=".*evaluated-first",
    ),
    Defect(
        test="test_training_tools.py::test_clipping_without_gradients",
        sentence="clip_grad_value_ raises RuntimeError where no parameter has a gradient",
        issue="measured on 2.13",
        first=(2, 1),
        cells=".*-value",
    ),
    *TRAINING,
    Defect(
        test="test_device_copies.py::test_lazy_signs_arrive",
        sentence="CUDA's copy to the CPU turns a lazy sign twice where the source has gaps",
        issue="measured on 2.11, CUDA 13; none found upstream (nearest: pytorch/pytorch#146286)",
        first=(1, 10),
        cells="cuda.*",
    ),
    Defect(
        test="test_detach.py::test_detach_in_place_refuses_chunks",
        sentence="detach_ of a chunk warns where it should refuse",
        issue="measured on 1.8.1, whose warning says that it will be forbidden",
        last=(1, 8),
    ),
    *operator_defects.rows(),
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
            "properties/harness/running/known_defects.py",
            KnownDefectWarning,
            stacklevel=1,
        )
    for defect in applying():
        for item in items:
            name, _, cell = shards.whole(item.nodeid).rpartition("/")[2].partition("[")
            if name == defect.test and re.fullmatch(defect.cells, cell.rstrip("]")):
                item.add_marker(
                    pytest.mark.xfail(
                        reason=f"known defect: {defect.sentence} ({defect.issue})",
                        strict=shards.whole(item.nodeid) == item.nodeid,  # shards are judged together
                        raises=RAISED,
                    )
                )


def holds_again(report: pytest.TestReport) -> bool:
    """Whether a known defect no longer shows; says so in place of pytest's "[XPASS(strict)]"."""
    text = str(report.longrepr)
    if report.outcome != "failed" or not text.startswith(f"{STRICT}known defect: "):
        return False
    report.longrepr = (
        f"{text[len(STRICT) :]}\n"
        f"It does not show with torch {torch.__version__}: the law holds here. Where that is right, "
        "end the range of its row in properties/harness/running/known_defects.py before this version."
    )
    return True


STRICT = "[XPASS(strict)] "
