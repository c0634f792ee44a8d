"""Failures that are one: a law's cells with one sentence are one entry, and what explains comes first.

pytest prints a failure for each test. A broken operation breaks a law in every dtype, and
after it every law that uses it: of these the laws of single operations come first, a law is
told once with its cells and one program, and the many that follow from it are told briefly.
"""

import copy
import re
from typing import Any, Dict, Generator, List, Tuple

import pytest

from frostproof.properties.harness.session.shards import whole

ALL = "frostproof_reports"  # where the terminal keeps what was not grouped
FULL = 6  # entries that are told with message and program
MOST = 25  # entries
BEGINNING = 4  # words of a sentence: values follow
SEEN = 3  # lines of what was seen, in a brief entry
# laws by what they take for granted: one that breaks explains those after it
BASIC = (
    ("D1", "D2", "D5", "D6", "D7", "D8", "D9"),
    ("C1", "C2", "C5"),
    ("F5", "F8"),
    ("D4", "C3", "F2", "G", "O", "K"),
    ("F3", "M"),
)


def place(ident: str) -> Tuple[int, int]:
    """Where a law stands, by the first of its ids: smaller is more basic."""
    if not ident:
        return -1, 0
    first = ident.split(" ")[0]
    for number, group in enumerate(BASIC):
        for inner, beginning in enumerate(group):
            if first == beginning or (len(beginning) == 1 and first.startswith(beginning)):
                return number, inner
    return len(BASIC), 0


def _seen(text: str) -> str:
    """What was seen, of a law's message."""
    lines: List[str] = []
    for line in text.split("\n"):
        if lines and not line.startswith(" "):
            break
        if lines or line.startswith("seen"):
            lines.append(line)
    return "\n".join(lines)


def sentence(text: str) -> str:
    """What was seen, without what differs between cells: numbers, dtypes, devices."""
    words = re.sub(r"torch\.\w+|\b(cpu|cuda|mps|xpu|meta)(:\d+)?\b", "", _seen(text))
    words = re.sub(r"\b(b?float|bf|c?double|u?int|complex|half|bool|q?u?int)\d*\w*\b", "", words)
    return " ".join(re.sub(r"[^a-zA-Z ]+", " ", words).split()[:BEGINNING])


def _facts(report: Any) -> Dict[str, str]:
    return dict(getattr(report, "user_properties", ()))


def groups(reports: List[Any]) -> List[List[Any]]:
    """The reports of one law with one sentence together, the most basic law first.

    Where that leaves more than MOST, all of a law's reports are together. What is no law's
    stands alone, before all others.
    """
    for by_sentence in (True, False):
        found: Dict[Tuple[str, ...], List[Any]] = {}
        for report in reports:
            facts = _facts(report)
            if facts.get("law") and facts.get("message"):
                test = whole(report.nodeid).partition("[")[0]
                key: Tuple[str, ...] = (test, sentence(facts["message"]) if by_sentence else "")
            else:
                key = ("", report.nodeid, getattr(report, "when", ""))
            found.setdefault(key, []).append(report)
        if len(found) <= MOST:
            break
    ranked = sorted(
        found.values(),
        key=lambda some: place(_facts(some[0])["law"]) if "law" in _facts(some[0]) else (-1, 0),
    )
    return ranked


def cells(reports: List[Any]) -> str:
    """The cells of a group in words."""
    names = []
    for report in reports:
        facts = _facts(report)
        cell = "-".join(facts[key] for key in ("device", "dtype") if facts.get(key))
        names.append(cell or "without a dtype")
    names = list(dict.fromkeys(names))
    shown = ", ".join(names[:8])
    return shown if len(names) <= 8 else f"{shown} and {len(names) - 8} more"


def _with_text(report: Any, text: str, sections: List[Any]) -> Any:
    """A copy of a report with another text; its line in the short summary stays."""
    changed = copy.copy(report)
    longrepr = copy.copy(report.longrepr)
    entry = getattr(getattr(longrepr, "reprtraceback", None), "reprentries", None)
    if entry:
        longrepr.reprtraceback = copy.copy(longrepr.reprtraceback)
        first = copy.copy(entry[0])
        first.lines = [f"{text}\n"]
        longrepr.reprtraceback.reprentries = [first]
        changed.longrepr = longrepr
    else:
        changed.longrepr = text
    changed.sections = sections
    return changed


def _in_full(group: List[Any]) -> Any:
    """The first report of a group, with the cells of all of them."""
    first = group[0]
    if len(group) == 1:
        return first
    text = _facts(first)["message"]
    line = f"cells     {len(group)} tests: {cells(group)}\n"
    at = text.find("rerun ")
    text = f"{text[:at]}{line}{text[at:]}" if at >= 0 else f"{text}\n{line.rstrip()}"
    return _with_text(first, text, first.sections)


def _in_brief(group: List[Any]) -> Any:
    """The first report of a group in a few lines: it probably follows from what is told before."""
    first = group[0]
    facts = _facts(first)
    if not facts.get("law") or not facts.get("message"):
        return first
    seen = _seen(facts["message"]).split("\n")
    more = [f"{'':<10}..."] if len(seen) > SEEN else []
    kept = [
        line
        for line in facts["message"].split("\n")
        if line.startswith(("expected", "rerun", "program"))
    ]
    lines = [*kept[:1], *seen[:SEEN], *more, f"cells     {len(group)}: {cells(group)}", *kept[1:]]
    return _with_text(first, "\n".join(lines), [])


def _rest(found: List[List[Any]]) -> Any:
    """One entry for laws beyond MOST."""
    laws = [
        f"{_facts(group[0]).get('law', '?')} {group[0].nodeid.partition('[')[0]}" for group in found
    ]
    text = f"and {len(found)} more laws are broken, probably by the same:\n" + "\n".join(
        f"{'':<10}{law}" for law in laws[:40]
    )
    return _with_text(found[0][0], text, [])


def shown(reports: List[Any]) -> List[Any]:
    """What is printed of failures."""
    found = groups(reports)
    if len(found) == len(reports) and len(found) <= FULL:
        return [group[0] for group in found]
    entries = [_in_full(group) for group in found[:FULL]]
    entries += [_in_brief(group) for group in found[FULL : MOST - 1]]
    rest = found[MOST - 1 :]
    if len(rest) == 1:
        entries.append(_in_brief(rest[0]))
    elif rest:
        entries.append(_rest(rest))
    return entries


def known(reports: List[Any]) -> List[Any]:
    """What is printed of known defects: each sentence of a law once, with the number of its cells."""
    found: Dict[Tuple[str, str], List[Any]] = {}
    for report in reports:
        test = whole(report.nodeid).partition("[")[0]
        found.setdefault((test, getattr(report, "wasxfail", "")), []).append(report)
    entries = []
    for (_, reason), group in found.items():
        first = copy.copy(group[0])
        first.wasxfail = f"{reason} ({len(group)} tests)" if len(group) > 1 else reason
        entries.append(first)
    return entries


class Grouping:
    """Groups what the terminal prints of failures; all else sees them all."""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: Any, config: Any) -> Generator[None, Any, Any]:
        """Round pytest's own summaries."""
        stats = terminalreporter.stats
        kept = {name: stats[name] for name in ("failed", "xfailed") if name in stats}
        if config.getoption("verbose") > 1 or config.getoption("--full-trace"):
            return (yield)
        setattr(terminalreporter, ALL, kept)
        if "failed" in kept:
            stats["failed"] = shown(kept["failed"])
        if "xfailed" in kept:
            stats["xfailed"] = known(kept["xfailed"])
        try:
            return (yield)
        finally:
            stats.update(kept)
            delattr(terminalreporter, ALL)


def reports_of(terminal: Any, outcome: str) -> List[Any]:
    """All reports of an outcome, whatever the terminal shows of them."""
    kept: Dict[str, List[Any]] = getattr(terminal, ALL, {})
    found: List[Any] = kept.get(outcome, terminal.stats.get(outcome, []))
    return found
