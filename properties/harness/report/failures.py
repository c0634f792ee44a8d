"""Failures that are one: a law's cells are one entry, and what explains the others comes first.

pytest prints a failure for each test. A broken operation breaks a law in every dtype, and
after it every law that uses it: of these the laws of single operations come first, a law is
told once with its cells and one program, and the many that follow from it are told briefly.
Where something is broken, known defects are only counted.
"""

import copy
from typing import Any, Dict, Generator, List, Tuple

import pytest

from frostproof.properties.harness.core.shards import whole
from frostproof.properties.harness.report.grouping import part, place, sentence

ALL = "frostproof_reports"  # where the terminal keeps what was not grouped
FULL = 6  # entries that are told with message and program
MOST = 25  # entries
SEEN = 3  # lines of what was seen, in a brief entry
LISTED = 15  # laws beyond MOST, by name
OTHERS = 3  # other sentences of one law


def _facts(report: Any) -> Dict[str, str]:
    return dict(getattr(report, "user_properties", ()))


def groups(reports: List[Any]) -> List[List[Any]]:
    """The reports of one law together, the most basic law first.

    What is no law's (a worker that died, a fixture) stands alone, before all others.
    """
    found: Dict[Tuple[str, ...], List[Any]] = {}
    for report in reports:
        facts = _facts(report)
        if facts.get("law") and facts.get("message"):
            key: Tuple[str, ...] = (whole(report.nodeid).partition("[")[0],)
        else:
            key = (report.nodeid, getattr(report, "when", ""))
        found.setdefault(key, []).append(report)
    return sorted(found.values(), key=lambda some: place(_facts(some[0]).get("law", "")))


def _by_sentence(group: List[Any]) -> List[List[Any]]:
    """The reports of a law, those in which the same was seen together."""
    found: Dict[str, List[Any]] = {}
    for report in group:
        found.setdefault(sentence(_facts(report).get("message", "")), []).append(report)
    return list(found.values())


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


def _counted(group: List[Any]) -> List[str]:
    """Lines of a group's cells, and of what else was seen in some of them."""
    same, *others = _by_sentence(group)
    lines = [f"cells     {len(same)} of {len(group)} tests: {cells(same)}"] if others else []
    if not others and len(group) > 1:
        lines = [f"cells     {len(group)} tests: {cells(group)}"]
    for other in others[:OTHERS]:
        seen = part(_facts(other[0])["message"], "seen")[:1]
        lines += [f"also      {line[10:]}" for line in seen]
        lines.append(f"          in {len(other)}: {cells(other)}")
    if len(others) > OTHERS:
        lines.append(f"also      {len(others) - OTHERS} other sentences: -vv shows each test")
    return lines


def _in_full(group: List[Any]) -> Any:
    """The first report of a group, with the cells of all of them."""
    first = group[0]
    if len(group) == 1:
        return first
    text = _facts(first)["message"].split("\n")
    at = next((at for at, line in enumerate(text) if line.startswith("rerun ")), len(text))
    return _with_text(first, "\n".join([*text[:at], *_counted(group), *text[at:]]), first.sections)


def _in_brief(group: List[Any]) -> Any:
    """The first report of a group in a few lines: it probably follows from what is told before."""
    first = group[0]
    facts = _facts(first)
    if not facts.get("law") or not facts.get("message"):
        return first
    seen = part(facts["message"], "seen")
    more = [f"{'':<10}..."] if len(seen) > SEEN else []
    kept = [
        line
        for line in facts["message"].split("\n")
        if line.startswith(("expected", "rerun", "program"))
    ]
    lines = [*kept[:1], *seen[:SEEN], *more, *_counted(group), *kept[1:]]
    return _with_text(first, "\n".join(lines), [])


def _rest(found: List[List[Any]]) -> Any:
    """One entry for laws beyond MOST."""
    laws = [
        f"{_facts(group[0]).get('law', '?')} {group[0].nodeid.partition('[')[0]}" for group in found
    ]
    if len(laws) > LISTED:
        laws[LISTED:] = [f"and {len(laws) - LISTED} others: -vv or --report tells all"]
    lines = [f"and {len(found)} more laws are broken, probably by the same:"]
    text = "\n".join([*lines, *(f"{'':<10}{law}" for law in laws)])
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
        defects = known(kept.get("xfailed", []))
        if defects:
            stats["xfailed"] = [] if "failed" in kept else defects
        try:
            return (yield)
        finally:
            stats.update(kept)
            delattr(terminalreporter, ALL)
            if defects and "failed" in kept:
                terminalreporter.write_line(
                    f"{len(kept['xfailed'])} tests show {len(defects)} known defects, as where "
                    "nothing is broken: -vv or --report lists them"
                )


def reports_of(terminal: Any, outcome: str) -> List[Any]:
    """All reports of an outcome, whatever the terminal shows of them."""
    kept: Dict[str, List[Any]] = getattr(terminal, ALL, {})
    found: List[Any] = kept.get(outcome, terminal.stats.get(outcome, []))
    return found
