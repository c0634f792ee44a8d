"""What was found wrong, and how it is told: many names with one cause are one sentence."""

from dataclasses import dataclass, field
from typing import Dict, List, Optional, Sequence, Tuple


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


@dataclass
class Movement:
    """Something that should stand, and moved in some steps, each time by the same cause.

    beginning, end: the sentence around the steps; change: the largest one.
    """

    law: str
    subject: str
    cause: str
    beginning: str
    end: str = ""
    change: Optional[float] = None
    steps: List[int] = field(default_factory=list)

    def add(self, step: int, change: Optional[float]) -> None:
        """It moved in one more step."""
        if step not in self.steps:
            self.steps.append(step)
        if change is not None and not (self.change is not None and self.change >= change):
            self.change = change

    def finding(self) -> Finding:
        """As it is told."""
        by = "" if self.change is None else f", by {self.change:.3g} at most"
        sentence = f"{self.beginning} moved in {in_steps(self.steps)}{by}{self.end}"
        return Finding(self.law, self.subject, sentence, self.cause)


def spans(numbers: Sequence[int]) -> str:
    """Ascending numbers in words: "2", "2 and 3", "2 to 6", "1, 3 and 5"."""
    runs: List[List[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    words: List[str] = []
    for run in runs:
        words += [f"{run[0]} to {run[-1]}"] if len(run) > 2 else [str(number) for number in run]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def in_steps(steps: Sequence[int]) -> str:
    """Steps in words: "step 2", "steps 2 and 3"."""
    return f"step{'s' * (len(steps) > 1)} {spans(steps)}"


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
