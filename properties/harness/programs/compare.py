"""How two observations of one program differ."""

import math
from dataclasses import dataclass
from typing import Any, Collection, List

from frostproof.properties.harness.programs.observe import Observation

ZEROS = "gradient of zeros"  # where eager has none
TOLERANCE = 1e-5  # values are small and mostly exact: more than rounding is asked for


@dataclass(frozen=True)
class Difference:
    """One aspect of one subject: what eager gave and what the mode gave."""

    aspect: str
    subject: str
    eager: Any
    other: Any
    scene: str = "first"

    def __str__(self) -> str:
        return f"{self.scene}: {self.aspect} of {self.subject}: eager {self.eager}, here {self.other}"


def close(one: Any, two: Any) -> bool:
    """Equal, numbers within TOLERANCE; NaN is like NaN."""
    if isinstance(one, (list, tuple)) and isinstance(two, (list, tuple)):
        return len(one) == len(two) and all(close(a, b) for a, b in zip(one, two))
    if isinstance(one, bool) or isinstance(two, bool) or isinstance(one, str) or isinstance(two, str):
        return bool(one == two)
    if isinstance(one, complex) and isinstance(two, complex):
        return close(one.real, two.real) and close(one.imag, two.imag)
    if isinstance(one, (int, float)) and isinstance(two, (int, float)):
        if math.isnan(one) or math.isnan(two):
            return math.isnan(one) and math.isnan(two)
        return one == two or abs(one - two) <= TOLERANCE * max(1.0, abs(one), abs(two))
    return bool(one == two)


def _nothing(value: Any) -> bool:
    """No gradient, or zeros."""
    if isinstance(value, list):
        return all(_nothing(each) for each in value)
    return value is None or value == 0


def differences(
    eager: Observation,
    other: Observation,
    aspects: Collection[str],
    scene: str = "first",
    lax: bool = False,
) -> List[Difference]:
    """Where two observations differ in these aspects; lax: no gradient is as good as zeros.

    Where one of them raised, that is all; where both did, the modes that they left: what a
    message says is not compared.
    """
    if ("skipped", scene) in eager or ("skipped", scene) in other:
        return []
    raised = [one.get(("error", "call")) for one in (eager, other)]
    if any(raised):
        aspect = "accepts" if raised[0] else "error"
        if not all(raised):
            both = raised[0] or "runs", raised[1] or "runs"
            return [Difference(aspect, "call", *both, scene)] if aspect in aspects else []
        eager = {key: value for key, value in eager.items() if key[0] == "mode"}
    found = []
    shared = "identity" in aspects
    for key, expected in eager.items():
        aspect, subject = key
        if aspect == "backward" and expected != "done":
            aspect = "backward accepts"
        if aspect == "gradient" and not shared and not subject.startswith(("x", "y", "z")):
            continue  # a result that is an input has its gradient
        if aspect not in aspects or (key not in other and aspect != "structure"):
            continue
        seen = other.get(key)
        if close(expected, seen) or (
            lax and aspect == "gradient" and _nothing(expected) and _nothing(seen)
        ):
            continue
        if aspect == "gradient" and expected is None and _nothing(seen):
            aspect = ZEROS
        found.append(Difference(aspect, subject, expected, seen, scene))
    return found
