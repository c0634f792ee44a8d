"""Whole commands: imports, collection, workers, seconds to the first failure under a fault."""

import os
import re
import subprocess
import sys
import time
from typing import Any, Dict, List, Sequence

from frostproof.properties.selftest.faults.fault import all_faults
from frostproof.properties.selftest.faults.process import ROOT
from frostproof.properties.selftest.faults.runner import run_one

# Seen by different laws: an early one, a value, one dtype only, a late step.
FAULTS = (
    "detach_copies",
    "sgd_ignores_dampening",
    "adam_skips_second_group",
    "adamax_decays_frozen_of_second_group",
)
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")


def wall(command: Sequence[str]) -> float:
    """Seconds of a command; raises RuntimeError where it fails."""
    started = time.monotonic()
    done = subprocess.run(
        list(command), cwd=str(ROOT), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}")
    return time.monotonic() - started


def start_up(rounds: int) -> Dict[str, float]:
    """Best seconds of ``import torch`` and of collecting every law."""
    commands = {
        "import_torch": (sys.executable, "-c", "import torch"),
        "collect": (*PYTEST, "-n", "0", "--collect-only", "properties"),
    }
    found = {name: min(wall(command) for _ in range(rounds)) for name, command in commands.items()}
    found["collect_above_import"] = found["collect"] - found["import_torch"]
    return {name: round(value, 2) for name, value in found.items()}


def workers(counts: Sequence[int], arguments: Sequence[str]) -> List[Dict[str, Any]]:
    """The default run with n workers: its wall seconds, and without what an empty run takes."""
    found: List[Dict[str, Any]] = []
    for count in counts:
        command = (*PYTEST, "-n", str(count), "--hypothesis-seed=1", *arguments)
        nothing = wall((*command, "properties/test_article.py", "-k", "lambda"))
        whole = wall((*command, "properties"))
        found.append(
            {"workers": count, "wall_s": round(whole, 1), "without_start_s": round(whole - nothing, 1)}
        )
    for row in found:
        row["speed_up"] = round(found[0]["without_start_s"] / row["without_start_s"], 2)
    return found


def first_failures(names: Sequence[str]) -> List[Dict[str, Any]]:
    """Seconds until a law fails under each fault, imports included."""
    found = []
    for name in names:
        outcome = run_one(all_faults()[name], 1, "default", 120.0)
        law = re.sub(r"^properties/", "", outcome.test)
        found.append(
            {"fault": name, "caught": outcome.expected, "law": law, "seconds": outcome.seconds}
        )
    return found


def worker_counts() -> List[int]:
    """No worker, then 1, 2, 4, ... up to the number of cores."""
    cores = os.cpu_count() or 1
    return [0, *[count for count in (1, 2, 4, 8, 16) if count <= cores]]
