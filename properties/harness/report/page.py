"""One self-contained HTML page of a record: the grid, and what broke."""

from collections import defaultdict
from itertools import groupby
from pathlib import Path
from typing import Any, Dict, List, Tuple

from frostproof.properties.harness.report.drawing import draw
from frostproof.properties.harness.report.record import Entry, Record, cell_of, worst

SYMBOLS = {
    "held": ("h", "✓"),
    "broken": ("b", "✗"),
    "known": ("k", "!"),
    "skipped": ("s", "\N{EN DASH}"),
    "not offered": ("o", "\N{EMPTY SET}"),
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
            ("not offered", "not offered"),
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
    first: Dict[int, int] = {}  # of the broken entries that share a cell, where its link leads
    rows = []
    for test, law, sentence in record.rows():
        cells, own = [], []
        for version, cell in columns:
            entries = by_place.get((test, version, cell), [])
            own += entries
            if not entries:
                cells.append(Markup("<td class=n>·</td>"))
                continue
            outcome = worst(entries)
            kind, symbol = SYMBOLS[outcome]
            shown = Markup("{}").format(symbol)
            here = [number[id(entry)] for entry in entries if entry.outcome == "broken"]
            first.update(dict.fromkeys(here, here[0] if here else 0))
            if here:
                shown = Markup('<a href="#d{}" aria-label="broken: details">{}</a>').format(
                    here[0], symbol if len(here) == 1 else f"{symbol}{len(here)}"
                )
            cells.append(
                Markup('<td class={} title="{}">{}</td>').format(kind, told(outcome, entries), shown)
            )
        file, _, name = test.partition("::")
        rows.append(
            {
                "law": law.split(" ")[0],
                "name": f"{file[5:-3]}: {name[5:]}".replace("_", " "),
                "sentence": sentence,
                "cells": cells,
                "text": " ".join([law, test, sentence]).lower(),
                "examples": f"{sum(entry.examples for entry in own):,}",
                "seconds": f"{sum(entry.seconds for entry in own):,.1f}",
            }
        )
    spans = [(version, len(list(group))) for version, group in groupby(columns, key=lambda c: c[0])]
    template = env.from_string((Path(__file__).parent / "page.html.j2").read_text(encoding="utf-8"))
    items = [
        {
            **vars(entry),
            "drawing": Markup(draw(entry.network)),
            "from": first[index],
            "text": " ".join([entry.law, entry.test, entry.sentence]).lower(),
            "column": cell_of(entry),
        }
        for index, entry in enumerate(broken)
    ]
    page: str = template.render(
        verdict=verdict(record),
        totals=totals(record),
        versions=[version for version, _ in spans],
        version_spans=spans,
        columns=columns,
        rows=rows,
        broken=items,
        known=known_defects(record),
    )
    return page


def told(outcome: str, entries: List[Entry]) -> str:
    """What a cell says when it is pointed at."""
    examples = sum(entry.examples for entry in entries)
    seconds = sum(entry.seconds for entry in entries)
    tests = f", {len(entries)} tests" if len(entries) > 1 else ""
    reasons = dict.fromkeys(entry.message for entry in entries if entry.outcome == "not offered")
    why = "".join(f"; {reason}" for reason in reasons)
    return f"{outcome}{tests}, {examples:,} examples, {seconds:,.1f} s{why}"


def known_defects(record: Record) -> List[Tuple[str, str, str, str]]:
    """(law, test, what is known, where) of each known defect once, with all its cells."""
    found: Dict[Tuple[str, str, str], List[str]] = defaultdict(list)
    for entry in record.entries:
        if entry.outcome == "known":
            sentence = entry.message.partition("known defect: ")[2] or entry.message
            place = f"{cell_of(entry)} on torch {entry.torch}"
            found[entry.law, entry.test, sentence].append(place)
    return [(*key, ", ".join(dict.fromkeys(places))) for key, places in found.items()]
