"""Is a fault in one mode noticed? ``python -m frostproof.properties.selftest.mode_faults [NAME...]``.

For each mode and each fault seeded in just that mode, and each seed, the law of programs draws
as many programs as the default run does (of modes outside it, as many as the nightly
profile draws), and stops at the first difference that is no known defect. The program that shows
it is tried without the fault too: only where it agrees then has the fault been caught.
"""

import argparse
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any, List, Optional, Sequence

import hypothesis
import torch
from hypothesis import HealthCheck, Phase, given, settings

from frostproof.properties.harness.programs.defects import ends
from frostproof.properties.harness.programs.judge import Refused
from frostproof.properties.harness.programs.modes import MODES
from frostproof.properties.harness.programs.source import Programs, facts_of
from frostproof.properties.selftest.faults import program_modes, program_transforms  # noqa: F401
from frostproof.properties.selftest.faults.mode_fault import ModeFault, faults_of
from frostproof.properties.test_programs import CHEAP_MODES
from frostproof.strategies.programs import Program, programs

DEFAULT = 15  # programs a mode in the default profile: part(4, 5) of its 60 examples
SAMPLE = 100  # programs a mode of those that only the nightly profile runs, as many as it draws
SOURCE = Programs()  # the hunt's: the first call and one more


@dataclass
class Outcome:
    """What became of one fault in one mode under one seed.

    number: which program showed it, from 1; 0: none did; aspect: what differed first; alarms:
    programs that differ on the healthy torch as well.
    """

    mode: str
    fault: ModeFault
    seed: int
    number: int = 0
    aspect: str = ""
    alarms: int = 0
    program: str = ""


def _new(program: Program, mode: str) -> Optional[Any]:
    """The first difference that no row covers; None where there is none, or it is refused."""
    if ends(program, mode):
        return None
    try:
        scenes = None if mode in CHEAP_MODES else SOURCE.scenes(program, mode)
        new, _ = facts_of(program, mode, scenes)
    except Refused:
        return None
    return new[0] if new else None


class _Caught(Exception):
    """A program has shown the fault."""


def try_fault(mode: str, fault: ModeFault, seed: int, count: int) -> Outcome:
    """Draw so many programs under the fault, as the law does."""
    outcome, drawn = Outcome(mode, fault, seed), 0

    @hypothesis.seed(seed)
    @settings(
        max_examples=count,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(program=programs(frozenset(MODES[mode].without)))
    def draw(program: Program) -> None:
        nonlocal drawn
        if outcome.number:  # Hypothesis runs it again
            raise _Caught
        drawn += 1
        with fault.broken():
            shown = _new(program, mode)
        if shown is None:
            return
        if _new(program, mode) is not None:
            outcome.alarms += 1
            return
        outcome.number, outcome.aspect = drawn, shown.aspect
        outcome.program = f"{shown.sentence}\n{program.source()}"
        raise _Caught

    try:
        draw()
    except _Caught:
        pass
    return outcome


def count_of(mode: str) -> int:
    """How many programs a fault of a mode has to show itself in."""
    return DEFAULT if mode in CHEAP_MODES else SAMPLE


def row(outcomes: Sequence[Outcome], count: int) -> str:
    """One line of the table, of one fault in one mode."""
    caught = [each for each in outcomes if each.number]
    aspects = ", ".join(dict.fromkeys(each.aspect for each in caught))
    middle = f"{statistics.median(each.number for each in caught):g}" if caught else ""
    fault = outcomes[0].fault
    return (
        f"| {outcomes[0].mode} | {fault.sentence} | {fault.kind} | "
        f"{len(caught)}/{len(outcomes)} of {count} | {middle} | {aspects} |"
    )


HEADER = (
    "| mode | fault | of | caught, of so many programs | program | what differed |\n" + "|---" * 6 + "|"
)


def main(arguments: Optional[List[str]] = None) -> int:
    """Try the faults of the modes asked for; 0 where each was caught under every seed."""
    parser = argparse.ArgumentParser(prog="python -m frostproof.properties.selftest.mode_faults")
    parser.add_argument("names", nargs="*", metavar="NAME", help="these modes or faults only")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each fault (default: 5)")
    parser.add_argument("--programs", type=int, default=0, help="for each run (default: as the law)")
    parser.add_argument("--show", action="store_true", help="print the first program that shows each")
    options = parser.parse_args(arguments)
    whole, started = True, time.monotonic()
    print(HEADER)
    for mode in sorted(MODES):
        if MODES[mode].missing():
            print(f"| {mode} | {MODES[mode].missing()} |")
            continue
        count = options.programs or count_of(mode)
        for fault in faults_of(mode):
            if options.names and not {mode, fault.name} & set(options.names):
                continue
            found = [try_fault(mode, fault, seed, count) for seed in range(1, options.seeds + 1)]
            print(row(found, count), flush=True)
            alarms = sum(each.alarms for each in found)
            if alarms:
                print(f"  {mode}: {alarms} programs differ without the fault as well", flush=True)
            whole = whole and all(each.number for each in found)
            if options.show:
                print(next((each.program for each in found if each.number), ""), flush=True)
    print(f"torch {torch.__version__}, {time.monotonic() - started:.0f} s")
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
