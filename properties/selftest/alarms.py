"""False alarms: ``python -m frostproof.properties.selftest.alarms`` tries a healthy torch.

Seed after seed, until as many examples were checked as asked for; a failure is an alarm.
"""

import argparse
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, List, Optional

import hypothesis
import torch

from frostproof.properties.selftest.faults.process import run_harness

USAGE_ERROR = 4


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m frostproof.properties.selftest.alarms", description=__doc__
    )
    parser.add_argument("--examples", type=int, default=1_000_000, help="default: 1000000")
    parser.add_argument("--profile", default="default", help="Hypothesis profile (default: default)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time")
    parser.add_argument(
        "--output", type=Path, metavar="FILE.json", help="write every run; a run there is not repeated"
    )
    return parser


def _write(path: Optional[Path], facts: Dict[str, Any], runs: List[Dict[str, Any]]) -> None:
    if path is not None:
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps({"facts": facts, "runs": runs}, indent=1) + "\n", encoding="utf-8")
        os.replace(part, path)


def _load(path: Optional[Path], facts: Dict[str, Any]) -> List[Dict[str, Any]]:
    if path is None or not path.exists():
        return []
    saved = json.loads(path.read_text(encoding="utf-8"))
    if saved["facts"] != facts:
        raise ValueError(f"{path} is of another torch or profile: {saved['facts']}, not {facts}")
    runs: List[Dict[str, Any]] = saved["runs"]
    return runs


def main(arguments: Optional[List[str]] = None) -> int:
    """Run until enough examples were checked; 0 where no law raised an alarm."""
    options = _parser().parse_args(arguments)
    facts = {
        "torch": str(torch.__version__),
        "hypothesis": hypothesis.__version__,
        "profile": options.profile,
    }
    try:
        if options.examples < 1 or options.jobs < 1:
            raise ValueError("--examples and --jobs must be positive")
        if options.output is not None and not options.output.resolve().parent.is_dir():
            raise ValueError(f"{options.output}: its folder does not exist")
        runs = _load(options.output, facts)
    except (ValueError, KeyError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return USAGE_ERROR
    started = time.monotonic()
    with ThreadPoolExecutor(options.jobs) as pool:
        while sum(run["examples"] for run in runs) < options.examples:
            first = max([run["seed"] for run in runs], default=-1) + 1
            seeds = range(first, first + options.jobs)
            found = list(pool.map(lambda seed: run_harness(seed, options.profile, first=False), seeds))
            for seed, record in zip(seeds, found):
                if record["exit_code"] not in (0, 1):
                    print(f"error: the run of seed {seed} failed:\n{record.get('output', '')}")
                    return 1
                runs.append({"seed": seed, **record})
                _write(options.output, facts, runs)
                for failure in record["failures"]:
                    print(f"ALARM, seed {seed}: {failure['test']}: {failure['message']}")
            total = sum(run["examples"] for run in runs)
            print(f"{len(runs)} runs, {total} examples, {time.monotonic() - started:.0f} s", flush=True)
    alarms = sum(len(run["failures"]) for run in runs)
    total = sum(run["examples"] for run in runs)
    spent = sum(run["seconds"] for run in runs)
    print(
        f"torch {facts['torch']}, profile {options.profile}: {total} examples in {len(runs)} runs, "
        f"{alarms} alarms, {spent:.0f} s of runs"
    )
    return 1 if alarms else 0


if __name__ == "__main__":
    sys.exit(main())
