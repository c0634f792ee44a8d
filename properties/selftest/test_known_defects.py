"""The table of known defects: shown as known, strict both ways, and a row without a test is told."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from frostproof.properties.harness.defects import known
from frostproof.properties.harness.defects.known import Defect, applying, version_tuple
from frostproof.properties.harness.report.record import read
from frostproof.properties.harness.running import workarounds
from frostproof.properties.selftest import PACKAGE, ROOT
from frostproof.strategies import OptimizerSpec

ISSUE = "pytorch/pytorch#1"
FOLD = "test_lambda.py::test_reduce_is_the_left_fold"


def run(
    folder: Path, row: Defect, *arguments: str, code: str = ""
) -> "subprocess.CompletedProcess[str]":
    """pytest with one row as the whole table, and torch or Python broken by some code."""
    (folder / "table.py").write_text(
        "from frostproof.properties.harness.defects import known\n"
        "from frostproof.properties.harness.defects.known import Defect\n"
        f"known.DEFECTS = ({row!r},)\n{code}\n"
    )
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "-p", "table"]
    command += ["--hypothesis-profile", "quick", f"--junit-xml={folder / 'r.xml'}", *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), PACKAGE))}
    return subprocess.run(
        command, cwd=str(ROOT), env=environment, capture_output=True, text=True, timeout=300
    )


BROKEN = """
import functools
old = functools.reduce
def reduce(*arguments):
    found = old(*arguments)
    return found + 1 if type(found) is int else found
functools.reduce = reduce
"""


def test_a_known_defect_is_known_and_not_broken(tmp_path: Path) -> None:
    row = Defect(FOLD, "reduce counts one too many", ISSUE)
    result = run(tmp_path, row, "properties/test_lambda.py", "-k", "left_fold", code=BROKEN)
    assert result.returncode == 0, result.stdout
    assert f"known defect: reduce counts one too many ({ISSUE})" in result.stdout
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("test_lambda.py")]
    held, broken, known = line.split()[-6:-3]
    assert (held, broken, known) == ("0", "0", "1")
    (entry,) = read(tmp_path / "r.xml").entries
    assert entry.outcome == "known" and "one too many" in entry.message


def test_a_known_defect_that_no_longer_shows_fails(tmp_path: Path) -> None:
    row = Defect(FOLD, "reduce counts one too many", ISSUE)
    result = run(tmp_path, row, "properties/test_lambda.py", "-k", "left_fold")
    assert result.returncode == 1, result.stdout
    assert f"It does not show with torch {torch.__version__}: the law holds here." in result.stdout
    assert "defects/known.py" in result.stdout and "XPASS" not in result.stdout
    (entry,) = read(tmp_path / "r.xml").entries
    assert entry.outcome == "broken" and "the law holds here" in entry.message


def test_the_traceback_of_a_known_defect_has_sources_on_request(tmp_path: Path) -> None:
    row = Defect(FOLD, "reduce counts one too many", ISSUE)
    for arguments, told in (((), False), (("--xfail-tb",), True)):
        chosen = ("properties/test_lambda.py", "-k", "left_fold", "-rx", *arguments)
        result = run(tmp_path, row, *chosen, code=BROKEN)
        assert result.returncode == 0, result.stdout
        assert ("def test_reduce_is_the_left_fold" in result.stdout) is told


def test_another_law_that_breaks_is_not_known(tmp_path: Path) -> None:
    row = Defect("test_lambda.py::test_map_keeps_length_and_order", "map is lazy", ISSUE)
    result = run(tmp_path, row, "properties/test_lambda.py", "-k", "left_fold", code=BROKEN)
    assert result.returncode == 1 and "expected  L1" in result.stdout


@pytest.mark.parametrize(
    ("row", "arguments", "told"),
    [
        (Defect("test_lambda.py::test_gone", "gone", ISSUE), (), True),
        (Defect("test_lambda.py::test_gone", "gone", ISSUE, last=(1, 7)), (), False),  # not this torch
        (Defect("test_other.py::test_gone", "gone", ISSUE), (), False),  # not collected
        (Defect(FOLD, "here", ISSUE, cells="cpu-warp.*"), (), True),
        (Defect(FOLD, "here", ISSUE, cells="warp-.*"), (), False),  # of a device that is not here
        (Defect(FOLD, "here", ISSUE, cells="warp-.*"), ("--dtype", "float32"), False),
    ],
)
def test_a_row_that_matches_nothing_is_a_warning(
    tmp_path: Path, row: Defect, arguments: Any, told: bool
) -> None:
    result = run(tmp_path, row, "properties/test_lambda.py", "--collect-only", "-q", *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    assert (f"known defect matches nothing: {row.test}" in result.stdout) == told, result.stdout


def test_versions_choose_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = (
        Defect("a::b", "old", ISSUE, last=(1, 8)),
        Defect("a::c", "some", ISSUE, first=(2, 4), last=(2, 13)),
    )
    monkeypatch.setattr(known, "DEFECTS", rows)
    assert [row.sentence for row in applying("1.8.1")] == ["old"]
    assert [row.sentence for row in applying("2.13.0+cpu")] == ["some"]
    assert applying("2.14.0.dev20260101") == []
    with pytest.raises(ValueError, match="not a torch version"):
        version_tuple("nightly")
    monkeypatch.setattr(known, "DEFECTS", (Defect("a::b", "none", ISSUE, (2, 4), (2, 3)),))
    with pytest.raises(ValueError, match="empty version range"):
        known.check_table()


def test_a_row_of_the_user_s_is_stepped_round_where_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Defect(workarounds.FUSED_SGD, "theirs", "none", cells="theirs:0-float32")
    monkeypatch.setattr(known, "DEFECTS", ())
    monkeypatch.setattr(known, "OF_THE_USER", [row])
    fused = OptimizerSpec("SGD", (("fused", True), ("lr", 0.1)))
    assert workarounds.sound(fused, "theirs:0", torch.float32).options == (("lr", 0.1),)
    assert workarounds.sound(fused, "theirs:0", torch.float64) == fused
    assert workarounds.sound(fused, "cpu", torch.float32) == fused


def test_every_row_is_whole() -> None:
    for row in known.DEFECTS:
        assert row.sentence and row.issue and (ROOT / "properties" / row.test.split("::")[0]).exists()
