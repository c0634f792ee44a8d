"""The page of known defects of training: ``python -m frostproof.properties.selftest.defect_programs``.

    ... --python PATH [--python PATH...] [--drafts DIR] > properties/defects.md

runs each program of ``harness/defects/programs`` under these interpreters, one at a time, and prints
a table: program, defect, torches that show it, upstream, law. ``--drafts`` writes of each
a short report as for an upstream issue.
"""

import argparse
import sys
from pathlib import Path
from typing import Dict, List, Optional

from frostproof.properties.harness.defects import programs
from frostproof.properties.harness.defects.defect import Defect
from frostproof.properties.harness.defects.training import TRAINING
from frostproof.properties.harness.hunting.report import drafted, told_by, version_of
from frostproof.properties.selftest import ROOT

FOLDER = Path(programs.__file__).parent
PAGE = ROOT / "properties" / "defects.md"


def rows() -> Dict[str, List[Defect]]:
    """The rows of each program, in the order of the table."""
    found: Dict[str, List[Defect]] = {}
    for row in TRAINING:
        found.setdefault(row.program, []).append(row)
    return found


def sentence(name: str) -> str:
    """What a program says of itself: its first line."""
    first = (FOLDER / f"{name}.py").read_text(encoding="utf-8").splitlines()[0]
    return first.strip('"').rstrip(".")


def versions(row: Defect) -> str:
    """The minor releases that a row is of."""
    first = "all" if row.first == Defect.first else f"{row.first[0]}.{row.first[1]}"
    last = "" if row.last == Defect.last else f"{row.last[0]}.{row.last[1]}"
    if first == "all":
        return f"to {last}" if last else "all"
    return f"{first} to {last}" if last else f"{first} on"


def line(name: str, found: List[Defect], seen: Dict[str, str]) -> str:
    """A program's line of the table."""
    shown = ", ".join(each for each, word in seen.items() if word.startswith("shown"))
    issues = "; ".join(dict.fromkeys(row.issue for row in found))
    laws = ", ".join(dict.fromkeys(row.test.split("::")[0] for row in found))
    cells = (f"[{name}](harness/defects/programs/{name}.py)", sentence(name), versions(found[0]))
    return f"| {' | '.join((*cells, shown or 'none', issues, laws))} |"


def draft(name: str, found: List[Defect], seen: Dict[str, str]) -> str:
    """A short report on a defect, as for an upstream issue."""
    text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    return drafted(sentence(name), "", text, seen, found[0].issue)


HEAD = """# Known defects of what people train with

Memory, optimizer state, tools, wrappers, processes. Each program is plain torch: it exits with 1 and
a sentence where the defect shows, with 0 where it does not. The rows are in
`harness/defects`; versions are those of the rows, *shown on* is what was measured on
the torches TORCHES. Written by `python -m frostproof.properties.selftest.defect_programs`.

| program | defect | versions | shown on | upstream | law |
|---|---|---|---|---|---|"""


def main(arguments: Optional[List[str]] = None) -> int:
    """Print the page."""
    parser = argparse.ArgumentParser(prog="python -m frostproof.properties.selftest.defect_programs")
    parser.add_argument("--python", action="append", metavar="PATH", help="an interpreter with a torch")
    parser.add_argument("--drafts", type=Path, metavar="DIR", help="write a draft of each")
    options = parser.parse_args(arguments)
    pythons = options.python or [sys.executable]
    print(HEAD.replace("TORCHES", ", ".join(map(version_of, pythons))))
    told = told_by({name: FOLDER / f"{name}.py" for name in rows()}, pythons, 1)
    for name, found in rows().items():
        seen = told[name]
        print(line(name, found, seen))
        if options.drafts:
            options.drafts.mkdir(parents=True, exist_ok=True)
            (options.drafts / f"{name}.md").write_text(draft(name, found, seen), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
