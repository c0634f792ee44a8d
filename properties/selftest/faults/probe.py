"""Whether a fault does anything: its witness before and after, in this fresh process."""

import json
import sys
from typing import Any, Dict

from properties.selftest.faults.fault import all_faults


def probe(name: str) -> Dict[str, Any]:
    """Apply a fault here: {"healthy": witness before, "broken": the witness was False after}."""
    chosen = all_faults()[name]
    healthy = chosen.witness()
    chosen.apply()
    return {"healthy": bool(healthy), "broken": not chosen.witness()}


if __name__ == "__main__":
    print(json.dumps(probe(sys.argv[1])))
