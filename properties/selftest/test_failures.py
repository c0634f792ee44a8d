"""What a run with many failures prints: each law once, what explains the others first."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, List

import pytest
import torch

from frostproof.properties.harness.core.bits import describe_difference
from frostproof.properties.harness.report import failures
from frostproof.properties.harness.session import summary
from frostproof.properties.selftest import ROOT

MESSAGE = """\
expected  {law}: what must hold.
seen      {seen}
          and a second line
          and a third
          and a fourth
example   draw 1: a net
on        cpu, {dtype}; torch 2.13.0
rerun     pytest -p a.plugin "properties/test_x.py::{name}[cpu-{dtype}]" --hypothesis-seed=7
program   .frostproof/{name}.cpu-{dtype}.py"""


def failed(law: str, name: str, dtype: str, seen: str = "") -> Any:
    """A report as pytest has it of a broken law; without a law, of something else."""
    facts = [("device", "cpu"), ("dtype", dtype), ("law", law)]
    seen = seen or f"storage: expected 94910565{len(dtype)}, got 1, of {dtype} on cpu"
    facts.append(("message", MESSAGE.format(law=law, name=name, dtype=dtype, seen=seen)))
    return SimpleNamespace(
        nodeid=f"properties/test_x.py::{name}[cpu-{dtype}]",
        user_properties=facts if law else [],
        longrepr=facts[-1][1],
        sections=[("reproducer", "import torch")],
        when="call",
    )


DTYPES = ("float32", "float64", "bfloat16", "complex64", "int8", "bool", "uint8", "int16", "int32")


def texts(reports: List[Any]) -> List[str]:
    return [str(report.longrepr) for report in failures.shown(reports)]


def test_cells_of_a_law_are_one_entry() -> None:
    (text,) = texts([failed("D1", "test_a", dtype) for dtype in DTYPES])
    assert text.count("expected  ") == 1 and "cells     9 tests: cpu-float32, cpu-float64" in text
    assert "cpu-int16 and 1 more" in text and text.index("cells ") < text.index("rerun ")
    assert 'rerun     pytest -p a.plugin "properties' in text  # what the user gave is kept


def test_another_sentence_is_told_in_the_same_entry() -> None:
    some = [failed("D1", "test_a", dtype) for dtype in DTYPES[:3]]
    other = [failed("D1", "test_a", dtype, "RuntimeError: no such kernel") for dtype in DTYPES[3:5]]
    (text,) = texts([*some, *other])
    assert "cells     3 of 5 tests: cpu-float32, cpu-float64, cpu-bfloat16" in text
    assert "also      RuntimeError: no such kernel\n          in 2: cpu-complex64, cpu-int8" in text
    sentences = "abcdefgh"
    many = [failed("D1", "test_a", dtype, word) for word, dtype in zip(sentences, DTYPES)]
    assert "also      4 other sentences" in texts(many)[0]


def test_what_explains_the_others_comes_first() -> None:
    laws = ("A1", "F1", "F3", "O1 G1", "K1", "F5 F1", "C5", "C1", "D6", "D1", "")
    reports = [failed(law, f"test_{place}", "float32") for place, law in enumerate(laws)]
    found = [dict(group[0].user_properties).get("law", "") for group in failures.groups(reports)]
    assert found == ["", "D1", "D6", "C1", "C5", "F5 F1", "O1 G1", "K1", "F3", "A1", "F1"]


def test_the_first_are_told_in_full_and_the_many_briefly() -> None:
    reports = [failed("F1", f"test_{place}", dtype) for place in range(60) for dtype in DTYPES[:2]]
    entries = failures.shown([*reports, failed("D1", "test_detach", "float32")])
    assert len(entries) == failures.MOST and "expected  D1" in str(entries[0].longrepr)
    full = [entry for entry in entries if entry.sections]
    assert len(full) == failures.FULL and all("example" in str(entry.longrepr) for entry in full)
    brief = str(entries[failures.FULL].longrepr)
    assert "example" not in brief and "third" in brief and "fourth" not in brief and "rerun " in brief
    assert "and 37 more laws are broken" in str(entries[-1].longrepr)
    lines = sum(len(str(entry.longrepr).split("\n")) + 3 for entry in entries)
    assert lines < 300


def test_few_failures_are_as_they_were() -> None:
    reports = [failed("F1", f"test_{place}", "float32") for place in range(failures.FULL)]
    assert failures.shown(reports) == reports
    # what is no law's is never folded into another's
    crashes = [failed("", "test_a", dtype) for dtype in DTYPES[:3]]
    assert len(failures.shown([*crashes, *reports])) == 9


def test_the_table_is_short_where_something_is_broken() -> None:
    def report(dtype: str, outcome: str) -> Any:
        facts = [("examples", "3"), ("device", "cpu"), ("dtype", dtype)]
        return outcome, SimpleNamespace(
            nodeid=f"properties/test_x.py::test_a[cpu-{dtype}]", user_properties=facts, longrepr=""
        )

    def table(broken: int) -> List[str]:
        stats: Any = {"failed": [], "passed": []}
        for place, dtype in enumerate(DTYPES[:6]):
            outcome, made = report(dtype, "failed" if place < broken else "passed")
            stats[outcome].append(made)
        said: List[str] = []
        summary.write(
            SimpleNamespace(
                stats=stats, write_line=lambda text, **_: said.append(text), write_sep=lambda *_: None
            )
        )
        return [" ".join(line.split()) for line in said if line.startswith("test_x")]

    assert len(table(0)) == 6
    assert table(1) == ["test_x.py cpu, 5 dtypes 5 0 0 0 0 15", "test_x.py cpu-float32 0 1 0 0 0 3"]
    assert table(4)[0] == "test_x.py cpu, 2 dtypes 2 0 0 0 0 6"
    assert table(4)[1] == "test_x.py cpu, 4 broken dtypes 0 4 0 0 0 12"


def test_a_difference_of_a_dtype_without_numbers_is_told_in_bits() -> None:
    if not hasattr(torch, "bits16"):
        pytest.skip("this torch has no bits16")
    like = torch.empty(2, dtype=torch.bits16)
    text = describe_difference(b"\x00\x00\x01\x00", b"\x00\x00\x02\x00", like)
    assert text == "element (1,): 1 became 2; 1 of 2 elements differ"


@pytest.mark.parametrize("verbose", [False, True])
def test_a_broken_detach_is_told_shortly(tmp_path: Path, verbose: bool) -> None:
    command = [sys.executable, "-m", "pytest", "-n", "2", "-p", "no:cacheprovider", "--device=cpu"]
    command += ["--hypothesis-profile=quick", f"--reproducers={tmp_path}", "properties/test_detach.py"]
    command += ["properties/test_accumulation.py", "-p", "frostproof.properties.selftest.faults.plugin"]
    command += ["--dtype=float32", "--dtype=float64", *(["-vv"] if verbose else ["-q"])]
    result = subprocess.run(
        command,
        cwd=str(ROOT),
        env={**os.environ, "FROSTPROOF_FAULT": "detach_copies", "GITHUB_STEP_SUMMARY": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 1, result.stdout
    out = result.stdout
    entries = out.count("expected  ")
    if verbose:  # each test, in full
        assert entries > 15 and "cells  " not in out
        return
    laws = [line for line in out.split("\n") if line.startswith("expected")]
    assert 5 < entries < 15 and len(set(laws)) == len(laws)
    assert laws[0].startswith("expected  D1: detach shares storage")
    assert out.count("rerun     pytest -p frostproof.properties.selftest.faults.plugin ") == entries
    assert len(out.split("\n")) < 200 and "program   none" not in out
    # what does not come from it is counted, and no more
    assert "XFAIL" not in out and "known defects, as where nothing is broken" in out
