"""One self-contained HTML page of a record: what broke, the grid, where it comes from."""

import re
from collections import defaultdict
from itertools import groupby
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

from frostproof.properties.harness.report.drawing import draw
from frostproof.properties.harness.report.grouping import broken_laws, part
from frostproof.properties.harness.report.record import (
    Entry,
    Record,
    cell_of,
    column_of,
    worst,
)

SYMBOLS = {
    "held": ("h", "✓"),
    "broken": ("b", "✗"),
    "known": ("k", "!"),
    "skipped": ("s", "\N{EN DASH}"),
    "not offered": ("o", "\N{EMPTY SET}"),
}
FIRST_LAWS = 6  # broken laws that are listed at once: the others probably follow from them


class MissingLibrary(RuntimeError):
    """Jinja2 is not installed; the message says how to get it."""


def environment() -> Any:
    """Jinja2's, escaping everything. Raises MissingLibrary."""
    try:
        import jinja2
    except ImportError:
        raise MissingLibrary(
            "the page needs Jinja2: python -m pip install jinja2 (or frostproof[report])"
        ) from None
    return jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )


def counted(number: int, thing: str) -> str:
    """A number of things in words."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def verdict(record: Record) -> str:
    """The run in one line."""
    broken = record.count("broken")
    if broken:
        laws = len({entry.test for entry in record.entries if entry.outcome == "broken"})
        return f"{counted(laws, 'law')} broken, in {counted(broken, 'test')}"
    return "every law held" if record.entries else "nothing was run"


def totals(record: Record) -> str:
    """Counts and times."""
    examples = sum(entry.examples for entry in record.entries)
    seconds = sum(entry.seconds for entry in record.entries)
    counts = ", ".join(
        f"{record.count(outcome):,} {name}"
        for outcome, name in (
            ("held", "held"),
            ("broken", "broken"),
            ("known", "known defects"),
            ("not offered", "not offered"),
            ("skipped", "skipped"),
        )
    )
    return f"{counts}; {examples:,} examples checked, {seconds:,.0f} s of work"


def named(test: str) -> Tuple[str, str]:
    """(the law in words, its file) of a test."""
    file, _, name = test.partition("::")
    return name[5:].replace("_", " ") or test, file[5:-3].replace("_", " ")


def render(record: Record) -> str:
    """The page. Raises MissingLibrary."""
    template = environment().from_string(
        (Path(__file__).parent / "page.html.j2").read_text(encoding="utf-8")
    )
    columns = record.columns()
    laws = broken_laws(record.entries)
    number: Dict[int, int] = {}  # of broken entries, in the order in which they are listed
    for law in laws:
        for entry in law:
            number[id(entry)] = len(number)
    rows = _rows(record, columns, laws, number)
    several = len({torch for torch, _, _ in columns}) > 1
    items = [_broken(law, number, several) for law in laws]
    page: str = template.render(
        verdict=verdict(record),
        totals=totals(record),
        runs=[vars(run) for run in record.runs],
        versions=list(dict.fromkeys(torch for torch, _, _ in columns)),
        torch_spans=_spans(columns, 1),
        device_spans=_spans(columns, 2),
        columns=[(*column, edge) for column, edge in zip(columns, _edges(columns))],
        rows=rows,
        first=items[:FIRST_LAWS],
        more=items[FIRST_LAWS:],
        known=known_defects(record),
    )
    return page


def _spans(columns: Sequence[Tuple[str, str, str]], parts: int) -> List[Tuple[Any, ...]]:
    """(torch, device, columns) of each run of columns that share their first parts."""
    groups = (list(group) for _, group in groupby(columns, key=lambda column: column[:parts]))
    return [(group[0][0], group[0][1], len(group)) for group in groups]


def _edges(columns: Sequence[Tuple[str, str, str]]) -> List[str]:
    """The class of each column: " v" where a torch begins, " d" where a device does."""
    edges, last = [], ("", "")
    for torch, device, _ in columns:
        edges.append(" v" if torch != last[0] else " d" if device != last[1] else "")
        last = torch, device
    return edges


def _rows(
    record: Record,
    columns: Sequence[Tuple[str, str, str]],
    laws: List[List[Entry]],
    number: Dict[int, int],
) -> List[Dict[str, Any]]:
    """The rows of the grid: broken laws as they are listed, then by file."""
    from markupsafe import Markup

    by_place: Dict[Tuple[str, ...], List[Entry]] = defaultdict(list)
    for entry in record.entries:
        by_place[(entry.test, *column_of(entry))].append(entry)
    rank = {law[0].test: index for index, law in enumerate(laws)}
    rows = []
    for test, law, sentence in sorted(record.rows(), key=lambda row: rank.get(row[0], len(rank))):
        cells, own = [], []
        for column, edge in zip(columns, _edges(columns)):
            entries = by_place.get((test, *column), [])
            own += entries
            if not entries:
                cells.append(Markup('<td class="n{}">·</td>').format(edge))
                continue
            outcome = worst(entries)
            kind, symbol = SYMBOLS[outcome]
            shown = Markup("{}").format(symbol)
            here = [number[id(entry)] for entry in entries if entry.outcome == "broken"]
            if here:
                shown = Markup('<a href="#d{}" aria-label="broken: details">{}</a>').format(
                    here[0], symbol if len(here) == 1 else f"{symbol}{len(here)}"
                )
            cells.append(
                Markup('<td class="{}{}" title="{}">{}</td>').format(
                    kind, edge, told(outcome, entries), shown
                )
            )
        name, file = named(test)
        rows.append(
            {
                "law": law.split(" ")[0],
                "name": name,
                "file": file,
                "sentence": without_ids(sentence),
                "cells": cells,
                "text": " ".join([law, test, sentence]).lower(),
                "examples": f"{sum(entry.examples for entry in own):,}",
                "seconds": f"{sum(entry.seconds for entry in own):,.1f}",
            }
        )
    return rows


def _where(law: List[Entry], several: bool) -> str:
    """The cells of a broken law in short: devices, the first dtypes, and of several torches which."""
    devices: Dict[str, List[str]] = {}
    for entry in law:
        dtypes = devices.setdefault(entry.device, [])
        if entry.dtype not in dtypes:
            dtypes.append(entry.dtype)
    parts = []
    for device, dtypes in devices.items():
        shown = ", ".join(dtypes[:3]) + (f" and {len(dtypes) - 3} more" if len(dtypes) > 3 else "")
        parts.append(f"{device} {shown}".strip())
    versions = ", ".join(dict.fromkeys(entry.torch for entry in law))
    return "; ".join(filter(None, [*parts, f"torch {versions}" if several else ""]))


def _broken(law: List[Entry], number: Dict[int, int], several: bool) -> Dict[str, Any]:
    """A broken law, with each of its tests that broke."""
    from markupsafe import Markup

    name, file = named(law[0].test)
    return {
        "law": law[0].law.split(" ")[0],
        "name": name,
        "file": file,
        "sentence": without_ids(law[0].sentence),
        "where": _where(law, several),
        "text": " ".join([law[0].law, law[0].test, law[0].sentence]).lower(),
        "tests": [
            {
                **vars(entry),
                "number": number[id(entry)],
                "drawing": Markup(draw(entry.network)),
                "seen": " ".join(" ".join(part(entry.message, "seen")).split()[1:])
                or entry.message.split("\n")[0],
            }
            for entry in law
        ],
    }


def without_ids(sentence: str) -> str:
    """A law's sentence without the ids that it begins with: they are told beside it."""
    return re.sub(r"^[A-Z]\d[A-Z\d ,]*: ", "", sentence)


def told(outcome: str, entries: List[Entry]) -> str:
    """What a cell says when it is pointed at."""
    examples = sum(entry.examples for entry in entries)
    seconds = sum(entry.seconds for entry in entries)
    tests = f", {len(entries)} tests" if len(entries) > 1 else ""
    reasons = dict.fromkeys(entry.message for entry in entries if entry.outcome == "not offered")
    why = "".join(f"; {reason}" for reason in reasons)
    return f"{outcome}{tests}, {examples:,} examples, {seconds:,.1f} s{why}"


def known_defects(record: Record) -> List[Dict[str, Any]]:
    """Each known defect of a law once, with all its cells by torch."""
    found: Dict[Tuple[str, str, str], Dict[str, List[str]]] = defaultdict(lambda: defaultdict(list))
    for entry in record.entries:
        if entry.outcome == "known":
            sentence = entry.message.partition("known defect: ")[2] or entry.message
            found[entry.law, entry.test, sentence][entry.torch].append(cell_of(entry))
    return [
        {
            "law": law.split(" ")[0],
            "name": named(test)[0],
            "sentence": sentence,
            "where": [(torch, ", ".join(dict.fromkeys(cells))) for torch, cells in places.items()],
        }
        for (law, test, sentence), places in found.items()
    ]
