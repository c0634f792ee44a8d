"""One process of the hunt: ``python -m`` of this module, started by the driver.

It writes one JSON object a line to ``OUTPUT/worker-N.jsonl`` (what was run, what was found), and
before each run the case to ``OUTPUT/worker-N.current``, by which the driver knows what ended it.
"""

import argparse
import collections
import json
import os
import random
import sys
import time
import warnings
from pathlib import Path
from typing import Any, Dict, List, Optional

import torch

from frostproof.properties.harness.hunting.shrink import lightest, shrink
from frostproof.properties.harness.hunting.source import Find, Refused, Source, source_of

SHRINKING = 25.0  # seconds for one difference
TRUST = 0.9  # how often a case that has the shape of a known group is not looked at again


class Hunter:
    """Draws cases, runs them, and writes down what differs."""

    def __init__(self, source: Source, modes: List[str], folder: Path, number: int, seed: int) -> None:
        self.source, self.modes, self.folder, self.number = source, modes, folder, number
        self.random = random.Random(f"{seed}/{number}")
        self.known: Dict[Any, Find] = {}
        self.read: Dict[str, int] = {}
        self.counts: Dict[str, List[float]] = collections.defaultdict(lambda: [0, 0, 0, 0, 0.0])
        self.looked = 0.0

    def write(self, line: Dict[str, Any]) -> None:
        """Append one line."""
        with open(self.folder / f"worker-{self.number}.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def look_round(self) -> None:
        """Learn what the other workers, and earlier runs, have found."""
        if time.monotonic() - self.looked < 10:
            return
        self.looked = time.monotonic()
        for path in sorted(self.folder.glob("worker-*.jsonl")):
            start = self.read.get(path.name, 0)
            with open(path, encoding="utf-8") as file:
                file.seek(start)
                for line in iter(file.readline, ""):
                    if not line.endswith("\n"):
                        break
                    start += len(line.encode())
                    told = json.loads(line)
                    if told["kind"] == "find":
                        find = Find.of(told["find"])
                        self.known[find.group] = find
            self.read[path.name] = start

    def current(self, text: str) -> None:
        """Say what is run now, for the case that it ends this process."""
        path = self.folder / f"worker-{self.number}.current"
        path.write_text(text, encoding="utf-8")

    def known_group(self, case: Any, mode: str, key: Any) -> Optional[Find]:
        """A group found before that this difference probably belongs to."""
        for find in self.known.values():
            if find.fact.key == key and mode in self.related(find.mode):
                if self.source.contains(case, find.skeleton):
                    return find
        return None

    def related(self, mode: str) -> List[str]:
        """The modes that may share a cause with a mode."""
        return [other for other in self.modes if mode in self.source.lighter(other)] + [mode]

    def one(self) -> None:
        """Draw a case and run it in some modes."""
        case = self.source.draw(self.random)
        for mode in self.source.chosen(case, self.modes, self.random):
            count = self.counts[mode]
            self.current(json.dumps({"mode": mode, "case": repr(case)}))
            started = time.monotonic()
            try:
                facts = self.source.judge(case, mode)
            except Refused:
                count[1] += 1
                continue
            finally:
                count[4] += time.monotonic() - started
            count[0] += 1
            fresh: Dict[Any, Any] = {}
            for fact in facts:
                row = self.source.covered(case, mode, fact)
                if row:
                    self.write({"kind": "known", "row": row})
                else:
                    fresh.setdefault(fact.key, fact)
            count[2] += bool(facts)
            count[3] += bool(fresh)
            for key, fact in list(fresh.items())[:2]:
                group = self.known_group(case, mode, key)
                if group is not None and self.random.random() < TRUST:
                    self.write({"kind": "again", "group": repr(group.group)})
                    continue
                small, told = shrink(self.source, case, mode, fact, SHRINKING)
                light, told = lightest(self.source, small, mode, told)
                skeleton = self.source.skeleton(small)
                find = Find(
                    self.source.name, light, repr(small), told, skeleton, repr(case), self.source.device
                )
                if find.group not in self.known:
                    self.known[find.group] = find
                    self.write({"kind": "find", "find": find.line()})
                else:
                    self.write({"kind": "again", "group": repr(find.group)})

    def tell(self) -> None:
        """Write the counts of each mode since the last time."""
        self.write({"kind": "ran", "modes": dict(self.counts)})
        self.counts.clear()

    def run(self, deadline: float) -> None:
        """Hunt until the time of day ``deadline``."""
        told = time.monotonic()
        while time.time() < deadline:
            self.look_round()
            try:
                self.one()
            except RecursionError as problem:
                self.write({"kind": "trouble", "text": repr(problem)[:300]})
            if time.monotonic() - told > 15:
                self.tell()
                told = time.monotonic()
        self.tell()
        self.current("")


def main() -> int:
    """Run one worker, or judge one case (``--judge``), as the driver asks."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--source", required=True)
    parser.add_argument("--modes", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--number", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--deadline", type=float, default=0.0)
    parser.add_argument("--judge", default="")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(options.output / "inductor"))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    source = source_of(options.source, options.device)
    if options.judge:
        try:
            source.judge(source.load(options.judge), options.modes)
        except Refused:
            pass
        return 0
    Hunter(source, options.modes.split(","), options.output, options.number, options.seed).run(
        options.deadline
    )
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # what threads are left must not hold the driver up
