"""The measure of the harness: ``python -m frostproof.properties.selftest.faults [NAME...]``."""

import argparse
import os
import sys
from pathlib import Path
from typing import List, Optional

import torch

from frostproof.properties.harness.defects.known import version_tuple
from frostproof.properties.selftest.faults import report
from frostproof.properties.selftest.faults.catalogue import collected_laws
from frostproof.properties.selftest.faults.fault import Fault, all_faults
from frostproof.properties.selftest.faults.runner import Outcome, Results, run_faults

USAGE_ERROR = 4


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m frostproof.properties.selftest.faults",
        description="Break torch on purpose, and show which law notices.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="these faults only (default: all)")
    parser.add_argument("--smoke", action="store_true", help="the short set only")
    parser.add_argument("--list", action="store_true", help="list the faults, and run nothing")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each fault (default: 5)")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="faults at a time (default: one a core)"
    )
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for a run (default: 60)")
    parser.add_argument("--profile", default="default", help="Hypothesis profile (default: default)")
    parser.add_argument(
        "--every-law",
        action="store_true",
        help="go on after the first failing law, to learn every law that sees a fault (slow)",
    )
    parser.add_argument(
        "--tests", default="", help="of the harness only this, such as properties/test_operators.py"
    )
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write every outcome")
    parser.add_argument("--resume", action="store_true", help="go on with --output's outcomes")
    parser.add_argument("--table", type=Path, metavar="FILE.md", help="write the table as Markdown")
    return parser


def _chosen(names: List[str], smoke: bool) -> List[Fault]:
    """The faults asked for; raises ValueError for an unknown name."""
    known = all_faults()
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"no such fault: {', '.join(unknown)}; --list shows all of them")
    chosen = [known[name] for name in dict.fromkeys(names)] if names else list(known.values())
    return [fault for fault in chosen if fault.smoke] if smoke else chosen


def _say(outcome: Outcome) -> None:
    word = "inert" if outcome.inert else "caught" if outcome.caught else "survived"
    if outcome.caught and not outcome.expected:
        word = "caught, not by an expected law"
    print(
        f"{outcome.fault} (seed {outcome.seed}): {word} {outcome.law} "
        f"{outcome.test.rpartition('/')[2]} {outcome.examples} examples, {outcome.seconds:.1f} s",
        flush=True,
    )


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the faults asked for; 0 where each was caught by an expected law under every seed."""
    options = _parser().parse_args(arguments)
    try:
        faults = _chosen(options.names, options.smoke)
        if options.seeds < 1 or options.jobs < 1 or options.limit <= 0:
            raise ValueError("--seeds, --jobs and --limit must be positive")
        if options.resume and options.output is None:
            raise ValueError("--resume needs --output, the file to go on with")
        for path in (options.output, options.table):
            if path is not None and not path.resolve().parent.is_dir():
                raise ValueError(f"{path}: its folder does not exist")
        facts = report.facts(options.profile, options.limit, not options.every_law, options.tests)
        results = Results(options.output, facts, options.resume)
    except (ValueError, KeyError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return USAGE_ERROR
    if options.list:
        for fault in faults:
            print(f"{fault.name:44} {', '.join(fault.laws):16} {fault.sentence}")
        print(f"{len(faults)} faults")
        return 0
    absent = report.not_applicable(faults, version_tuple(str(torch.__version__)))
    faults = [fault for fault in faults if fault not in absent]
    for outcome in run_faults(
        faults,
        range(1, options.seeds + 1),
        profile=options.profile,
        limit=options.limit,
        jobs=options.jobs,
        first=not options.every_law,
        skip=results.done,
        arguments=options.tests.split(),
    ):
        results.add(outcome)
        _say(outcome)
    outcomes = [one for one in results.outcomes if one.fault in {fault.name for fault in faults}]
    table = report.rows(faults, outcomes)
    print(f"\n{report.text_table(table)}\n\n{report.summary(faults, outcomes)}")
    for fault in absent:
        wanted = f"torch {'.'.join(map(str, fault.since))} {fault.needs}".strip()
        print(f"  {fault.name}: not applicable, needs {wanted}")
    kind = (
        "that caught nothing that another did not" if options.every_law else "never the first to catch"
    )
    print(f"\nlaws {kind}:")
    for test, law in report.idle_laws(collected_laws(), outcomes, not options.every_law):
        print(f"  {law:3} {test}")
    if options.table is not None:
        options.table.write_text(report.markdown_table(table), encoding="utf-8")
    return 0 if outcomes and all(one.expected for one in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
