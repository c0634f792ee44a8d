"""The report of a law whose process died: what is known from its note, and how it died."""

import platform
import signal
from pathlib import Path
from typing import Any, List, Optional, Tuple

import hypothesis
import torch

from frostproof.properties.harness.machine.running import Noted

MOST = 4_000  # characters of a stack


def manner(code: Optional[int]) -> str:
    """How a process ended, from its exit status (None: not known)."""
    if code is None:
        return "the process died"
    if code < 0:
        try:
            return f"the process was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"the process was killed by signal {-code}"
    return f"the process ended with exit status {code}"


def exit_status(node: Any) -> Optional[int]:
    """Of an xdist worker that is gone; None where it cannot be known."""
    process = getattr(getattr(getattr(node, "gateway", None), "_io", None), "popen", None)
    try:
        return None if process is None else int(process.wait(timeout=2))
    except Exception:
        return None


def _read(path: Path) -> str:
    """The beginning of a file, up to pytest's own frames."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
    kept = []
    for line in text.splitlines():
        if "/_pytest/" in line:
            break
        kept.append(line)
    return "\n".join(kept)[:MOST]


def traces(folder: Path, worker: str) -> Tuple[str, str]:
    """(the fault that a worker wrote before it left, the stacks that faulthandler wrote)."""
    return _read(folder / f"{worker}.fault"), _read(folder / f"{worker}.stacks")


def seen_of(fault: str, stacks: str, code: Optional[int]) -> str:
    """What happened, in a line or more."""
    if fault:
        return fault
    if stacks.startswith("Timeout"):
        return "the law stood still, in code that no exception reaches: its process was ended"
    return manner(code)


def message(noted: Noted, seen: str, example: str) -> str:
    """The report of a law whose process died: in the same form as that of a broken one."""
    properties = dict(noted.properties)
    where = ", ".join(filter(None, (properties.get("device"), properties.get("dtype"))))
    parts: List[Tuple[str, str]] = [
        ("expected", properties.get("sentence", "")),
        ("seen", seen),
        ("", "This is the machine's fault or a crash of torch, not a value that breaks the law."),
        ("example", example),
        (
            "on",
            f"{where + '; ' if where else ''}torch {torch.__version__}, "
            f"Hypothesis {hypothesis.__version__}, Python {platform.python_version()}",
        ),
        ("rerun", str(noted.law.get("rerun", ""))),
    ]
    lines = []
    for label, text in parts:
        for number, line in enumerate(text.split("\n") if text else []):
            lines.append(f"{'' if number else label:<10}{line}")
    return "\n".join(lines)
