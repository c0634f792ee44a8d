"""The table at the end of a run: law file by device and dtype."""

from collections import defaultdict
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

from frostproof.properties.harness.core.shards import whole
from frostproof.properties.harness.operators import coverage as operator_coverage
from frostproof.properties.harness.report.failures import reports_of
from frostproof.properties.harness.session.axes import LEFT_OUT
from frostproof.properties.harness.session.evidence import LACKS

NOT_OFFERED = "not offered"
# Worst first: of a law's shards the worst one decides.
OUTCOMES = ("failed", "error", "xfailed", "skipped", "passed", NOT_OFFERED, "xpassed")


def laws(terminal: Any) -> Dict[str, Tuple[str, int, int, str]]:
    """(outcome, examples, shards, cell) of each law's test that was reported, shards together.

    cell: "DEVICE-DTYPE", or as much of it as the law has.
    """
    found: Dict[str, Tuple[str, int, int, str]] = {}
    for outcome in OUTCOMES:
        for report in reports_of(terminal, outcome):
            properties = dict(getattr(report, "user_properties", ()))
            if "examples" in properties:
                name = whole(report.nodeid)
                worst, examples, shards, _ = found.get(name, (outcome, 0, 0, ""))
                cell = "-".join(properties[key] for key in ("device", "dtype") if key in properties)
                found[name] = worst, examples + int(properties["examples"]), shards + 1, cell
    return found


def status(report: Any) -> Optional[Tuple[str, str, Tuple[str, Dict[str, bool]]]]:
    """pytest's (category, letter, word) of a law that this torch lacks the means for."""
    if report.when == "call" and report.skipped and LACKS in dict(report.user_properties):
        return NOT_OFFERED, "n", ("NOT OFFERED", {"yellow": True})
    return None


def lacking(terminal: Any) -> List[str]:
    """What this torch does not offer, and how many laws of which cells that left out."""
    found: Dict[str, Dict[str, Set[str]]] = defaultdict(lambda: defaultdict(set))
    for outcome in OUTCOMES:
        for report in reports_of(terminal, outcome):
            properties = dict(getattr(report, "user_properties", ()))
            if LACKS in properties:
                part = NOT_OFFERED if outcome == NOT_OFFERED else "some examples"
                found[properties[LACKS]][part].add(whole(report.nodeid))
    return [
        f"{reason}: "
        + ", ".join(
            f"{part} of {len(names)} laws" if part != NOT_OFFERED else f"{len(names)} laws"
            for part, names in sorted(parts.items())
        )
        for reason, parts in sorted(found.items())
    ]


def nothing_ran(terminal: Any, dtypes: Sequence[str]) -> str:
    """Why a run that verified nothing of what was asked for is none; "" where it is one.

    dtypes: of ``--dtype``; laws that have no dtype are then beside the question.
    """
    found = list(laws(terminal).values())
    if dtypes:
        found = [each for each in found if each[3].rpartition("-")[2] in dtypes]
    ran = [outcome for outcome, _, _, _ in found if outcome not in (NOT_OFFERED, "skipped")]
    left_out = sum(LEFT_OUT in str(report.longrepr) for report in terminal.stats.get("skipped", []))
    if ran or not (found or left_out):
        return ""
    asked = f" in --dtype {' '.join(dtypes)}" if dtypes else ""
    return (
        f"nothing was verified{asked}: {len(found)} laws are not offered or were skipped, "
        f"{left_out} have no such dtype"
    )


def unsound(terminal: Any) -> List[str]:
    """What no shard can say alone: a law that checked nothing, a known defect that none showed."""
    sentences = []
    for name, (outcome, examples, shards, _) in laws(terminal).items():
        if outcome == "xpassed":
            sentences.append(f"{name}: a known defect, but all of {shards} shards passed")
        elif outcome == "passed" and not examples:
            sentences.append(f"{name}: this law checked nothing: no example of {shards} shards did")
    return sentences


def write(terminal: Any, dtypes: Sequence[str] = ()) -> None:
    """Write the table of a finished run to pytest's terminal reporter."""
    counts: Dict[Tuple[str, str], Dict[str, int]] = defaultdict(lambda: defaultdict(int))
    total = 0
    for nodeid, (outcome, examples, _, cell) in laws(terminal).items():
        key = (nodeid.partition("::")[0].rpartition("/")[2], cell or "-")
        counts[key][outcome] += 1
        counts[key]["examples"] += examples
        total += examples
    if nothing_ran(terminal, dtypes):
        terminal.write_line(nothing_ran(terminal, dtypes), red=True)
    if not counts:
        return
    terminal.write_sep("-", "frostproof: laws by file, device and dtype")
    rows: List[Tuple[str, ...]] = [
        ("file", "device-dtype", "held", "broken", "known", "not offered", "skipped", "examples")
    ]
    loud = any(count["failed"] + count["error"] for count in counts.values())
    for (file, cell), count in sorted(_folded(counts, 1 if loud else 6).items()):
        broken = count["failed"] + count["error"] + count["xpassed"]
        numbers = [count[kind] for kind in ("xfailed", NOT_OFFERED, "skipped", "examples")]
        rows.append((file, cell, *map(str, (count["passed"], broken, *numbers))))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        line = "  ".join(
            text.ljust(width) if column < 2 else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths))
        )
        terminal.write_line(line)
    terminal.write_line(f"{total} examples checked")
    everything = [report for reports in terminal.stats.values() for report in reports]
    for sentence in operator_coverage.lines(everything):
        terminal.write_line(sentence)
    for sentence in lacking(terminal):
        terminal.write_line(f"not offered by this torch: {sentence}")
    for sentence in unsound(terminal):
        terminal.write_line(sentence, red=True)


def _folded(
    counts: Dict[Tuple[str, str], Dict[str, int]], most: int
) -> Dict[Tuple[str, str], Dict[str, int]]:
    """Dtypes of one file and device share a row where they are more than most: broken, others."""
    alike: Dict[Tuple[str, str, str], List[str]] = defaultdict(list)
    for (file, cell), count in counts.items():
        broken = "broken " if count["failed"] + count["error"] else ""
        alike[file, cell.partition("-")[0], broken].append(cell)
    folded: Dict[Tuple[str, str], Dict[str, int]] = {}
    for (file, device, broken), cells in alike.items():
        if len(cells) <= most:
            folded.update(((file, cell), counts[file, cell]) for cell in cells)
            continue
        total = folded[file, f"{device}, {len(cells)} {broken}dtypes"] = defaultdict(int)
        for cell in cells:
            for outcome, number in counts[file, cell].items():
                total[outcome] += number
    return folded
