"""The report: what is read, what is refused, what the page shows and does in a browser."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, List
from xml.sax.saxutils import escape, quoteattr

import pytest

from properties.harness.report import markdown, page
from properties.harness.report.__main__ import main
from properties.harness.report.drawing import draw, network_of
from properties.harness.report.record import Entry, Record, UnreadableRecord, read
from strategies import MLP, Cuts, Layer, TrainingRun

ROOT = Path(__file__).resolve().parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
EVIL = "<script>document.title='stolen'</script>&\"'"


def record(laws: int, broken: int, versions: int = 1, cells: int = 3) -> Record:
    """A made-up record with so many broken cells."""
    run = TrainingRun(MLP(3, (Layer(2), Layer(1, skip=0))), ("layers.0.linear.weight",), Cuts((1,)))
    network = network_of([run], "layers.0.linear.weight moved")
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
                        cell=f"cpu-{dtypes[cell % len(dtypes)]}{cell // len(dtypes) or ''}",
                        torch=f"2.{version}.0",
                        outcome="broken" if bad else "known" if law == 1 else "held",
                        sentence=f"F{law}: what must hold.",
                        examples=60,
                        message=f"seen {EVIL} {law}" if bad else "",
                        reproducer="import torch\n" + "x = 1  # " + "y" * 60 + "\n" if bad else "",
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


def test_an_enormous_file_and_a_lost_output(tmp_path: Path, capsys: Any) -> None:
    with open(tmp_path / "huge.xml", "wb") as file:
        file.truncate(10**9)
    with pytest.raises(UnreadableRecord, match="no record is that large"):
        read(tmp_path / "huge.xml")
    good = junit(tmp_path / "good.xml")
    assert main([str(good), "-o", str(tmp_path / "absent" / "report.html")]) == 4
    assert "cannot be written" in capsys.readouterr().err
    assert main([]) == 4


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
    assert text.count("<td") == 5000
    assert len(text.encode()) < 2_000_000
    assert not re.search(r"(src|href)=\"?https?:", text)
    assert "every law held" in page.render(record(2, 0)) and "nothing was run" in page.render(Record())


def test_markdown_counts_and_fences() -> None:
    made = record(3, 1)
    made.entries[0].message = "a ``` fence"
    text = markdown.render(made)
    assert "| 2.0.0 | cpu-float32 | 1 | 1 | 1 | 0 |" in text and "````\na ``` fence\n````" in text


def test_the_page_of_a_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2"]
    command += ["properties/test_lambda.py", "--hypothesis-profile=quick"]
    page_file, xml, summary = (tmp_path / name for name in ("r.html", "r.xml", "summary.md"))
    environment = {**os.environ, "GITHUB_STEP_SUMMARY": str(summary)}
    result = subprocess.run(
        [*command, f"--report={page_file}", f"--junit-xml={xml}"],
        cwd=str(ROOT),
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout
    assert "every law held" in page_file.read_text() and "every law held" in summary.read_text()
    assert {entry.law for entry in read(xml)} == {"L1", "L2"}
    result = subprocess.run(
        [*command, f"--report={tmp_path / 'absent' / 'r.html'}"],
        cwd=str(ROOT),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 4 and "a folder that exists" in result.stdout + result.stderr


def browser() -> str:
    """The first browser found; skips where there is none."""
    found = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if found is None:
        pytest.skip(f"no browser here: none of {', '.join(BROWSERS)} is installed")
    return found


DEED = """
<script>
window.onerror = function (message) { document.body.dataset.error = message; };
window.addEventListener("load", function () {
  var seen = {};
  function shown() {
    return Array.prototype.filter.call(document.querySelectorAll("tbody tr"), function (row) {
      return !row.hidden;
    }).length;
  }
  seen.all = shown();
  var find = document.getElementById("find");
  find.value = "law_1 f1"; find.dispatchEvent(new Event("input")); seen.found = shown();
  find.value = ""; find.dispatchEvent(new Event("input"));
  var show = document.getElementById("show");
  show.value = "b"; show.dispatchEvent(new Event("change")); seen.broken = shown();
  show.value = ""; show.dispatchEvent(new Event("change"));
  var version = document.getElementById("version");
  version.value = version.options[1].value; version.dispatchEvent(new Event("change"));
  seen.columns = document.querySelectorAll("thead tr:last-child th[data-v]:not([hidden])").length;
  seen.cells = document.querySelectorAll("tbody tr:first-child td:not([hidden])").length;
  var link = document.querySelector("td.b a");
  link.focus(); seen.focused = document.activeElement === link; link.click();
  var copied = "";
  Object.defineProperty(navigator, "clipboard", { configurable: true, value: {
    writeText: function (text) { copied = text; return Promise.resolve(); } } });
  setTimeout(function () {
    var details = document.querySelector(link.getAttribute("href"));
    seen.open = details.open; seen.drawn = !!details.querySelector("svg");
    var button = details.querySelector(".copy"); button.click();
    setTimeout(function () {
      seen.copied = copied.indexOf("import torch") === 0; seen.button = button.textContent;
      seen.title = document.title; seen.error = document.body.dataset.error || "";
      var box = document.createElement("pre");
      box.id = "seen"; box.textContent = JSON.stringify(seen); document.body.appendChild(box);
    }, 50);
  }, 100);
});
</script>
"""


def test_filter_details_and_copying_in_a_browser(tmp_path: Path) -> None:
    text = page.render(record(12, 4, versions=2))
    file = tmp_path / "page.html"
    file.write_text(text.replace("</body>", f"{DEED}</body>"), encoding="utf-8")
    command = [browser(), "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=4000"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", file.as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="seen">(.*?)</pre>', result.stdout)
    assert found, result.stdout[-2000:] + result.stderr[-2000:]
    assert json.loads(found.group(1)) == {
        "all": 12,
        "found": 3,
        "broken": 2,
        "columns": 3,
        "cells": 3,
        "focused": True,
        "open": True,
        "drawn": True,
        "copied": True,
        "button": "Copied",
        "title": "Frostproof: 4 broken",
        "error": "",
    }
