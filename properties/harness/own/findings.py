"""What was found wrong, and how it is told: many names with one cause are one sentence."""

from dataclasses import dataclass
from typing import Dict, List, Sequence, Tuple


@dataclass(frozen=True)
class Finding:
    """One tensor or module that breaks a law.

    law: its id; subject: the name; sentence: what was seen, without the name;
    cause: the likely cause, and what to do about it.
    """

    law: str
    subject: str
    sentence: str
    cause: str = ""


def named(names: Sequence[str], most: int = 6) -> str:
    """Names in a row, the first few of many."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def told(findings: Sequence[Finding]) -> str:
    """All findings as text: grouped by cause, the first one's details in full."""
    groups: Dict[Tuple[str, str], List[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.law, finding.cause), []).append(finding)
    lines: List[str] = []
    for (_, cause), group in groups.items():
        lines.append(f"{group[0].subject}: {group[0].sentence}")
        if len(group) > 1:
            lines.append(f"  the same: {named([finding.subject for finding in group[1:]])}")
        if cause:
            lines.append(f"  likely cause: {cause}")
    return "\n".join(lines)
