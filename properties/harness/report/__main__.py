"""Merges records: python -m frostproof.properties.harness.report *.xml -o report.html."""

import argparse
import sys
from pathlib import Path
from typing import List, Optional

from frostproof.properties.harness.report import markdown, page
from frostproof.properties.harness.report.record import Record, UnreadableRecord, read, written

USAGE = 4  # as pytest's exit code for a usage error


def main(arguments: Optional[List[str]] = None) -> int:
    """Merge, write, and say what could not be read. 0, or 4 where anything went wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m frostproof.properties.harness.report",
        description="One page of one or more junit XML records that pytest --junit-xml wrote.",
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.xml")
    parser.add_argument("-o", "--output", type=Path, default=Path("report.html"), metavar="FILE.html")
    parser.add_argument("--markdown", type=Path, metavar="FILE.md", help="a summary too")
    try:
        options = parser.parse_args(arguments)
    except SystemExit as problem:
        return USAGE if problem.code else 0
    record, worst = Record(), 0
    for path in dict.fromkeys(options.files):  # a file named twice is one run
        try:
            found = read(path)
        except UnreadableRecord as problem:
            print(f"{path}: {problem}", file=sys.stderr)
            worst = USAGE
        else:
            record.entries += found.entries
            record.runs += found.runs
    if not record.entries:
        print("nothing was written: no file holds a record", file=sys.stderr)
        return USAGE
    try:
        text = page.render(record)
    except page.MissingLibrary as problem:
        print(problem, file=sys.stderr)
        return USAGE
    outputs = [(options.output, text)]
    if options.markdown:
        outputs.append((options.markdown, markdown.render(record)))
    for path, content in outputs:
        failure = written(path, content, "w")
        if failure:
            print(f"{path}: {failure}", file=sys.stderr)
            worst = USAGE
        else:
            print(f"{path}: {page.verdict(record)}; {page.totals(record)}")
    return worst


if __name__ == "__main__":
    sys.exit(main())
