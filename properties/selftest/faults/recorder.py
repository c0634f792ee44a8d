"""A pytest plugin that writes to the file ``FROSTPROOF_RECORD`` which laws failed, and how.

A failure is of kind "law" where a law's assertion was broken, "torch" where a torch
operation raised RuntimeError inside a law, and "crash" for all else (a TypeError, an error
outside of any law): a fault that merely makes the harness crash has not been caught.
Examples are the profile's own, but a failing one is not shrunk: it is not read.
"""

import json
import os
import time
from pathlib import Path
from typing import Any, Dict, Generator, List, Optional

import pytest
from hypothesis import Phase, settings

from frostproof.properties.harness.core.checks import LawBroken
from frostproof.properties.harness.core.law import law_of

STARTED = time.monotonic()


def _causes(error: Optional[BaseException]) -> List[BaseException]:
    """An error, the members of its group, and what each was raised from."""
    found: List[BaseException] = []
    waiting: List[Optional[BaseException]] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or any(one is other for other in found):
            continue
        found.append(one)
        waiting += [*getattr(one, "exceptions", ()), one.__cause__, one.__context__]
    return found


def kind_of(error: Optional[BaseException], law: str) -> str:
    """ "law", "torch" or "crash": see above."""
    if any(isinstance(one, LawBroken) for one in _causes(error)):
        return "law"
    return "torch" if law and isinstance(error, RuntimeError) else "crash"


class Recorder:
    """Counts tests and examples, and keeps each failure; writes them after each failure."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tests = 0
        self.examples = 0
        self.failures: List[Dict[str, Any]] = []

    def write(self) -> None:
        record = {
            "tests": self.tests,
            "examples": self.examples,
            "seconds": round(time.monotonic() - STARTED, 2),
            "failures": self.failures,
        }
        self.path.write_text(json.dumps(record), encoding="utf-8")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: "pytest.CallInfo[None]"
    ) -> Generator[None, Any, Any]:
        report = yield
        if call.when == "call":
            self.tests += 1
            self.examples += int(dict(item.user_properties).get("examples", 0))  # type: ignore[arg-type, call-overload]
        if report.failed:
            error = call.excinfo.value if call.excinfo else None
            law = law_of(item)[0]
            self.failures.append(
                {
                    "test": item.nodeid,
                    "law": law,
                    "kind": kind_of(error, law if call.when == "call" else ""),
                    "error": type(error).__name__ if error else "a known defect that holds",
                    "message": str(error).strip().split("\n")[0][:300],
                    "examples": self.examples,
                    "seconds": round(time.monotonic() - STARTED, 2),
                }
            )
            self.write()
        return report

    def pytest_sessionstart(self) -> None:
        phases = (Phase.explicit, Phase.reuse, Phase.generate)
        settings.register_profile("recorded", settings(phases=phases))
        settings.load_profile("recorded")

    def pytest_sessionfinish(self) -> None:
        self.write()


def pytest_configure(config: pytest.Config) -> None:
    path = os.environ.get("FROSTPROOF_RECORD")
    if path:
        config.pluginmanager.register(Recorder(Path(path)), "frostproof-recorder")
