"""The known defects of the modes: listed completely, each with a program and a draft."""

import sys
from pathlib import Path

import pytest

from frostproof.properties.harness.defects.known import release
from frostproof.properties.harness.hunting import report
from frostproof.properties.harness.programs import known
from frostproof.properties.harness.programs.defects import ROWS, Row
from frostproof.properties.harness.programs.modes import MODES

PAGE = Path(__file__).parents[1] / "known_programs.md"
BY_IDENT = {row.ident: row for row in ROWS}
# values, an error, flags of a version, and what ends the process: seconds each
SAMPLE = ("foreach-does-not-count", "func-foreach-on-a-view", "functionalized-transpose")


def test_the_page_lists_every_row() -> None:
    assert PAGE.read_text(encoding="utf-8") == known.listed(), (
        "write it again: python -m frostproof.properties.hunt --known --output FOLDER"
    )


def test_rows_have_names_of_their_own() -> None:
    assert len(BY_IDENT) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.ident)
def test_a_row_has_a_program_and_a_draft(row: Row) -> None:
    program = known.program_of(row)
    compile(program, row.ident, "exec")
    draft = known.draft_of(row, {"2.13.0": "shown"})
    assert program.rstrip() in draft and row.issue in draft


@pytest.mark.parametrize("ident", (*SAMPLE, "hook-on-a-changed-view"))
def test_a_program_shows_its_row(ident: str, tmp_path: Path) -> None:
    row = BY_IDENT[ident]
    now = release()
    mode = known.mode_of(row)
    if now not in row.shown + row.absent or (mode in MODES and MODES[mode].missing()):
        pytest.skip(f"not measured on torch {now}")
    script = tmp_path / "program.py"
    script.write_text(known.program_of(row), encoding="utf-8")
    assert report.shown_on(script, sys.executable) == ("shown" if now in row.shown else "absent")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("print('E1127 [0/0] Traceback (most recent call last):', file=sys.stderr)", "shown"),
        ("raise RuntimeError('no such thing')", "cannot run: RuntimeError: no such thing"),
    ],
    ids=["a traceback that torch logs", "a program that fails"],
)
def test_what_a_program_says_is_read(line: str, expected: str, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(f"import sys\n\n{line}\nsys.exit(1)\n", encoding="utf-8")
    assert report.shown_on(script, sys.executable) == expected
