"""What a tool of torch is asked to do by a law: an error of it breaks the law by name."""

import warnings
from typing import Callable, TypeVar

from frostproof.properties.harness.core.checks import LawBroken, fail
from frostproof.strategies.capabilities import NotOffered

Value = TypeVar("Value")


def attempt(action: Callable[[], Value], what: str) -> Value:
    """What ``action`` returns, its warnings aside; breaks the law with ``what`` where it raises."""
    __tracebackhide__ = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the older tools are deprecated
            return action()
    except (LawBroken, NotOffered):
        raise
    except Exception as problem:
        first = (str(problem).strip().split("\n") or [""])[0][:200]
        fail(f"{what} raised {type(problem).__name__}: {first}")
