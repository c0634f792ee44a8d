"""Runs workers until time is up, restarts those that end, and writes the report."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

import frostproof
from frostproof.properties.harness.hunting.shrink import Fact
from frostproof.properties.harness.hunting.source import Find, source_of

PACKAGE = str(Path(frostproof.__file__).parents[1])
STILL = 120.0  # seconds on one case after which a worker is taken to hang
ALONE = 60.0  # seconds that a case which ended a worker has to end a process of its own
WORKER = "frostproof.properties.harness.hunting.worker"


def environment() -> Dict[str, str]:
    """Of a worker: one thread, and the package where it is found."""
    paths = os.pathsep.join(filter(None, (PACKAGE, os.environ.get("PYTHONPATH", ""))))
    quiet = {"TORCH_LOGS": "-all", "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **quiet, "PYTHONPATH": paths}


class Worker:
    """One process, and what it is doing."""

    def __init__(self, number: int, command: List[str], folder: Path) -> None:
        self.number = number
        self.path = folder / f"worker-{number}.current"
        self.path.write_text("", encoding="utf-8")
        self.log = open(folder / f"worker-{number}.log", "ab")
        self.process = subprocess.Popen(
            command, env=environment(), stdout=self.log, stderr=self.log, start_new_session=True
        )

    def still(self) -> float:
        """How long it has been on one case, in seconds."""
        return time.time() - self.path.stat().st_mtime

    def end(self) -> None:
        """End it and all that it has started."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.log.close()


class Hunt:
    """A hunt in a folder, which can be gone on with."""

    def __init__(
        self,
        source: str,
        modes: List[str],
        folder: Path,
        jobs: int,
        seed: int,
        still: float = STILL,
        device: str = "cpu",
    ) -> None:
        self.source, self.modes, self.folder = source, modes, folder
        self.jobs, self.seed, self.still, self.device = jobs, seed, still, device
        folder.mkdir(parents=True, exist_ok=True)
        numbers = [int(path.stem.split("-")[1]) for path in folder.glob("worker-*.jsonl")]
        self.next = max(numbers, default=-1) + 1

    def start(self, deadline: float) -> Worker:
        """One more worker, with cases of its own."""
        return self._started(self.modes, "--seed", str(self.seed), "--deadline", str(deadline))

    def _started(self, modes: List[str], *more: str) -> Worker:
        number, self.next = self.next, self.next + 1
        command = [sys.executable, "-m", WORKER, "--source", self.source, "--modes", ",".join(modes)]
        command += ["--output", str(self.folder), "--device", self.device, "--number", str(number)]
        return Worker(number, [*command, *more], self.folder)

    def ends_alone(self, mode: str, case: str) -> bool:
        """Whether a case ends a process of its own too: it has no part in what others left behind."""
        worker = self._started([mode], "--judge", case)
        try:
            return worker.process.wait(ALONE) != 0
        except subprocess.TimeoutExpired:
            return True
        finally:
            worker.end()

    def ended(self, worker: Worker, how: str) -> None:
        """Write down a case that ended its process: a find of its own kind, where it does so alone."""
        try:
            told = json.loads(worker.path.read_text(encoding="utf-8"))
        except ValueError:
            return
        mode, case = told["mode"], told["case"]
        line = {"kind": "trouble", "text": how, **told}
        if self.ends_alone(mode, case):
            source = source_of(self.source, self.device)
            skeleton = source.skeleton(source.load(case))
            fact = Fact("process", "process", f"it {how}", how)
            find = Find(self.source, mode, case, fact, skeleton, case, self.device)
            line = {"kind": "find", "find": find.line()}
        with open(self.folder / f"worker-{worker.number}.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def run(self, minutes: float) -> None:
        """Hunt for so many minutes, with a line of progress every 20 seconds."""
        deadline = time.time() + minutes * 60
        workers = [self.start(deadline) for _ in range(self.jobs)]
        said = time.time()
        try:
            while workers and time.time() < deadline + 40:
                time.sleep(0.5)
                for worker in list(workers):
                    code: Optional[int] = worker.process.poll()
                    hangs = code is None and worker.still() > self.still
                    if code is None and not hangs:
                        continue
                    worker.end()
                    workers.remove(worker)
                    if hangs or code:
                        self.ended(worker, "hangs" if hangs else f"ends with code {code}")
                    if time.time() < deadline - 10:
                        workers.append(self.start(deadline))
                if time.time() - said > 20:
                    said = time.time()
                    print(progress(self.folder, deadline), flush=True)
        finally:
            for worker in workers:
                worker.end()


def lines(folder: Path) -> List[Dict[str, Any]]:
    """Every whole line of every worker."""
    found = []
    for path in sorted(folder.glob("worker-*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:  # the last line of a process that was ended
                continue
    return found


def counts(told: List[Dict[str, Any]]) -> Dict[str, List[float]]:
    """[ran, refused, differing, not known, seconds] of each mode."""
    total: Dict[str, List[float]] = {}
    for line in told:
        if line["kind"] == "ran":
            for mode, numbers in line["modes"].items():
                total[mode] = [a + b for a, b in zip(total.get(mode, [0] * 5), numbers)]
    return total


def progress(folder: Path, deadline: float) -> str:
    """One line on how far a hunt is."""
    told = lines(folder)
    total = counts(told)
    ran, unknown = (int(sum(numbers[at] for numbers in total.values())) for at in (0, 3))
    groups = {Find.of(line["find"]).group for line in told if line["kind"] == "find"}
    left = max(0.0, deadline - time.time()) / 60
    met = f"{ran} runs, {unknown} differ in a way that no row covers, {len(groups)} groups"
    return f"{met}; {left:.1f} minutes left"
