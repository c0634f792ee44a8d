"""The page in a browser: what it shows first, what stays on screen, what keys and filters do."""

import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, List

import pytest

from frostproof.properties.harness.report import page
from frostproof.properties.selftest.made_records import PROGRAM, record

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


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


WIDTHS = {"desktop": (1400, 900), "phone": (390, 844)}


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
        assert tab.locator("details.broken:visible").count() == 1
        tab.fill("#find", "float64 law_2")
        assert rows(tab) == 1 and tab.locator("th.dtype:visible").count() == 2
        tab.fill("#find", "2.1.0 bfloat16")
        assert rows(tab) == 12 and tab.locator("tbody tr:first-child td:visible").count() == 3
        assert tab.locator("details.broken:visible").count() == 0
        tab.fill("#find", "cuda:1")  # no column's device: a word like any other
        assert rows(tab) == 0
        tab.fill("#find", "nothing like this")
        assert rows(tab) == 0
        tab.fill("#find", "")
        tab.select_option("#show", "b")
        assert rows(tab) == 2
        tab.select_option("#show", "k")
        assert rows(tab) == 1 and tab.locator("details.broken:visible").count() == 0
        tab.select_option("#show", "")
        tab.select_option("#version", "2.1.0")
        assert tab.locator("th.dtype:visible").count() == 3
        assert tab.locator("th.torch:visible").inner_text() == "torch 2.1.0"


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
        for _ in range(11):
            tab.keyboard.press("Tab")
            order.append(focused())
        links = ["#d0", "#d1", "#d2", "#d3"]  # row by row, float32 and float64 first
        runs, laws = ["SUMMARY in "], ["SUMMARY in ", "SUMMARY in "]
        assert order == [*runs, *laws, "find", "show", "version", "scroll", *links]
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
        assert (
            tab.title() == "Frostproof: 2 laws broken, in 4 tests"
        )  # no script came in through a message


@pytest.mark.parametrize("width", sorted(WIDTHS))
@pytest.mark.parametrize(("broken", "versions"), [(0, 1), (1, 1), (200, 2), (30, 6)])
def test_nothing_sticks_out(
    chromium: Any, tmp_path: Path, width: str, broken: int, versions: int
) -> None:
    text = page.render(record(40, broken, versions=versions, cells=4))
    with opened(chromium, tmp_path / "p.html", text, width) as tab:
        tab.evaluate("document.querySelectorAll('details').forEach(it => { it.open = true; })")
        assert tab.evaluate("document.documentElement.scrollWidth") <= WIDTHS[width][0]
        shown = f"in {broken} test" if broken else "Frostproof: every law held"
        assert shown in tab.locator("h1").inner_text()
        assert tab.locator("td.b a").count() == broken
        for drawing in tab.locator("svg.net").all()[:1]:
            frame = drawing.bounding_box()
            for label in drawing.locator("text").all():
                box = label.bounding_box()
                assert box["x"] >= frame["x"] - 1
                assert box["x"] + box["width"] <= frame["x"] + frame["width"] + 1


def inside(box: Any, frame: Any) -> bool:
    """Whether a box is seen whole in a frame."""
    across = frame["x"] - 1 <= box["x"] and box["x"] + box["width"] <= frame["x"] + frame["width"] + 1
    down = frame["y"] - 1 <= box["y"] and box["y"] + box["height"] <= frame["y"] + frame["height"] + 1
    return across and down


@pytest.mark.parametrize("width", sorted(WIDTHS))
def test_torch_and_law_stay_on_screen(chromium: Any, tmp_path: Path, width: str) -> None:
    text = page.render(record(60, 5, versions=6, cells=12))
    with opened(chromium, tmp_path / "p.html", text, width) as tab:
        frame = tab.locator(".scroll")
        frame.evaluate("it => it.scrollIntoView()")
        first = [tab.locator("th.dtype span").nth(at) for at in (0, 1)]
        assert [each.inner_text() for each in first] == ["float32", "float64"]
        assert all(inside(each.bounding_box(), frame.bounding_box()) for each in first)
        # in the middle of the second torch's columns, and far down
        frame.evaluate("it => { it.scrollTop = 500; it.scrollLeft = 14 * 25; }")
        shown = [
            label.inner_text()
            for label in tab.locator("th.torch span").all()
            if inside(label.bounding_box(), frame.bounding_box())
        ]
        corner = tab.locator("thead th.law").bounding_box()
        assert "torch 2.1.0" in shown and inside(corner, frame.bounding_box())


def test_a_link_opens_what_it_is_about(chromium: Any, tmp_path: Path) -> None:
    with opened(chromium, tmp_path / "p.html", page.render(record(40, 120, cells=12))) as tab:
        assert tab.locator("details.broken:visible").count() == page.FIRST_LAWS
        assert tab.locator("#more").is_visible()
        tab.locator("td.b a").last.click()
        tab.wait_for_function("document.querySelector('#d119').open")
        assert tab.locator("#d119 pre.program").is_visible()  # in a law that was folded away
        tab.locator(".runs").first.evaluate("it => { it.parentElement.open = true; }")
        assert "record0.xml" in tab.locator(".runs").first.inner_text()


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
