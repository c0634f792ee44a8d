"""What a run over the faults has shown, as a table for the terminal and for the README."""

import importlib.util
from statistics import median
from typing import Any, Dict, List, Sequence, Set, Tuple

from frostproof.properties.selftest.faults.fault import Fault
from frostproof.properties.selftest.faults.runner import Outcome

HEADER = ("fault", "caught", "expected", "by the laws", "test", "examples", "seconds", "what is broken")


def _short(test: str) -> str:
    """``test_detach.py::test_shares_storage``, without folder, device and dtype."""
    return test.rpartition("/")[2].split("[")[0]


def rows(faults: Sequence[Fault], outcomes: Sequence[Outcome]) -> List[Tuple[str, ...]]:
    """One row for each fault that ran, sorted by name: counts are over its seeds."""
    table: List[Tuple[str, ...]] = []
    for fault in sorted(faults, key=lambda one: one.name):
        mine = [one for one in outcomes if one.fault == fault.name]
        if not mine:
            continue
        inert = next((one.inert for one in mine if one.inert), "")
        laws = sorted({one.law or one.kind for one in mine if one.caught})
        tests = sorted({_short(one.test) for one in mine if one.test})
        table.append(
            (
                fault.name,
                "inert" if inert else f"{sum(one.caught for one in mine)}/{len(mine)}",
                f"{sum(one.expected for one in mine)}/{len(mine)}",
                ", ".join(laws),
                inert or ", ".join(tests),
                f"{median(one.examples for one in mine):.0f}",
                f"{max(one.seconds for one in mine):.1f}",
                fault.sentence,
            )
        )
    return table


def text_table(table: Sequence[Tuple[str, ...]]) -> str:
    """Columns padded, the sentences left out."""
    shown = [row[:-1] for row in [HEADER, *table]]
    widths = [max(len(row[column]) for row in shown) for column in range(len(shown[0]))]
    lines = ("  ".join(text.ljust(width) for text, width in zip(row, widths)) for row in shown)
    return "\n".join(line.rstrip() for line in lines)


def markdown_table(table: Sequence[Tuple[str, ...]]) -> str:
    """The same for the README, with the sentences."""
    lines = ["| " + " | ".join(HEADER) + " |", "|" + " --- |" * len(HEADER)]
    lines += ["| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in table]
    return "\n".join(lines) + "\n"


def summary(faults: Sequence[Fault], outcomes: Sequence[Outcome]) -> str:
    """Caught by an expected law, of all runs and of all faults; seconds to the catch."""
    names = sorted({one.fault for one in outcomes})
    whole = [name for name in names if all(one.expected for one in outcomes if one.fault == name)]
    good = [one for one in outcomes if one.expected]
    lines = [
        f"{len(whole)} of {len(names)} faults caught by an expected law under every seed "
        f"({len(good)} of {len(outcomes)} runs)"
    ]
    if good:
        seconds = [one.seconds for one in good]
        lines.append(
            f"seconds to a catch, imports included: median {median(seconds):.1f}, "
            f"longest {max(seconds):.1f}"
        )
    for one in sorted(outcomes, key=lambda one: (one.fault, one.seed)):
        if one.expected:
            continue
        expected = next((fault.laws for fault in faults if fault.name == one.fault), ())
        what = one.inert or ("time limit; " if one.late else "")
        if one.caught:
            what += f"caught by {one.law or 'no law'} ({one.kind}), not by {', '.join(expected)}: "
            what += f"{_short(one.test)}: {one.message}"
        elif not one.inert:
            what += "survived"
        lines.append(f"  {one.fault}, seed {one.seed}: {what}")
    return "\n".join(lines)


def idle_laws(laws: Dict[str, str], outcomes: Sequence[Outcome], first: bool) -> List[Tuple[str, str]]:
    """(test, law id) of each law that caught nothing that another did not.

    Where runs stopped at the first failure: the laws that never were the first.
    """
    needed: Set[str] = set()
    for one in outcomes:
        caught_by = {_short(test) for test in (one.test, *one.others) if test}
        if first or len(caught_by) == 1:
            needed |= caught_by
    return sorted((test, law) for test, law in laws.items() if test not in needed)


def not_applicable(faults: Sequence[Fault], version: Tuple[int, int]) -> List[Fault]:
    """The faults in what this torch does not have yet, or in what needs a missing package."""
    return [
        fault
        for fault in faults
        if fault.since > version or (fault.needs and importlib.util.find_spec(fault.needs) is None)
    ]


def facts(profile: str, limit: float, first: bool, tests: str = "") -> Dict[str, Any]:
    """What a result depends on; results of other facts do not mix."""
    import hypothesis
    import torch

    return {
        "torch": str(torch.__version__),
        "hypothesis": hypothesis.__version__,
        "profile": profile,
        "limit": limit,
        "first": first,
        **({"tests": tests} if tests else {}),
    }
