"""How much a law really checked: examples with at least one assertion.

A law whose every example passed without an assertion has shown nothing: it fails. One that
this torch lacks the means for is "not offered": an example that cannot be prepared is
left out, and where none can be, that is the law's outcome.
"""

import functools
import time
from contextlib import contextmanager
from typing import Any, ClassVar, Dict, Iterator, List, Optional, Tuple

import hypothesis
import pytest
import torch
from _pytest.outcomes import Skipped, XFailed

from frostproof.properties.harness.core import shards
from frostproof.properties.harness.core.checks import LawBroken, Tally
from frostproof.properties.harness.core.law import DIFFERENTIABLE, FLOATING, law_of
from frostproof.properties.harness.defects import known
from frostproof.properties.harness.machine import faults, running
from frostproof.properties.harness.machine.faults import MachineFault
from frostproof.properties.harness.machine.hang import Hang
from frostproof.properties.harness.running.recording import Recorder
from frostproof.properties.harness.session.explanation import RECORDER
from frostproof.strategies.capabilities import NotOffered, lacks, require


class Count:
    """Examples run, those among them that made an assertion, and why others could not be."""

    def __init__(self, item: Optional[pytest.Item] = None) -> None:
        self.examples = 0
        self.checked = 0
        self.lacks = ""
        self.known = known.Conditional(item)


class Current:
    """The law that is running now."""

    seed = 0  # for laws that start Hypothesis themselves
    plugins: ClassVar[List[str]] = []  # of ``pytest -p``: modules for a law's other process
    count: ClassVar[Optional[Count]] = None
    trail: ClassVar[List[Tuple[str, Dict[str, Any]]]] = []  # the events of a history


LACKS = "lacks"  # in the record: what this torch does not offer, to a law or to some of its examples


class KnownHere(XFailed):
    """The outcome of a law of which some examples showed a known defect, and no other broke it."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)


class NotOfferedHere(Skipped):
    """The outcome of a law that this torch lacks the means for."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"not offered by this torch: {reason}")


def counted(test: Any, count: Count, recorder: Recorder) -> Any:
    """A law's function that counts its examples, and keeps the last one that raised."""

    @functools.wraps(test)
    def example(*arguments: Any, **named: Any) -> Any:
        __tracebackhide__ = True
        before = Tally.assertions
        count.examples += 1
        torch.set_grad_enabled(True)  # whatever the example before has left behind
        running.example()
        recorder.current = named = recorder.watched(named)
        try:
            result = test(*arguments, **named)
            if count.known.rows:
                count.known.holds(drawn(named))
            return result
        except NotOffered as problem:
            before = Tally.assertions  # what was checked of it does not count
            count.lacks = count.lacks or str(problem)
            return None
        except Exception as problem:
            if count.known.rows and count.known.covers(drawn(named), problem):
                return None
            recorder.failed = named
            faults.raise_fault(problem)
            raise
        finally:
            count.checked += Tally.assertions > before

    return example


def drawn(named: Dict[str, Any]) -> List[Any]:
    """The values of an example: arguments, and what its data drew."""
    return [*named.values(), *getattr(named.get("data"), "drawn", ())]


@contextmanager
def case(*values: Any) -> Iterator[None]:
    """One case of a law that enumerates: where it breaks in a known way, the next ones still run."""
    count = Current.count
    if count is None or not count.known.rows:
        yield
        return
    try:
        yield
        count.known.holds(values)
    except Exception as problem:
        if not count.known.covers(values, problem):
            raise


def need_offered(item: Any) -> None:
    """Raise NotOffered where this torch lacks what a law is about, or the arithmetic of a dtype."""
    of_the_cell = (mark.args[0] for mark in item.iter_markers("needs"))
    for needs in (item.get_closest_marker("law").kwargs["needs"], *of_the_cell):
        missing = needs() if callable(needs) else needs and lacks(needs)
        if missing:
            raise NotOffered(missing)
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    group, dtype = item.get_closest_marker("law").kwargs["dtypes"], parameters.get("dtype")
    if group in (FLOATING, DIFFERENTIABLE) and dtype in (torch.bfloat16, torch.float16):
        require("relu", parameters.get("device", "cpu"), dtype)


def described(item: Any) -> List[Tuple[str, str]]:
    """What the record says of a law's test, broken or not: plain strings, as xdist wants."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    number, split = shards.shard_of(item)
    known = [
        ("device", str(parameters.get("device", ""))),
        ("dtype", str(parameters.get("dtype", "")).rpartition(".")[2]),
        ("torch", str(torch.__version__)),
        ("law", law_of(item)[0]),
        ("shard", f"{number} of {split}" if split > 1 else ""),
        ("sentence", " ".join((item.obj.__doc__ or "").split())),
    ]
    return [(name, value) for name, value in known if value]


@contextmanager
def collecting(item: pytest.Item, seed: int) -> Iterator[None]:
    """Seed one law, count its examples, record the count, and fail it where it checked none."""
    function = item.obj  # type: ignore[attr-defined]
    count = Current.count = Count(item)
    Current.seed, Current.trail = seed, []
    recorder = item.stash[RECORDER] = Recorder()
    handle = getattr(function, "hypothesis", None)
    before, cases, started = Tally.assertions, Tally.cases, time.monotonic()
    inner = None if handle is None else handle.inner_test
    if handle is not None:
        used = getattr(function, shards.USED)
        hypothesis.seed(seed)(function)  # which also takes the example database away
        setattr(function, shards.USED, used)
        handle.inner_test = counted(inner, count, recorder)
        # what is kept of a law in one cell: another cell, where it passes, must not delete it
        setattr(handle.inner_test, shards.DIGEST, shards.whole(item.nodeid).encode())
    try:
        yield
    except NotOffered as problem:  # of a law that enumerates its cases
        count.lacks, before, cases = str(problem), Tally.assertions, Tally.cases
    except (Exception, MachineFault, Hang):
        if Current.trail:
            recorder.failed = {"events": list(Current.trail)}
        raise
    else:
        recorder.current = None  # it holds all that Hypothesis knows of the law
    finally:
        if handle is not None:
            handle.inner_test = inner
        else:
            count.checked = max(int(Tally.assertions > before), Tally.cases - cases)
        seconds = f"{time.monotonic() - started:.3f}"
        item.user_properties += [("examples", str(count.checked)), ("seconds", seconds)]
        item.user_properties += described(item)
        if count.lacks:
            item.user_properties.append((LACKS, count.lacks))
    if count.known.shown:
        raise KnownHere("; ".join(dict.fromkeys(known.told(row) for row in count.known.shown)))
    if count.known.gone():
        raise LawBroken(count.known.gone())
    if count.lacks and not count.checked:
        raise NotOfferedHere(count.lacks)
    if not count.checked and shards.shard_of(item)[1] == 1:  # shards are judged together
        raise LawBroken(
            f"this law checked nothing: {count.examples} examples ran and none made an assertion"
        )
