"""The harness run in a process of its own, with a record of what it found."""

import atexit
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from frostproof.properties.selftest import PACKAGE, ROOT


class Warm:
    """The ``warm`` process of one thread; import_seconds: what its imports took."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "frostproof.properties.selftest.faults.warm"],
            cwd=str(ROOT),
            env={**os.environ, "PYTHONPATH": PACKAGE},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        self.import_seconds = float(self._answer()["seconds"])
        atexit.register(self.close)

    def _answer(self) -> Dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the process that runs the harness has died: is torch installed here?")
        answer: Dict[str, Any] = json.loads(line)
        return answer

    def run(self, **request: Any) -> Optional[int]:
        """The exit code of one run; None where it went past its limit."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        code: Optional[int] = self._answer()["code"]
        return code

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


_THREAD = threading.local()


def _warm() -> Warm:
    if not hasattr(_THREAD, "warm"):
        _THREAD.warm = Warm()
    warm: Warm = _THREAD.warm
    return warm


def run_alone(
    arguments: Sequence[str], environment: Dict[str, str], limit: Optional[float]
) -> Tuple[Optional[int], str, float]:
    """(exit code, output, seconds) of ``python -m ARGUMENTS`` in a process of its own.

    The code is None where it ran past ``limit`` seconds. It begins with torch imported, by
    a process that nothing else has used; what the imports took is counted in its seconds.
    """
    warm = _warm()
    started = time.monotonic()
    with tempfile.NamedTemporaryFile(prefix="frostproof-") as output:
        code = warm.run(
            arguments=list(arguments),
            environment=environment,
            output=output.name,
            limit=None if limit is None else max(limit - warm.import_seconds, 0.1),
        )
        seconds = time.monotonic() - started + warm.import_seconds
        return code, output.read().decode("utf-8", "replace"), round(seconds, 2)


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
        command: List[str] = ["pytest", "-q", "-n", "0", "--assert=plain"]
        command += ["-p", "no:cacheprovider", "-p", "frostproof.properties.selftest.faults.recorder"]
        command += ["-p", "frostproof.properties.selftest.faults.plugin"] if fault else []
        command += ["-x"] if first else []
        command += ["--device", "cpu", "--hypothesis-profile", profile, f"--hypothesis-seed={seed}"]
        environment = {
            "FROSTPROOF_FAULT": fault,
            "FROSTPROOF_RECORD": str(record_path),
            "HYPOTHESIS_STORAGE_DIRECTORY": str(Path(folder, "hypothesis")),
        }
        code, output, seconds = run_alone([*command, *arguments], environment, limit)
        record: Dict[str, Any] = {"tests": 0, "examples": 0, "failures": []}
        if record_path.exists():
            record = json.loads(record_path.read_text(encoding="utf-8"))
    record.update(seconds=seconds, exit_code=code)
    if code not in (0, 1) and not record["failures"]:
        record["output"] = output[-2000:]
    return record
