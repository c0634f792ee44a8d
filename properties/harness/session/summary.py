"""The table at the end of a run: law file by device and dtype."""

from collections import defaultdict
from typing import Any, Dict, List, Tuple

from frostproof.properties.harness.session.shards import whole

# Worst first: of a law's shards the worst one decides.
OUTCOMES = ("failed", "error", "xfailed", "skipped", "passed", "xpassed")


def laws(terminal: Any) -> Dict[str, Tuple[str, int, int, str]]:
    """(outcome, examples, shards, cell) of each law's test that was reported, shards together.

    cell: "DEVICE-DTYPE", or as much of it as the law has.
    """
    found: Dict[str, Tuple[str, int, int, str]] = {}
    for outcome in OUTCOMES:
        for report in terminal.stats.get(outcome, []):
            properties = dict(getattr(report, "user_properties", ()))
            if "examples" in properties:
                name = whole(report.nodeid)
                worst, examples, shards, _ = found.get(name, (outcome, 0, 0, ""))
                cell = "-".join(properties[key] for key in ("device", "dtype") if key in properties)
                found[name] = worst, examples + int(properties["examples"]), shards + 1, cell
    return found


def unsound(terminal: Any) -> List[str]:
    """What no shard can say alone: a law that checked nothing, a known defect that none showed."""
    sentences = []
    for name, (outcome, examples, shards, _) in laws(terminal).items():
        if outcome == "xpassed":
            sentences.append(f"{name}: a known defect, but all of {shards} shards passed")
        elif outcome == "passed" and not examples:
            sentences.append(f"{name}: this law checked nothing: no example of {shards} shards did")
    return sentences


def write(terminal: Any) -> None:
    """Write the table of a finished run to pytest's terminal reporter."""
    counts: Dict[Tuple[str, str], Dict[str, int]] = defaultdict(lambda: defaultdict(int))
    total = 0
    for nodeid, (outcome, examples, _, cell) in laws(terminal).items():
        key = (nodeid.partition("::")[0].rpartition("/")[2], cell or "-")
        counts[key][outcome] += 1
        counts[key]["examples"] += examples
        total += examples
    if not counts:
        return
    terminal.write_sep("-", "frostproof: laws by file, device and dtype")
    rows: List[Tuple[str, ...]] = [
        ("file", "device-dtype", "held", "broken", "known", "skipped", "examples")
    ]
    for (file, cell), count in sorted(_folded(counts).items()):
        broken = count["failed"] + count["error"] + count["xpassed"]
        numbers = (count["passed"], broken, count["xfailed"], count["skipped"], count["examples"])
        rows.append((file, cell, *map(str, numbers)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        line = "  ".join(
            text.ljust(width) if column < 2 else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths))
        )
        terminal.write_line(line)
    terminal.write_line(f"{total} examples checked")
    for sentence in unsound(terminal):
        terminal.write_line(sentence, red=True)


def _folded(
    counts: Dict[Tuple[str, str], Dict[str, int]],
) -> Dict[Tuple[str, str], Dict[str, int]]:
    """Dtypes of one file and device with nothing broken share a row when there are many."""
    dtypes: Dict[Tuple[str, str], List[str]] = defaultdict(list)
    for file, cell in counts:
        dtypes[file, cell.partition("-")[0]].append(cell)
    folded: Dict[Tuple[str, str], Dict[str, int]] = {}
    for (file, device), cells in dtypes.items():
        quiet = [c for c in cells if not counts[file, c]["failed"] + counts[file, c]["error"]]
        if len(quiet) > 6:
            total: Dict[str, int] = defaultdict(int)
            for cell in quiet:
                for outcome, number in counts[file, cell].items():
                    total[outcome] += number
            folded[file, f"{device}, {len(quiet)} dtypes"] = total
        else:
            quiet = []
        for cell in cells:
            if cell not in quiet:
                folded[file, cell] = counts[file, cell]
    return folded


def write_notes(terminal: Any, own: Any) -> None:
    """What a user should know of the own model or recipe, where one was verified."""
    notes = own.notes()
    if notes:
        terminal.write_sep("-", "frostproof: your code")
        for note in notes:
            terminal.write_line(note)
