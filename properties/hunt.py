"""The hunt for defects of torch: ``python -m frostproof.properties.hunt --minutes N``."""

import argparse
import os
import sys
from pathlib import Path
from typing import List, Optional

import torch

from frostproof.properties.harness.hunting import driver, report
from frostproof.properties.harness.hunting.source import SOURCES, source_of
from frostproof.properties.harness.programs import known

USAGE_ERROR = 4


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m frostproof.properties.hunt",
        description="Run random cases in every mode of this torch beside eager until time is up; "
        "group what differs, make one of each group small, and write a program and a draft of it.",
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="how long (default: 5)")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("hunt"), help="folder; one that exists is gone on with"
    )
    parser.add_argument("--source", default="programs", choices=sorted(SOURCES), help="what is drawn")
    parser.add_argument("--modes", default="", help="modes, or beginnings of their names, with commas")
    parser.add_argument("--device", default="cpu", help="device that cases run on (default: cpu)")
    parser.add_argument("--seed", type=int, default=0, help="seed; each machine its own (default: 0)")
    parser.add_argument(
        "--still", type=float, default=driver.STILL, help="seconds after which a case hangs"
    )
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        help="another torch's interpreter for the programs; repeatable",
    )
    parser.add_argument(
        "--known",
        action="store_true",
        help="write the program and draft of each known defect of the modes, and hunt for nothing",
    )
    parser.add_argument(
        "--list", action="store_true", help="say which modes this torch has, and run nothing"
    )
    return parser


def main(arguments: Optional[List[str]] = None) -> int:
    """Hunt; 0 where every mode agreed or was covered, 1 where something new was found."""
    options = _parser().parse_args(arguments)
    if options.known and options.jobs > 0:
        told = known.write(options.output, options.python or [sys.executable], options.jobs)
        for ident, seen in told.items():
            print(f"{ident}: {', '.join(f'{version} {word}' for version, word in seen.items())}")
        print(f"{len(told)} known defects; see {options.output / 'known.md'}")
        return 0
    try:
        torch.ones(1, device=options.device)
    except Exception as problem:
        print(f"error: --device {options.device}: {str(problem).splitlines()[0]}", file=sys.stderr)
        return USAGE_ERROR
    offered = source_of(options.source).modes()
    wanted = [each for each in options.modes.split(",") if each]
    unknown = [each for each in wanted if not any(name.startswith(each) for name in offered)]
    if unknown or options.minutes < 0 or options.jobs < 1:
        what = (
            f"no mode begins with {', '.join(unknown)}; --list shows all"
            if unknown
            else "--minutes and --jobs must be positive"
        )
        print(f"error: {what}", file=sys.stderr)
        return USAGE_ERROR
    chosen = [name for name in offered if not wanted or any(name.startswith(each) for each in wanted)]
    for name in chosen:
        if offered[name] or options.list:
            print(f"{name}: {offered[name] or 'runs'}")
    if options.list:
        return 0
    modes = [name for name in chosen if not offered[name]]
    if not modes:
        print("error: this torch has none of these modes", file=sys.stderr)
        return USAGE_ERROR
    hunt = driver.Hunt(
        options.source,
        modes,
        options.output,
        options.jobs,
        options.seed,
        options.still,
        options.device,
    )
    if options.minutes:
        hunt.run(options.minutes)
    page = report.write(options.output, options.python or [sys.executable], options.jobs)
    found = report.groups(options.output)
    print(f"{len(found)} groups; see {page}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
