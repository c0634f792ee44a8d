"""The laws that the harness collects: their tests and ids, asked of pytest itself."""

import json
import os
import tempfile
from pathlib import Path
from typing import Dict, List

import pytest

from frostproof.properties.harness.core.law import law_of
from frostproof.properties.selftest.faults.process import run_alone


def pytest_collection_finish(session: pytest.Session) -> None:
    """As a plugin: write {test: law id} to the file ``FROSTPROOF_CATALOGUE``."""
    path = os.environ.get("FROSTPROOF_CATALOGUE")
    if not path:
        return
    found = {
        item.nodeid.rpartition("/")[2].split("[")[0]: law_of(item)[0]
        for item in session.items
        if law_of(item)[0]
    }
    Path(path).write_text(json.dumps(found), encoding="utf-8")


def collected_laws() -> Dict[str, str]:
    """{"test_detach.py::test_shares_storage": "D1", ...}; raises RuntimeError where pytest fails."""
    with tempfile.TemporaryDirectory(prefix="frostproof-") as folder:
        path = Path(folder, "laws.json")
        command: List[str] = ["pytest", "--collect-only", "-q", "-n", "0", "--assert=plain"]
        command += ["-p", "no:cacheprovider", "-p", "frostproof.properties.selftest.faults.catalogue"]
        command += ["--device", "cpu"]
        environment = {"FROSTPROOF_CATALOGUE": str(path), "FROSTPROOF_FAULT": ""}
        code, output, _ = run_alone(command, environment, limit=300)
        if code != 0:
            raise RuntimeError(f"pytest cannot collect the laws:\n{output[-2000:]}")
        found: Dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        return found
