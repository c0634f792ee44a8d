"""The report: what is read, what is refused, what the page shows and does in a browser."""

import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, List, Optional
from xml.sax.saxutils import escape, quoteattr

import pytest
import torch

from frostproof.properties.harness.report import markdown, page
from frostproof.properties.harness.report.__main__ import main
from frostproof.properties.harness.report.drawing import draw, network_of
from frostproof.properties.harness.report.record import Entry, Record, UnreadableRecord, read
from frostproof.properties.selftest import ROOT
from frostproof.strategies import MLP, Cuts, Layer, TrainingRun

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
EVIL = "<script>document.title='stolen'</script>&\"'"
KNOWN = "known defect: a step without gradients raises (pytorch/pytorch#1)"
# about as long as real ones
MESSAGE = f"""\
expected  F{{}}: after every step a frozen parameter has its bits, no gradient, no state, its version.
seen      frozen layers.0.linear.weight {EVIL} after step 1 of SGD: element (0, 0): 1.88 became 1.87
example   draw 1: TrainingRun(network=MLP(inputs=1, layers=(Layer(width=1),)), frozen=('0.weight',))
on        cpu, float32; torch 2.13.0+cpu, Hypothesis 6.170.17, Python 3.11.7
rerun     pytest "properties/test_freeze.py::test_frozen_stay[cpu-float32]" --hypothesis-seed=0
program   .frostproof/test_freeze.test_frozen_stay.cpu-float32.py"""
PROGRAM = f"""\
# {EVIL}
import torch
from torch import nn

net = nn.Sequential(nn.Linear(1, 1)).to("cpu", torch.float32)
{"optimizer = torch.optim.SGD(net.parameters(), lr=0.1)  # a line as long as it may be" * 4}
"""


def record(laws: int, broken: int, versions: int = 1, cells: int = 3) -> Record:
    """A made-up record with so many broken cells."""
    run = TrainingRun(MLP(3, (Layer(2), Layer(1, skip=0))), ("layers.0.linear.weight",), Cuts((1,)))
    network = network_of([run], {"layers.0.linear.weight": "moved"})
    entries: List[Entry] = []
    dtypes = ("float32", "float64", "bfloat16", "float16", "complex64", "int8", "bool")
    for version in range(versions):
        for law in range(laws):
            for cell in range(cells):
                bad = len(entries) < broken
                entries.append(
                    Entry(
                        test=f"test_file{law // 10}.py::test_law_{law}",
                        law=f"F{law}",
                        cell=f"cpu-{dtypes[cell % len(dtypes)]}",
                        device=f"cuda:{cell // len(dtypes)}" if cell >= len(dtypes) else "cpu",
                        dtype=dtypes[cell % len(dtypes)],
                        torch=f"2.{version}.0",
                        outcome="broken" if bad else "known" if law == 1 else "held",
                        sentence=f"F{law}: what must hold.",
                        examples=60,
                        seconds=0.31,
                        message=MESSAGE.format(law) if bad else KNOWN if law == 1 else "",
                        reproducer=PROGRAM if bad else "",
                        network=network if bad else None,
                    )
                )
    return Record(entries)


def junit(path: Path, *, properties: Any = (("examples", "3"),)) -> Path:
    inner = "".join(f"<property name={quoteattr(k)} value={quoteattr(v)}/>" for k, v in properties)
    path.write_text(
        f'<testsuites><testsuite name="pytest"><testcase classname="properties.test_x" '
        f'name="test_a[cpu-float32]" time="0.5"><properties>{inner}</properties>'
        f'<failure message="bad">{escape(EVIL)}</failure></testcase></testsuite></testsuites>'
    )
    return path


def test_a_record_is_read(tmp_path: Path) -> None:
    properties = (("examples", "3"), ("law", "F1 F2"), ("torch", "2.13.0"), ("message", EVIL))
    (entry,) = read(junit(tmp_path / "a.xml", properties=properties))
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
    merged = Record(read(one) + read(two))
    assert merged.columns() == [("2.13.0", "cpu-float32")] and len(merged.rows()) == 1
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
    (lost,) = [entry for entry in read(file) if entry.outcome == "broken"]
    assert (lost.law, lost.torch, lost.device, lost.dtype) == ("F1", "2.13.0", "cpu", "float32")
    assert "gw0" in lost.message


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
    assert text.count("<td") - text.count("<td class=t>") == 5000
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
    assert {entry.law for entry in read(xml)} == {"L1", "L2"}
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
    verdict = f"{broken} broken"
    assert verdict in page_file.read_text() and verdict in summary.read_text()
    assert "sys.exit(" in summary.read_text() and {e.outcome for e in read(xml)} == {"held", "broken"}
    # and the record alone gives the same page
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
    assert any(trap in entry.message for entry in read(xml)) and trap not in xml.read_text()
    text = page_file.read_text()
    assert trap not in text and "&lt;script&gt;alert(1)" in text and text.count("<script>") == 1
    outside = "".join(re.split(r"(?s)```.*?```", summary.read_text()))  # of code blocks
    assert trap in summary.read_text() and "<script" not in outside


def browser() -> str:
    """The first browser found; skips where there is none."""
    found = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if found is None:
        pytest.skip(f"no browser here: none of {', '.join(BROWSERS)} is installed")
    return found


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    found = browser()
    library = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: it drives the browser"
    )
    with library.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield running
        running.close()


WIDTHS = {"desktop": (1280, 800), "phone": (390, 844)}


@contextmanager
def opened(chromium: Any, path: Path, text: str, width: str = "desktop") -> Iterator[Any]:
    """The page, open; nothing on the console and nothing asked of a network by its end."""
    path.write_text(text, encoding="utf-8")
    context = chromium.new_context(viewport=dict(zip(("width", "height"), WIDTHS[width])))
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab = context.new_page()
    said: List[str] = []
    asked: List[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda problem: said.append(str(problem)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(path.as_uri())
    yield tab
    assert said == [] and set(asked) == {path.as_uri()}
    context.close()


def rows(tab: Any) -> int:
    return int(tab.locator("tbody tr:visible").count())


def test_filter_and_search_in_a_browser(chromium: Any, tmp_path: Path) -> None:
    with opened(chromium, tmp_path / "p.html", page.render(record(12, 4, versions=2))) as tab:
        assert rows(tab) == 12 and tab.locator("#count").inner_text() == "12 laws"
        tab.fill("#find", "law_1 f1")
        assert rows(tab) == 3 and tab.locator("#count").inner_text() == "3 laws"
        assert tab.locator("details:visible").count() == 1
        tab.fill("#find", "float64 law_2")
        assert rows(tab) == 1 and tab.locator("thead tr:last-child th[data-v]:visible").count() == 2
        tab.fill("#find", "2.1.0 bfloat16")
        assert rows(tab) == 12 and tab.locator("tbody tr:first-child td:visible").count() == 3
        assert tab.locator("details:visible").count() == 0
        tab.fill("#find", "nothing like this")
        assert rows(tab) == 0
        tab.fill("#find", "")
        tab.select_option("#show", "b")
        assert rows(tab) == 2
        tab.select_option("#show", "k")
        assert rows(tab) == 1 and tab.locator("details:visible").count() == 0
        tab.select_option("#show", "")
        tab.select_option("#version", "2.1.0")
        assert tab.locator("thead tr:last-child th[data-v]:visible").count() == 3


def test_the_keyboard_reaches_everything(chromium: Any, tmp_path: Path) -> None:
    with opened(chromium, tmp_path / "p.html", page.render(record(12, 4, versions=2))) as tab:

        def focused() -> str:
            return str(
                tab.evaluate(
                    "(() => { const e = document.activeElement; const d = e.closest('details');"
                    " return (e.id || e.className || e.getAttribute('href') || e.tagName)"
                    " + (d ? ' in ' + d.id : ''); })()"
                )
            )

        order = []
        for _ in range(8):
            tab.keyboard.press("Tab")
            order.append(focused())
        links = ["#d0", "#d1", "#d2", "#d3"]  # row by row, float32 and float64 first
        assert order == ["find", "show", "version", "scroll", *links]
        tab.keyboard.press("Shift+Tab")
        tab.keyboard.press("Enter")  # on the third broken cell
        tab.wait_for_function("document.activeElement.tagName === 'SUMMARY'")
        assert focused() == "SUMMARY in d2" and tab.locator("#d2").evaluate("it => it.open")
        assert tab.locator("#d2 svg").is_visible() and tab.locator("#d2 pre.program").is_visible()
        tab.keyboard.press("Tab")
        assert focused() == "copy in d2"
        tab.keyboard.press("Enter")
        tab.wait_for_function("document.activeElement.textContent === 'Copied'")
        assert tab.evaluate("navigator.clipboard.readText()") == PROGRAM
        tab.keyboard.press("Escape")
        assert focused() == "#d2" and not tab.locator("#d2").evaluate("it => it.open")
        tab.keyboard.press("Enter")  # and it opens again
        tab.wait_for_function("document.querySelector('#d2').open")
        assert tab.title() == "Frostproof: 4 broken"  # no script came in through a message


@pytest.mark.parametrize("width", sorted(WIDTHS))
@pytest.mark.parametrize(("broken", "versions"), [(0, 1), (1, 1), (200, 2), (30, 6)])
def test_nothing_sticks_out(
    chromium: Any, tmp_path: Path, width: str, broken: int, versions: int
) -> None:
    text = page.render(record(40, broken, versions=versions, cells=4))
    with opened(chromium, tmp_path / "p.html", text, width) as tab:
        tab.evaluate("document.querySelectorAll('details').forEach(it => { it.open = true; })")
        assert tab.evaluate("document.documentElement.scrollWidth") <= WIDTHS[width][0]
        assert tab.locator("h1").inner_text() == (
            f"Frostproof: {broken} broken" if broken else "Frostproof: every law held"
        )
        assert tab.locator("td.b a").count() == broken
        for drawing in tab.locator("svg.net").all()[:1]:
            frame = drawing.bounding_box()
            for label in drawing.locator("text").all():
                box = label.bounding_box()
                assert box["x"] >= frame["x"] - 1
                assert box["x"] + box["width"] <= frame["x"] + frame["width"] + 1


def test_5000_cells_open_at_once(chromium: Any, tmp_path: Path) -> None:
    text = page.render(record(250, 200, versions=4, cells=5))
    assert len(text.encode()) < 2_000_000
    with opened(chromium, tmp_path / "p.html", text) as tab:
        timings = []
        for _ in range(3):  # the machine may be busy with other things once
            timings.append(tab.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd"))
            tab.reload()
        assert min(timings) < 2000, timings
        assert tab.locator("td.b").count() == 200
