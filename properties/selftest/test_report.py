"""The report: what is read, what is refused, what the page and the summary say."""

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any, Optional
from xml.sax.saxutils import quoteattr

import pytest
import torch

from frostproof.properties.harness.report import grouping, markdown, page
from frostproof.properties.harness.report.__main__ import main
from frostproof.properties.harness.report.drawing import draw
from frostproof.properties.harness.report.record import Entry, Record, Run, UnreadableRecord, read
from frostproof.properties.selftest import ROOT
from frostproof.properties.selftest.made_records import EVIL, junit, record


def test_a_record_is_read(tmp_path: Path) -> None:
    properties = (("examples", "3"), ("law", "F1 F2"), ("torch", "2.13.0"), ("message", EVIL))
    (entry,) = read(junit(tmp_path / "a.xml", properties=properties)).entries
    assert (entry.test, entry.cell, entry.outcome) == ("test_x.py::test_a", "cpu-float32", "broken")
    assert (entry.law, entry.torch, entry.examples, entry.message) == ("F1 F2", "2.13.0", 3, EVIL)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist"),
        ("", "is empty"),
        ("<testsuites><testsuite><testcase", "not whole XML"),
        ("no xml at all", "not whole XML"),
        ("<html><body/></html>", "holds no tests"),
        ("\x89PNG\r\n\x1a\n\x00", "not whole XML"),
        ("<?xml version='1.0' encoding='klingon'?><testsuite/>", "not whole XML"),
        ("<!DOCTYPE a [<!ENTITY b 'bb'>]><testsuite>&c;</testsuite>", "not whole XML"),
        (
            "<testsuite><testcase name='a'><failure>no law</failure></testcase></testsuite>",
            "none of a law",
        ),
        ("<testsuite><testcase name='a'/></testsuite>", "none of a law"),
    ],
)
def test_bad_input_is_named_and_the_rest_is_merged(
    tmp_path: Path, capsys: Any, content: Any, words: str
) -> None:
    bad, good = tmp_path / "bad.xml", junit(tmp_path / "good.xml")
    if content is not None:
        bad.write_text(content)
    with pytest.raises(UnreadableRecord, match=words):
        read(bad)
    output = tmp_path / "report.html"
    assert main([str(bad), str(good), "-o", str(output)]) == 4
    assert f"{bad}: " in capsys.readouterr().err
    assert "test_x.py::test_a" in output.read_text()


def test_an_enormous_file_and_a_folder_are_named_and_the_rest_is_merged(
    tmp_path: Path, capsys: Any
) -> None:
    with open(tmp_path / "huge.xml", "wb") as file:
        file.truncate(10**9)
    (tmp_path / "folder.xml").mkdir()
    good, output = junit(tmp_path / "good.xml"), tmp_path / "report.html"
    files = [str(tmp_path / name) for name in ("huge.xml", "folder.xml")]
    assert main([*files, str(good), "-o", str(output)]) == 4
    said = capsys.readouterr().err
    assert "no record is that large" in said and "is a folder" in said
    assert "test_x.py::test_a" in output.read_text()


def test_an_output_that_cannot_be_written(tmp_path: Path, capsys: Any) -> None:
    good = junit(tmp_path / "good.xml")
    for output in (tmp_path / "absent" / "report.html", tmp_path):
        assert main([str(good), "-o", str(output)]) == 4
        captured = capsys.readouterr()
        assert f"{output}: cannot be written: " in captured.err and not captured.out
    # the other output is still written
    summary = tmp_path / "summary.md"
    assert main([str(good), "-o", str(tmp_path), "--markdown", str(summary)]) == 4
    assert "1 broken" in summary.read_text()


def test_nothing_to_merge(tmp_path: Path, capsys: Any) -> None:
    assert main([]) == 4 and "FILE.xml" in capsys.readouterr().err
    assert main([str(tmp_path / "none.xml"), "-o", str(tmp_path / "r.html")]) == 4
    assert "nothing was written" in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


def test_shards_of_a_law_share_a_cell(tmp_path: Path) -> None:
    def shard(number: int, held: bool) -> str:
        facts = (("examples", "30"), ("law", "F1"), ("torch", "2.13.0"), ("device", "cpu"))
        inner = "".join(f"<property name={quoteattr(k)} value={quoteattr(v)}/>" for k, v in facts)
        inner += '<property name="dtype" value="float32"/>'
        end = "" if held else "<failure message='moved'>moved</failure>"
        return (
            f'<testcase classname="properties.test_x" name="test_a[cpu-float32-shard{number}of3]" '
            f'time="0.5"><properties>{inner}</properties>{end}</testcase>'
        )

    one, two = tmp_path / "one.xml", tmp_path / "two.xml"
    one.write_text(f"<testsuite>{shard(1, True)}{shard(2, False)}</testsuite>")
    two.write_text(f"<testsuite>{shard(3, False)}</testsuite>")
    merged = Record(read(one).entries + read(two).entries)
    assert merged.columns() == [("2.13.0", "cpu", "float32")] and len(merged.rows()) == 1
    text = page.render(merged)
    assert 'title="broken, 3 tests, 90 examples, 1.5 s"' in text and ">✗2</a>" in text
    # a file that is named twice is one run
    output = tmp_path / "r.html"
    assert main([str(one), str(one), str(two), "-o", str(output)]) == 0
    assert "90 examples checked" in output.read_text()


def test_what_a_crash_left_unrecorded_is_broken(tmp_path: Path) -> None:
    facts = (("examples", "30"), ("law", "F1"), ("torch", "2.13.0"), ("device", "cpu"))
    inner = "".join(f"<property name={quoteattr(k)} value={quoteattr(v)}/>" for k, v in facts)
    file = tmp_path / "crash.xml"
    file.write_text(
        '<testsuite><testcase classname="properties.test_x" name="test_a[cpu-float64]">'
        f"<properties>{inner}</properties></testcase>"
        '<testcase classname="properties.test_x" name="test_a[cpu-float32]">'
        "<failure message=\"worker 'gw0' crashed\"/></testcase></testsuite>"
    )
    (lost,) = [entry for entry in read(file).entries if entry.outcome == "broken"]
    assert (lost.law, lost.torch, lost.device, lost.dtype) == ("F1", "2.13.0", "cpu", "float32")
    assert "gw0" in lost.message


def test_columns_are_in_the_order_of_readers() -> None:
    made = record(1, 0, cells=12)
    made.entries += [
        Entry("test_x.py::test_a", "L1", "", "2.0.0", "held"),
        Entry("test_x.py::test_b", "F8", "cpu", "2.0.0", "held", device="cpu"),
        Entry(
            "test_x.py::test_c", "F8", "cpu-float32", "1.13.1", "held", device="cpu", dtype="float32"
        ),
    ]
    columns = made.columns()
    assert columns[0] == ("1.13.1", "cpu", "float32")
    cpu = [dtype for torch, device, dtype in columns[1:] if device == "cpu"]
    assert cpu[:4] == ["float32", "float64", "bfloat16", "float16"] and cpu[-1] == ""
    assert columns[-1] == ("2.0.0", "", "") and columns[-2][1] == "cuda:1"


def test_broken_laws_are_told_once_and_what_explains_comes_first() -> None:
    made = record(30, 30, cells=3)
    assert [len(law) for law in grouping.broken_laws(made.entries)] == [3] * 10
    laws = ("A1", "F3", "M1", "K1", "D4", "F8", "C5", "C1", "D6", "D1", "")
    for law, entry in zip(laws, made.entries[::3]):
        entry.law = law
    shown = [law[0].law for law in grouping.broken_laws(made.entries)]
    assert shown == ["D1", "D6", "C1", "C5", "F8", "D4", "K1", "F3", "M1", "A1"]
    text = page.render(made)
    assert text.count('class="broken"') == 10 and "and 4 more" in text
    assert text.index("✗ D1") < text.index("✗ A1")
    told = markdown.render(made)
    assert told.index("✗ D1") < told.index("✗ A1") and "and in 2 more tests, of cpu-float32" in told


def test_the_page_says_where_its_records_are_from() -> None:
    text = page.render(record(2, 1, versions=2))
    for words in (
        "2026-11-27 04:07 UTC",
        "Linux x86_64, 2 cores",
        "seed 3",
        "record0.xml",
        "record1.xml",
    ):
        assert words in text
    assert "pytest -k &lt;script&gt;" in text
    old = Record(record(2, 1).entries, [Run(torch="2.0.0")])  # of a record that does not say
    assert "<b>torch 2.0.0</b> </li>" in page.render(old)


def test_text_is_escaped_everywhere() -> None:
    made = record(2, 2)
    made.entries[0].test = f"test_x.py::test_{EVIL}"
    made.entries[0].network = {
        "inputs": EVIL,
        "layers": [{"width": EVIL, "activation": EVIL}],
        "cuts": [],
    }
    made.entries[0].torch = EVIL
    text = page.render(made)
    assert "<script>document" not in text and text.count("<script>") == 1
    assert "<script>" not in draw(made.entries[0].network)
    assert draw({"layers": "x"}) == draw(None) == ""


def test_the_page_is_small_and_whole() -> None:
    text = page.render(record(250, 200, versions=4, cells=5))
    assert text.count("<td") - 2 * text.count("<tr data-t") == 5000
    assert len(text.encode()) < 2_000_000
    assert not re.search(r"(src|href)=\"?https?:", text)
    assert "every law held" in page.render(record(2, 0)) and "nothing was run" in page.render(Record())


def test_markdown_counts_and_fences() -> None:
    made = record(3, 1)
    made.entries[0].message = "a ``` fence"
    text = markdown.render(made)
    assert "| 2.0.0 | cpu-float32 | 1 | 1 | 1 | 0 |" in text and "````\na ``` fence\n````" in text


def run_laws(
    *arguments: str, fault: str = "", summary: Optional[Path] = None
) -> "subprocess.CompletedProcess[str]":
    """pytest on some laws, under a fault, with two workers."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2"]
    command += ["--hypothesis-profile=quick"]
    if not any(argument.startswith("--recipe") for argument in arguments):
        command += ["--device=cpu"]  # which a recipe refuses: it has its own
    if fault:
        command += ["-p", "frostproof.properties.selftest.faults.plugin"]
    environment = {**os.environ, "FROSTPROOF_FAULT": fault, "GITHUB_STEP_SUMMARY": ""}
    if summary is not None:
        environment["GITHUB_STEP_SUMMARY"] = str(summary)
    return subprocess.run(
        [*command, *arguments],
        cwd=str(ROOT),
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_run_that_held_and_outputs_that_cannot_be_written(tmp_path: Path) -> None:
    xml = tmp_path / "r.xml"
    lost = tmp_path / "absent" / "summary.md"
    result = run_laws("properties/test_lambda.py", f"--junit-xml={xml}", summary=lost)
    assert result.returncode == 0, result.stdout
    assert f"GITHUB_STEP_SUMMARY {lost}: cannot be written: No such file" in result.stdout
    assert {entry.law for entry in read(xml).entries} == {"L1", "L2"}
    result = run_laws("properties/test_lambda.py", f"--report={tmp_path / 'absent' / 'r.html'}")
    assert result.returncode == 4 and "a folder that exists" in result.stdout + result.stderr
    # a page that only fails at the end
    result = run_laws("properties/test_lambda.py", "--report=/dev/full")
    assert result.returncode == 4 and "--report /dev/full: cannot be written: No space" in result.stdout


def test_a_broken_run_is_recorded(tmp_path: Path) -> None:
    page_file, xml, summary = (tmp_path / name for name in ("r.html", "r.xml", "summary.md"))
    result = run_laws(
        "properties/test_article.py",
        "--dtype=float32",
        f"--report={page_file}",
        f"--junit-xml={xml}",
        f"--reproducers={tmp_path / 'programs'}",
        fault="clone_doubles_gradients",
        summary=summary,
    )
    assert result.returncode == 1, result.stdout
    cases = list(ElementTree.parse(xml).iter("testcase"))
    broken = 0
    for case in cases:
        facts = {str(p.get("name")): str(p.get("value")) for p in case.iter("property")}
        assert re.match(r"A\d", facts["law"]) and facts["sentence"].startswith(facts["law"][:2])
        assert facts["torch"] == str(torch.__version__)
        assert int(facts["examples"]) >= 1 and 0 <= float(facts["seconds"]) < 60
        if "device" in facts:  # the examples of lambda need none
            assert (facts["device"], facts["dtype"]) == ("cpu", "float32")
        failed = case.find("failure") is not None
        assert ("reproducer" in facts) == ("message" in facts) == failed
        if failed:
            broken += 1
            assert "sys.exit(" in facts["reproducer"] and facts["message"].startswith("expected  A")
            assert facts["message"].split("program")[1].strip() in result.stdout
    assert broken and len(cases) == 8
    verdict = f"broken, in {page.counted(broken, 'test')}"
    assert verdict in page_file.read_text() and verdict in summary.read_text()
    assert "sys.exit(" in summary.read_text() and {e.outcome for e in read(xml).entries} == {
        "held",
        "broken",
    }
    # and the record alone gives the same page, and says where it is from
    (run,) = read(xml).runs
    assert (run.name, run.torch) == ("r.xml", str(torch.__version__))
    assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d UTC", run.date) and run.seed.endswith(
        "profile quick"
    )
    assert f"--junit-xml={xml}" in run.command and "cores" in run.machine
    assert run.command.split("=")[0] in page_file.read_text()
    assert main([str(xml), "-o", str(tmp_path / "merged.html")]) == 0
    assert verdict in (tmp_path / "merged.html").read_text()


TRAP = """
import torch

def factory():
    net = torch.nn.Linear(2, 2)
    net.register_parameter("<script>alert(1)</script>", torch.nn.Parameter(torch.ones(2)))
    frozen = dict(net.named_parameters())["<script>alert(1)</script>"].requires_grad_(False)

    def step():
        with torch.no_grad():
            frozen.add_(1)
    return net, step
"""


def test_a_script_as_a_parameters_name(tmp_path: Path) -> None:
    (tmp_path / "trap.py").write_text(TRAP)
    page_file, xml, summary = (tmp_path / name for name in ("r.html", "r.xml", "summary.md"))
    result = run_laws(
        f"--recipe={tmp_path / 'trap.py'}:factory",
        f"--report={page_file}",
        f"--junit-xml={xml}",
        summary=summary,
    )
    assert result.returncode == 1, result.stdout
    trap = "<script>alert(1)</script>"
    assert trap in result.stdout
    assert any(trap in entry.message for entry in read(xml).entries) and trap not in xml.read_text()
    text = page_file.read_text()
    assert trap not in text and "&lt;script&gt;alert(1)" in text and text.count("<script>") == 1
    outside = "".join(re.split(r"(?s)```.*?```", summary.read_text()))  # of code blocks
    assert trap in summary.read_text() and "<script" not in outside
