"""Whether faults do anything: the witness of each before and after, in a process of its own."""

import json
import os
import sys
from typing import Any, Dict, Sequence

from properties.selftest.faults.fault import all_faults


def probe(name: str) -> Dict[str, Any]:
    """Apply a fault here: {"healthy": witness before, "broken": the witness was False after}."""
    chosen = all_faults()[name]
    healthy = chosen.witness()
    chosen.apply()
    return {"fault": name, "healthy": bool(healthy), "broken": not chosen.witness()}


def probe_each(names: Sequence[str]) -> None:
    """Print one line of JSON for each fault; a fault that crashes prints none."""
    all_faults()  # before the forks: torch is imported once
    for name in names:
        child = os.fork()
        if child == 0:
            try:
                print(json.dumps(probe(name)), flush=True)
            finally:
                os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    probe_each(sys.argv[1:])
