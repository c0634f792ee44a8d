"""Shards: one law's examples spread over several tests, so that many workers share it.

A shard has a seed of its own, since seeds come from the test's id, and its part of the
examples. Only laws that draw are split; enumerated ones stay whole.
"""

import re
from contextlib import contextmanager
from typing import Any, Iterator, Tuple

import pytest

FIXTURE = "shard"
# where Hypothesis keeps a law's settings, and what tells a test's examples from another's
USED = "_hypothesis_internal_use_settings"
DIGEST = "_hypothesis_internal_add_digest"
MARK = re.compile(r"\[shard\d+of\d+\]|-?shard\d+of\d+(?=\]|$)")
MOST = 10_000


def count(asked: Any, workers: int) -> int:
    """How many shards ``--shards`` asks for; raises UsageError for what is no number of them."""
    if asked is None:
        return 1
    if asked == "auto":
        return max(1, workers)
    if not asked.isdigit() or not 1 <= int(asked) <= MOST:
        raise pytest.UsageError(f"--shards {asked}: give auto, or a number from 1 to {MOST}")
    return int(asked)


def parametrize(metafunc: pytest.Metafunc, shards: int) -> None:
    """Split a law that draws: ``shard1of4`` comes last in the ids."""
    draws = hasattr(metafunc.function, "hypothesis")
    if shards < 2 or not (draws or metafunc.definition.get_closest_marker("draws")):
        return
    metafunc.fixturenames.append(FIXTURE)  # not an argument of the law: read from the item
    metafunc.parametrize(
        FIXTURE,
        [(number, shards) for number in range(1, shards + 1)],
        ids=[f"shard{number}of{shards}" for number in range(1, shards + 1)],
    )


def shard_of(item: Any) -> Tuple[int, int]:
    """(number from 1, how many): (1, 1) for a whole law."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    number, shards = parameters.get(FIXTURE, (1, 1))
    return number, shards


def whole(text: str) -> str:
    """A test's id, or the part of it in brackets, without its shard."""
    return MARK.sub("", text)


def share(examples: int, number: int, shards: int) -> int:
    """The examples of one shard: they add up to all, and are never none."""
    return max(1, examples // shards + (number <= examples % shards))


@contextmanager
def settings_of(item: Any) -> Iterator[None]:
    """Hypothesis's settings while one shard runs: its part of the examples.

    What the example database kept is tried by the first shard alone.
    """
    number, shards = shard_of(item)
    if shards == 1:
        yield
        return
    from hypothesis import Phase, settings

    name = settings.get_current_profile_name()
    whole_law: Any = getattr(item.obj, USED, settings.default)
    phases = [phase for phase in whole_law.phases if number == 1 or phase != Phase.reuse]
    part = settings(
        whole_law, max_examples=share(whole_law.max_examples, number, shards), phases=phases
    )
    settings.register_profile(f"{name} (shard)", part)
    settings.load_profile(f"{name} (shard)")  # for laws that start Hypothesis themselves
    drawn = hasattr(item.obj, "hypothesis")
    if drawn:
        setattr(item.obj, USED, part)
    try:
        yield
    finally:
        settings.load_profile(name)
        if drawn:
            setattr(item.obj, USED, whole_law)
