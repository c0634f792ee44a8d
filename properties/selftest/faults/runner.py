"""Runs the harness against each fault, and judges whether the right law caught it."""

import json
import os
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from frostproof.properties.selftest.faults.fault import Fault
from frostproof.properties.selftest.faults.process import run_alone, run_harness


@dataclass(frozen=True)
class Outcome:
    """What one run of the harness said of one fault.

    caught: some test failed; expected: the first failure is an expected law's, by its own
    assertion or an error of torch inside it; inert: the witness saw no fault, so that
    nothing was run; late: the time limit came first; seconds: imports included;
    others: every further law that failed, where the run went on after the first.
    """

    fault: str
    seed: int
    caught: bool = False
    expected: bool = False
    inert: str = ""
    late: bool = False
    law: str = ""
    test: str = ""
    kind: str = ""
    message: str = ""
    examples: int = 0
    seconds: float = 0.0
    others: Tuple[str, ...] = ()


def check_witness(name: str) -> str:
    """What is wrong; empty where the witness holds on a healthy torch and fails under the fault."""
    command = ["frostproof.properties.selftest.faults.probe", name]
    code, output, _ = run_alone(command, {"FROSTPROOF_FAULT": ""}, limit=120)
    if code != 0:
        return f"its witness fails: {output.strip()[-300:]}"
    said = json.loads(output.strip().split("\n")[-1])
    if not said["healthy"]:
        return "its witness is False on a healthy torch"
    return "" if said["broken"] else "its witness is still True under the fault"


def judge(fault: Fault, seed: int, record: Dict[str, Any]) -> Outcome:
    """The outcome of a run of the harness under a fault."""
    facts: Dict[str, Any] = {"fault": fault.name, "seed": seed, "seconds": record["seconds"]}
    late = record["exit_code"] is None
    if not record["failures"]:
        message = record.get("output", "")
        crashed = not late and record["exit_code"] != 0
        facts.update(examples=record["examples"], late=late, message=message)
        return Outcome(**facts, caught=crashed, kind="crash" if crashed else "")
    first = record["failures"][0]
    return Outcome(
        **facts,
        caught=True,
        expected=not late
        and bool({*first["law"].split()} & {*fault.laws})
        and first["kind"] in ("law", "torch"),
        late=late,
        law=first["law"],
        test=first["test"],
        kind=first["kind"],
        message=f"{first['error']}: {first['message']}",
        examples=first["examples"],
        others=tuple(dict.fromkeys(other["test"] for other in record["failures"][1:])),
    )


class Results:
    """Outcomes in a JSON file that is whole after each of them; raises ValueError for another's."""

    def __init__(self, path: Optional[Path], facts: Dict[str, Any], resume: bool) -> None:
        self.path = path
        self.facts = facts
        self.outcomes: List[Outcome] = []
        if path is not None and resume and path.exists():
            saved = json.loads(path.read_text(encoding="utf-8"))
            if saved["facts"] != facts:
                raise ValueError(f"{path} is of another run: {saved['facts']}, not {facts}")
            self.outcomes = [
                Outcome(**{**one, "others": tuple(one["others"])}) for one in saved["outcomes"]
            ]

    def done(self, name: str, seed: int) -> bool:
        return any((one.fault, one.seed) == (name, seed) for one in self.outcomes)

    def add(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self.write()

    def write(self) -> None:
        if self.path is None:
            return
        ordered = sorted(self.outcomes, key=lambda one: (one.fault, one.seed))
        document = {"facts": self.facts, "outcomes": [asdict(one) for one in ordered]}
        part = self.path.with_name(self.path.name + ".part")
        part.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        os.replace(part, self.path)


def run_one(
    fault: Fault,
    seed: int,
    profile: str,
    limit: float,
    first: bool = True,
    arguments: Sequence[str] = (),
) -> Outcome:
    """One run of the harness under a fault whose witness has been checked."""
    record = run_harness(seed, profile, fault=fault.name, limit=limit, first=first, arguments=arguments)
    return judge(fault, seed, record)


def run_faults(
    faults: Sequence[Fault],
    seeds: Sequence[int],
    *,
    profile: str = "default",
    limit: float = 60.0,
    jobs: int = 1,
    first: bool = True,
    skip: Callable[[str, int], bool] = lambda name, seed: False,
    arguments: Sequence[str] = (),
) -> Iterator[Outcome]:
    """The outcome of each fault and seed, as they come; ``skip`` names those already known.

    arguments: further ones for pytest, such as the tests to run.
    """

    def all_seeds(fault: Fault) -> List[Outcome]:
        wanted = [seed for seed in seeds if not skip(fault.name, seed)]
        inert = check_witness(fault.name) if wanted else ""
        if inert:
            return [Outcome(fault.name, seed, inert=inert) for seed in wanted]
        return [run_one(fault, seed, profile, limit, first, arguments) for seed in wanted]

    pool = ThreadPoolExecutor(jobs)
    try:
        for future in as_completed([pool.submit(all_seeds, fault) for fault in faults]):
            yield from future.result()
    finally:
        # a worker in the middle of a fault ends with it; the others do not begin
        for thread in (pool,):
            thread.shutdown(wait=True, cancel_futures=True)
