"""The harness's own tests: strategies, oracle, command line, seeded faults."""

from pathlib import Path

import frostproof

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = str(Path(frostproof.__file__).parents[1])  # for PYTHONPATH: a checkout need not be installed
