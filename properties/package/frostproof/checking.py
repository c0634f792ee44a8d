"""The verifications of ``--recipe``, ``--model`` and ``--optimizer`` as functions, for one's tests."""

from contextlib import contextmanager
from typing import Any, Callable, Iterator, List

import pytest
import torch

from frostproof.properties.harness.own.examination import examine
from frostproof.properties.harness.own.recipe import build as build_recipe
from frostproof.watching import judgement


@contextmanager
def _refused() -> Iterator[None]:
    """What the command line refuses in a sentence is a ValueError here."""
    __tracebackhide__ = True
    try:
        yield
    except pytest.UsageError as problem:
        raise ValueError(str(problem)) from None


def _name(factory: Any) -> str:
    return str(getattr(factory, "__qualname__", type(factory).__name__))


def check_recipe(factory: Callable[[], Any], *, steps: int = 6) -> List[str]:
    """Verify a recipe as ``--recipe`` does; its notes.

    factory: returns (module, step), (module, step, keep) or a Trainer. Raises AssertionError with
    what was found and why, ValueError for what cannot be verified.
    """
    __tracebackhide__ = True
    with _refused():
        recipe = build_recipe("check_recipe", _name(factory), factory)
    examination = examine(recipe, steps)
    if examination.findings:
        frames = f"\n{examination.frames}" if examination.frames else ""
        raise AssertionError(judgement(examination.findings) + frames)
    return examination.notes


@contextmanager
def _examples(count: int) -> Iterator[None]:
    """Hypothesis draws so many examples, without a deadline."""
    from hypothesis import settings

    from frostproof.properties.harness.session.profiles import COMMON

    before = settings.default or settings()
    settings.register_profile("frostproof-check", max_examples=count, database=None, **COMMON)
    settings.load_profile("frostproof-check")
    try:
        yield
    finally:
        settings.register_profile("frostproof-before", before)
        settings.load_profile("frostproof-before")


def _laws(module: Any) -> List[Any]:
    return [law for name, law in vars(module).items() if name.startswith("test_")]


def check_model(factory: Callable[[], Any], *, examples: int = 20) -> List[str]:
    """Verify a model as ``--model`` does; its notes.

    factory: returns (module, inputs) or (module, inputs, loss); examples: random masks for each
    law. Raises AssertionError for a broken law, ValueError for what cannot be verified.
    """
    __tracebackhide__ = True
    with _examples(examples):
        from frostproof.properties.harness.own.model import build
        from frostproof.properties.own import test_model

        with _refused():
            model = build("check_model", _name(factory), factory)
        for law in _laws(test_model):
            model.restore()
            law(model)
    return model.notes


def check_optimizer(factory: Callable[[Any], Any], *, examples: int = 20) -> None:
    """Verify an optimizer as ``--optimizer`` does, on the CPU, in float32 and float64.

    factory: called with parameters, returns the optimizer; examples: random nets for each law and
    dtype. Raises AssertionError for a broken law, ValueError for what cannot be verified.
    """
    __tracebackhide__ = True
    with _examples(examples):
        from hypothesis import settings

        from frostproof.properties.harness.core.shards import USED
        from frostproof.properties.harness.own.optimizer import build
        from frostproof.properties.own import test_optimizer

        with _refused():
            spec = build("check_optimizer", _name(factory), factory)
        for law in _laws(test_optimizer):
            before = getattr(law, USED)
            setattr(law, USED, settings.default)
            try:
                for dtype in (torch.float32, torch.float64):
                    law(device="cpu", dtype=dtype, own=spec)
            finally:
                setattr(law, USED, before)
