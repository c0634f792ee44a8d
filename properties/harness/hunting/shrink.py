"""Make a case small while it still shows the same difference."""

import time
from typing import Any, Optional, Tuple

from frostproof.properties.harness.hunting.source import Fact, Refused, Source


def shows(
    source: Source, case: Any, mode: str, key: Tuple[str, str], scene: Optional[str] = None
) -> Optional[Fact]:
    """The uncovered difference of this key that a case shows in a mode; None where it does not."""
    try:
        facts = source.judge(case, mode, scene)
    except Refused:
        return None
    for fact in facts:
        if fact.key == key and not source.covered(case, mode, fact):
            return fact
    return None


def shrink(source: Source, case: Any, mode: str, fact: Fact, seconds: float) -> Tuple[Any, Fact]:
    """The smallest case that still shows ``fact.key``, as far as so many seconds go."""
    end = time.monotonic() + seconds
    scene: Optional[str] = None
    for tried in dict.fromkeys(("first", fact.scene)):
        alone = shows(source, case, mode, fact.key, tried)
        if alone is not None:
            scene, fact = tried, alone
            break
    again = True
    while again and time.monotonic() < end:
        again = False
        for candidate in source.simpler(case):
            if time.monotonic() > end:
                break
            if source.size(candidate) >= source.size(case):
                continue
            found = shows(source, candidate, mode, fact.key, scene)
            if found is not None:
                case, fact, again = candidate, found, True
                break
    return case, fact


def small_program(source: Source, case: Any, mode: str, fact: Fact, seconds: float = 5.0) -> str:
    """The program of a difference, of the smallest case and lightest mode that show it."""
    case, fact = shrink(source, case, mode, fact, seconds)
    mode, fact = lightest(source, case, mode, fact)
    return source.script(case, mode, fact)


def lightest(source: Source, case: Any, mode: str, fact: Fact) -> Tuple[str, Fact]:
    """The lightest mode in which a case shows the difference."""
    for other in source.lighter(mode):
        found = shows(source, case, other, fact.key, fact.scene) if other != mode else fact
        if found is not None:
            return other, found
    return mode, fact
