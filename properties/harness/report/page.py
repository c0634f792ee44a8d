"""One self-contained HTML page of a record: the grid, and what broke."""

from collections import defaultdict
from itertools import groupby
from pathlib import Path
from typing import Any, Dict, List, Tuple

from properties.harness.report.drawing import draw
from properties.harness.report.record import Entry, Record, cell_of, worst

SYMBOLS = {
    "held": ("h", "✓"),
    "broken": ("b", "✗"),
    "known": ("k", "!"),
    "skipped": ("s", "\N{EN DASH}"),
}


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
    return jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)


def verdict(record: Record) -> str:
    """The run in one line."""
    broken = record.count("broken")
    if broken:
        return f"{broken} broken"
    return "every law held" if record.entries else "nothing was run"


def totals(record: Record) -> str:
    """Counts and times."""
    examples = sum(entry.examples for entry in record.entries)
    seconds = sum(entry.seconds for entry in record.entries)
    counts = ", ".join(
        f"{record.count(outcome)} {name}"
        for outcome, name in (
            ("held", "held"),
            ("broken", "broken"),
            ("known", "known defects"),
            ("skipped", "skipped"),
        )
    )
    return f"{counts}; {examples:,} examples checked, {seconds:,.0f} s of work"


def render(record: Record) -> str:
    """The page. Raises MissingLibrary."""
    env = environment()
    from markupsafe import Markup

    columns = record.columns()
    by_place: Dict[Tuple[str, str, str], List[Entry]] = defaultdict(list)
    for entry in record.entries:
        by_place[entry.test, entry.torch, cell_of(entry)].append(entry)
    broken = [entry for entry in record.entries if entry.outcome == "broken"]
    number = {id(entry): index for index, entry in enumerate(broken)}
    rows = []
    for test, law, sentence in record.rows():
        cells = []
        for version, cell in columns:
            entries = by_place.get((test, version, cell))
            if not entries:
                cells.append(Markup("<td class=n>·</td>"))
                continue
            kind, symbol = SYMBOLS[worst(entries)]
            shown = Markup("{}").format(symbol)
            if kind == "b":
                first = next(number[id(entry)] for entry in entries if entry.outcome == "broken")
                shown = Markup('<a href="#d{}" aria-label="broken: details">{}</a>').format(
                    first, symbol
                )
            cells.append(Markup("<td class={}>{}</td>").format(kind, shown))
        file, _, name = test.partition("::")
        text = " ".join([law, test, sentence]).lower()
        rows.append(
            {
                "law": law.split(" ")[0],
                "name": f"{file[5:-3]} {name[5:]}",
                "sentence": sentence,
                "cells": cells,
                "text": text,
            }
        )
    spans = [(version, len(list(group))) for version, group in groupby(columns, key=lambda c: c[0])]
    template = env.from_string((Path(__file__).parent / "page.html.j2").read_text(encoding="utf-8"))
    items = [{**vars(entry), "drawing": Markup(draw(entry.network))} for entry in broken]
    page: str = template.render(
        verdict=verdict(record),
        totals=totals(record),
        versions=[version for version, _ in spans],
        version_spans=spans,
        columns=columns,
        rows=rows,
        broken=items,
        known=[entry for entry in record.entries if entry.outcome == "known"],
    )
    return page
