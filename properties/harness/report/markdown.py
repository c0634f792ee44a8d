"""A run in a few lines of Markdown, for GitHub's step summary."""

from collections import defaultdict
from typing import Dict, List, Tuple

from frostproof.properties.harness.report.page import totals, verdict
from frostproof.properties.harness.report.record import OUTCOMES, Record, cell_of

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
    """Counts by torch, device and dtype, then what broke."""
    counts: Dict[Tuple[str, str], Dict[str, int]] = defaultdict(lambda: dict.fromkeys(OUTCOMES, 0))
    for entry in record.entries:
        counts[entry.torch, cell_of(entry)][entry.outcome] += 1
    lines: List[str] = [f"## Frostproof: {verdict(record)}", "", totals(record), ""]
    kinds = ("held", "broken", "known", "not offered", "skipped")
    lines += [f"| torch | device-dtype | {' | '.join(kinds)} |", "|---|---" + "|---" * len(kinds) + "|"]
    for version, cell in record.columns():
        count = counts[version, cell]
        numbers = " | ".join(str(count[kind]) for kind in kinds)
        lines.append(f"| {version} | {cell} | {numbers} |")
    broken = [entry for entry in record.entries if entry.outcome == "broken"]
    for entry in broken[:MOST]:
        lines += ["", f"### ✗ {entry.law} `{entry.test}[{entry.cell}]`", "", fenced(entry.message)]
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
        lines += ["", f"and {len(broken) - MOST} more"]
    return "\n".join(lines) + "\n"
