"""A run in a few lines of Markdown, for GitHub's step summary."""

from collections import defaultdict
from typing import Dict, List, Tuple

from frostproof.properties.harness.report.grouping import broken_laws
from frostproof.properties.harness.report.page import totals, verdict
from frostproof.properties.harness.report.record import OUTCOMES, Record, cell_of, column_of

MOST = 10  # broken laws told in full
LONGEST = 20_000  # characters of one text: GitHub drops a summary of more than 1 MiB


def fenced(text: str) -> str:
    """Text as a code block that it cannot leave."""
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}\n... and {len(text) - LONGEST:,} characters more"
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}\n{text}\n{fence}"


def render(record: Record) -> str:
    """Counts by torch, device and dtype, then what broke: each law once, the basic ones first."""
    counts: Dict[Tuple[str, ...], Dict[str, int]] = defaultdict(lambda: dict.fromkeys(OUTCOMES, 0))
    names: Dict[Tuple[str, ...], str] = {}
    for entry in record.entries:
        counts[column_of(entry)][entry.outcome] += 1
        names[column_of(entry)] = cell_of(entry)
    lines: List[str] = [f"## Frostproof: {verdict(record)}", "", totals(record), ""]
    kinds = ("held", "broken", "known", "not offered", "skipped")
    lines += [f"| torch | device-dtype | {' | '.join(kinds)} |", "|---|---" + "|---" * len(kinds) + "|"]
    for column in record.columns():
        count = counts[column]
        numbers = " | ".join(str(count[kind]) for kind in kinds)
        lines.append(f"| {column[0]} | {names[column]} | {numbers} |")
    broken = broken_laws(record.entries)
    for law in broken[:MOST]:
        entry = law[0]
        lines += ["", f"### ✗ {entry.law} `{entry.test}[{entry.cell}]`", "", fenced(entry.message)]
        if len(law) > 1:
            cells = list(dict.fromkeys(cell_of(each) for each in law))
            lines += ["", f"and in {len(law) - 1} more tests, of {', '.join(cells[:8])}"]
            lines[-1] += " and others" if len(cells) > 8 else ""
        if entry.reproducer:
            lines += [
                "",
                "<details><summary>program</summary>",
                "",
                fenced(entry.reproducer),
                "",
                "</details>",
            ]
    if len(broken) > MOST:
        lines += ["", f"and {len(broken) - MOST} more laws"]
    return "\n".join(lines) + "\n"
