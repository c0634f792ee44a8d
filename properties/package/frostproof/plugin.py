"""The pytest plugin: options, and the run of laws where one of them asks for it.

pytest loads it in every run, so that it imports neither torch nor Hypothesis by itself.
"""

from pathlib import Path
from typing import Any, Generator, Optional, Sequence

import pytest

from frostproof.properties.harness.session import options


class Checkout:
    """The folder of the laws where pytest runs in a checkout: there every run is one of laws."""

    laws: Optional[Path] = None


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
    laws = Checkout.laws
    if laws is None and options.wanted(config):
        import frostproof.properties

        laws = Path(frostproof.properties.__path__[0])
    if laws is None:
        return
    from frostproof.properties.harness.machine import memory

    memory.limit_caches()  # before torch is imported
    from frostproof.properties.harness.session import plugin

    plugin.begin(config, laws)
