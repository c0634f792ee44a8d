"""What a run left behind: one entry for each law, device, dtype and torch, read from junit XML."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple
from xml.etree import ElementTree

# Worst first: where several tests share a cell, the worst one decides.
OUTCOMES = ("broken", "known", "skipped", "not offered", "held")
# dtypes that most readers look for; others follow by name
FIRST = ("float32", "float64", "bfloat16", "float16", "complex64", "complex128")
FACTS = ("date", "machine", "seed", "command")  # of a run, in its record
MOST = 512 * 1024 * 1024  # bytes of one XML file


class UnreadableRecord(ValueError):
    """A file that is no record of a run; the message says why."""


@dataclass
class Entry:
    """One test of a run.

    test: "file.py::name" without its cell; law: ids; cell: such as "cpu-float32" and
    further parameters (a depth, a shard); device, dtype: "" where the law has none;
    outcome: one of OUTCOMES; message, reproducer, network: of a broken law (network: what
    drawing.py draws).
    """

    test: str
    law: str
    cell: str
    torch: str
    outcome: str
    sentence: str = ""
    examples: int = 0
    seconds: float = 0.0
    message: str = ""
    reproducer: str = ""
    network: Optional[Dict[str, Any]] = None
    device: str = ""
    dtype: str = ""


@dataclass
class Run:
    """Where a record comes from. Texts; what an old record does not say is "".

    name: of its file; torch: its version; date: UTC; seed: with the profile; command: as given.
    """

    name: str = ""
    torch: str = ""
    date: str = ""
    machine: str = ""
    seed: str = ""
    command: str = ""


@dataclass
class Record:
    """The entries of all runs read."""

    entries: List[Entry] = field(default_factory=list)
    runs: List[Run] = field(default_factory=list)

    def count(self, outcome: str) -> int:
        """How many entries ended so."""
        return sum(entry.outcome == outcome for entry in self.entries)

    def columns(self) -> List[Tuple[str, str, str]]:
        """(torch, device, dtype), in the order of a table's columns."""
        return sorted({column_of(entry) for entry in self.entries}, key=column_order)

    def rows(self) -> List[Tuple[str, str, str]]:
        """(test, law ids, sentence), by file and first appearance of the id."""
        rows: Dict[str, Tuple[str, str, str]] = {}
        for entry in self.entries:
            rows.setdefault(entry.test, (entry.test, entry.law, entry.sentence))
        return sorted(rows.values(), key=lambda row: (row[0].split("::")[0], row[1], row[0]))


def completed(entries: List[Entry]) -> str:
    """Give those entries of one run that a crash kept from recording what is known; its torch.

    A worker that dies, or a test that fails before it begins, records no torch, device or dtype.
    """
    versions = {entry.torch for entry in entries if entry.torch}
    for entry in entries:
        if not entry.torch:
            entry.torch = versions.pop() if len(versions) == 1 else "?"
            versions.add(entry.torch)
            same = next((each for each in entries if each.test == entry.test and each.law), entry)
            entry.law, entry.sentence = same.law or "?", same.sentence
            device, _, rest = entry.cell.partition("-")
            entry.device, entry.dtype = device, rest.partition("-")[0]
    return ", ".join(sorted(versions))


def column_order(column: Tuple[str, str, str]) -> Tuple[Any, ...]:
    """A key that sorts columns: by torch, device and dtype."""
    torch, device, dtype = column
    version = tuple(int(part) if part.isdigit() else -1 for part in torch.split("+")[0].split("."))
    rank = FIRST.index(dtype) if dtype in FIRST else len(FIRST)
    # the CPU first; what has no device or dtype last
    return version, torch, not device, device != "cpu", device, not dtype, rank, dtype


def column_of(entry: Entry) -> Tuple[str, str, str]:
    """(torch, device, dtype) of an entry: the column that it belongs to."""
    return entry.torch, entry.device, entry.dtype


def cell_of(entry: Entry) -> str:
    """The column that an entry belongs to: its device and dtype, whatever else its id holds."""
    return "-".join(part for part in (entry.device, entry.dtype) if part) or "without a dtype"


def entry_of(properties: Dict[str, str], nodeid: str, outcome: str, seconds: float, text: str) -> Entry:
    """An entry from a test's recorded properties."""
    name, _, cell = nodeid.rpartition("/")[2].partition("[")
    try:
        network = json.loads(properties["network"]) if properties.get("network") else None
    except ValueError:
        network = None
    examples = properties.get("examples", "0")
    return Entry(
        test=name,
        law=properties.get("law", ""),
        cell=cell.rstrip("]"),
        torch=properties.get("torch", ""),
        outcome=outcome,
        sentence=properties.get("sentence", ""),
        examples=int(examples) if examples.isdigit() else 0,
        seconds=seconds,
        message=properties.get("message", text if outcome != "held" else ""),
        reproducer=properties.get("reproducer", ""),
        network=network if isinstance(network, dict) else None,
        device=properties.get("device", ""),
        dtype=properties.get("dtype", ""),
    )


def offered(outcome: str, properties: Dict[str, str]) -> str:
    """The outcome, which of a law that was skipped since torch lacks the means is "not offered"."""
    return "not offered" if outcome == "skipped" and properties.get("lacks") else outcome


def _outcome(case: ElementTree.Element) -> Tuple[str, str]:
    """(outcome, text) of a junit testcase."""
    for child in case:
        kind = child.tag.rpartition("}")[2]
        text = child.get("message") or child.text or ""
        if kind in ("failure", "error"):
            return "broken", text
        if kind == "skipped":
            return ("known" if child.get("type") == "pytest.xfail" else "skipped"), text
    return "held", ""


def _seconds(case: ElementTree.Element) -> float:
    try:
        seconds = float(case.get("time", "0"))
    except ValueError:
        return 0.0
    return seconds if math.isfinite(seconds) else 0.0


def _cases(path: Path, run: Run) -> Iterator[ElementTree.Element]:
    """Every testcase element, freed after use; what the suite says of itself goes to the run."""
    inside = False
    for event, element in ElementTree.iterparse(str(path), events=("start", "end")):
        tag = element.tag.rpartition("}")[2]
        if event == "start":
            inside = inside or tag == "testcase"
            if tag == "testsuite":
                run.date = element.get("timestamp", "")[:16].replace("T", " ")
        elif tag == "testcase":
            inside = False
            yield element
            element.clear()
        elif tag == "property" and not inside and element.get("name") in FACTS:
            setattr(run, element.get("name", ""), element.get("value", ""))


def read(path: Path) -> Record:
    """The laws' tests in a junit XML file. Raises UnreadableRecord, saying why."""
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise UnreadableRecord("is a folder; give the XML files in it")
        if not size:
            raise UnreadableRecord("is empty: the run was cut off before it wrote its record")
        if size > MOST:
            raise UnreadableRecord(f"has {size:,} bytes, more than {MOST:,}: no record is that large")
        run, entries, cases, laws = Run(path.name), [], 0, 0
        for case in _cases(path, run):
            cases += 1
            properties = {item.get("name", ""): item.get("value", "") for item in case.iter("property")}
            outcome, text = _outcome(case)
            outcome = offered(outcome, properties)
            file = case.get("classname", "").replace(".", "/") + ".py"
            nodeid = f"{file}::{case.get('name', '?')}"
            if "examples" in properties:
                laws += 1
            elif outcome != "broken":
                continue
            entries.append(entry_of(properties, nodeid, outcome, _seconds(case), text))
    except FileNotFoundError:
        raise UnreadableRecord("does not exist") from None
    except OSError as problem:
        raise UnreadableRecord(f"cannot be read: {problem.strerror or problem}") from None
    except (ElementTree.ParseError, LookupError, ValueError) as problem:
        if isinstance(problem, UnreadableRecord):
            raise
        raise UnreadableRecord(
            f"is not whole XML ({problem}): cut off while it was written, or something else"
        ) from None
    if not laws:
        what = f"{cases} tests, but none of a law" if cases else "no tests"
        raise UnreadableRecord(f"holds {what}: not a record that Frostproof's --junit-xml wrote")
    run.torch = completed(entries)
    return Record(entries, [run])


def worst(entries: Sequence[Entry]) -> str:
    """The outcome that stands for several entries."""
    return min((entry.outcome for entry in entries), key=OUTCOMES.index)


def written(path: Path, text: str, mode: str) -> str:
    """Write or append ("w", "a") a text; why that failed, or "" where it did not."""
    try:
        # a lone surrogate in a test's output is no reason to lose the page
        with open(path, mode, encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError as problem:
        return f"cannot be written: {problem.strerror or problem}"
    return ""
