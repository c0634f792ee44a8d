"""The pytest plugin: options, the run of laws where one of them asks for it, and a fixture.

pytest loads it in every run, so that it imports neither torch nor Hypothesis by itself.
"""

import gc
import sys
import warnings
from pathlib import Path
from typing import Any, Callable, Generator, List, Optional, Sequence

import pytest

from frostproof.properties.harness.core import options


class Checkout:
    """The folder of the laws where pytest runs in a checkout: there every run is one of laws."""

    laws: Optional[Path] = None


WATCHES: "pytest.StashKey[List[Any]]" = pytest.StashKey()
MARKERS = (
    "law(id, source, dtypes, beside_cpu): a law of frostproof, where it comes from, where it runs",
    "needs(name): the part of torch without which a cell of a law of frostproof is not offered",
    "draws: a law that starts Hypothesis itself, with the default settings' number of examples",
)
BLOCKS = "frostproof.properties.harness.own.blocks"


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(
    args: Sequence[str], parser: pytest.Parser
) -> Generator[None, Any, Any]:
    """Declare the options after everybody else, and only where one is mentioned."""
    result = yield
    if options.mentioned(args):
        options.declare(parser)
    return result


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Start the run of laws where there is one; xdist reads its options after this."""
    for line in MARKERS:
        config.addinivalue_line("markers", line)
    laws = Checkout.laws
    if laws is None and options.wanted(config):
        import frostproof.properties

        laws = Path(frostproof.properties.__path__[0])
    if laws is None:
        return
    from frostproof.properties.harness.machine import memory

    memory.limit_caches()  # before torch is imported
    first = "torch" not in sys.modules
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an error under a user's filters, and not of his code
        import torch  # noqa: F401
    if options.only_recipes(config, checkout=Checkout.laws is not None):
        if first:  # nothing of the user's is among torch's objects, which pytest collects twice
            gc.freeze()
        from frostproof.properties.harness.session import recipes

        if config.getoption("--hypothesis-profile", None):  # Hypothesis's plugin loads it next
            from frostproof.properties.harness.session import profiles

            profiles.register()
            profiles.chosen(config)
        recipes.begin(config, laws)
        return
    from frostproof.properties.harness.session import plugin

    plugin.begin(config, laws)


@pytest.fixture
def frostproof_watch(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """``frostproof_watch(module, keep=..., trains=..., frozen=...)``: watched to the test's end."""
    from frostproof.watching import Watching

    def begin(module: Any, **declared: Any) -> Watching:
        watching = Watching(module, **declared).start()
        request.node.stash.setdefault(WATCHES, []).append(watching)
        return watching

    return begin


def _look_for_forgotten_blocks() -> None:
    __tracebackhide__ = True
    blocks = sys.modules.get(BLOCKS)
    sentence = blocks.forgotten() if blocks is not None else None
    if blocks is not None:
        blocks.Reporting["by_plugin"] = True
    if sentence:
        pytest.fail(sentence, pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    """What a fixture made for ``with`` and did not enter fails it."""
    result = yield
    _look_for_forgotten_blocks()
    return result


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Judge what the test watched to its end."""
    __tracebackhide__ = True
    try:
        result = yield
    except BaseException:
        for watching in item.stash.get(WATCHES, []):
            watching.examination.stop()
        raise
    for watching in item.stash.get(WATCHES, []):
        watching.finish()
    _look_for_forgotten_blocks()
    return result
