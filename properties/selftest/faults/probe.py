"""Whether faults do anything: the witness of each before and after, in a process of its own."""

import json
import os
import sys
import traceback
from typing import Any, Dict, Sequence

from frostproof.properties.selftest.faults.fault import all_faults


def probe(name: str) -> Dict[str, Any]:
    """Apply a fault here: {"healthy": witness before, "broken": the witness was False after}."""
    chosen = all_faults()[name]
    healthy = chosen.witness()
    chosen.apply()
    return {"fault": name, "healthy": bool(healthy), "broken": not chosen.witness()}


def probe_each(names: Sequence[str]) -> bool:
    """Print one line of JSON for each fault; False where a witness raised, and so printed none."""
    crashed = False
    all_faults()  # before the forks: torch is imported once
    for name in names:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                print(json.dumps(probe(name)), flush=True)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        crashed |= os.waitpid(child, 0)[1] != 0
    return not crashed


if __name__ == "__main__":
    sys.exit(not probe_each(sys.argv[1:]))
