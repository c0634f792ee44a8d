"""Every known defect of training has its program, which shows it where its rows say so."""

import sys
from typing import List

import pytest
import torch

from frostproof.properties.harness.defects import known
from frostproof.properties.harness.defects.training import TRAINING
from frostproof.properties.harness.hunting.report import shown_on
from frostproof.properties.selftest import defect_programs

NAMES = sorted(defect_programs.rows())


def test_every_row_has_a_program_and_every_program_a_row() -> None:
    files = sorted(path.stem for path in defect_programs.FOLDER.glob("*.py") if path.stem != "__init__")
    assert files == NAMES
    assert "" not in NAMES and len(TRAINING) >= len(files)


def test_programs_are_plain_torch_and_end_by_a_sentence() -> None:
    for name in NAMES:
        text = (defect_programs.FOLDER / f"{name}.py").read_text(encoding="utf-8")
        assert 'sys.exit(f"' in text or 'sys.exit("' in text, name
        assert "frostproof" not in text and "hypothesis" not in text, name
        assert not ("Process(" in text and "daemon=True" not in text), name
        assert "MASTER_PORT" not in text and "tcp://" not in text, name


def test_the_page_lists_every_program_with_its_rows() -> None:
    page = defect_programs.PAGE.read_text(encoding="utf-8").splitlines()
    listed: List[str] = []
    for text in page:
        if not text.startswith("| ["):
            continue
        cells = [cell.strip() for cell in text.strip("|").split(" | ")]
        name = cells[0][1:].split("]")[0]
        listed.append(name)
        expected = defect_programs.line(name, defect_programs.rows()[name], {})
        own = [cell.strip() for cell in expected.strip("|").split(" | ")]
        assert cells[:3] + cells[4:] == own[:3] + own[4:], f"{name}: write the page again"
    assert sorted(listed) == NAMES


def test_twenty_more_than_the_fused_show_on_this_torch() -> None:
    if not torch.__version__.startswith(("2.13", "2.14")):
        pytest.skip("counted on torch 2.13 and 2.14")
    page = defect_programs.PAGE.read_text(encoding="utf-8").splitlines()
    version = torch.__version__.partition("+")[0]
    shown = [text for text in page if text.startswith("| [") and version in text.split(" | ")[3]]
    assert sum("| [fused_" not in text for text in shown) >= 20


@pytest.mark.parametrize("name", NAMES)
def test_a_program_shows_its_defect_where_a_row_says_so(name: str) -> None:
    applying = [row for row in known.applying() if row.program == name]
    word = shown_on(defect_programs.FOLDER / f"{name}.py", sys.executable)
    if word.startswith("cannot run"):
        assert not applying, word
        return
    assert word.startswith("shown") == bool(applying), word
