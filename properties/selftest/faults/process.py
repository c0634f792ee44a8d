"""The harness run in a process of its own, with a record of what it found."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

ROOT = Path(__file__).resolve().parents[3]


def run_alone(
    command: Sequence[str], environment: Dict[str, str], limit: Optional[float]
) -> "tuple[Optional[int], str]":
    """(exit code, output) of a command in its own process group; None where it ran past ``limit``."""
    with tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace") as output:
        process = subprocess.Popen(
            list(command),
            cwd=str(ROOT),
            env={**os.environ, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        code: Optional[int] = None
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            pass
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(0)
        return code, output.read()


def run_harness(
    seed: int,
    profile: str,
    *,
    fault: str = "",
    limit: Optional[float] = None,
    first: bool = True,
    arguments: Sequence[str] = (),
) -> Dict[str, Any]:
    """The recorder's record of one run of the harness on the CPU, with exit code and seconds.

    fault: its name, "" for a healthy torch; limit: seconds; first: stop at the first failure.
    No examples are kept from one run to the next, so that seeds are independent.
    """
    with tempfile.TemporaryDirectory(prefix="frostproof-") as folder:
        record_path = Path(folder, "record.json")
        command: List[str] = [sys.executable, "-m", "pytest", "-q", "-n", "0"]
        command += ["-p", "no:cacheprovider", "-p", "properties.selftest.faults.recorder"]
        command += ["-p", "properties.selftest.faults.plugin"] if fault else []
        command += ["-x"] if first else []
        command += ["--device", "cpu", "--hypothesis-profile", profile, f"--hypothesis-seed={seed}"]
        environment = {
            "FROSTPROOF_FAULT": fault,
            "FROSTPROOF_RECORD": str(record_path),
            "HYPOTHESIS_STORAGE_DIRECTORY": str(Path(folder, "hypothesis")),
        }
        started = time.monotonic()
        code, output = run_alone([*command, *arguments], environment, limit)
        seconds = round(time.monotonic() - started, 2)
        record: Dict[str, Any] = {"tests": 0, "examples": 0, "failures": []}
        if record_path.exists():
            record = json.loads(record_path.read_text(encoding="utf-8"))
    record.update(seconds=seconds, exit_code=code)
    if code not in (0, 1) and not record["failures"]:
        record["output"] = output[-2000:]
    return record
