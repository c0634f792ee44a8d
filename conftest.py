"""A checkout runs without being installed: the plugin and the packages are found here."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent
PACKAGE = str(ROOT / "properties" / "package")
sys.path.insert(0, PACKAGE)
# so do the processes that it starts
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (PACKAGE, os.environ.get("PYTHONPATH", ""))))

from frostproof import plugin  # noqa: E402
from frostproof.properties.harness.core import options  # noqa: E402

if Path(options.__file__).parents[2] != ROOT / "properties":
    raise pytest.UsageError(
        f"another frostproof is installed ({Path(plugin.__file__).parent}): python -m pip install -e . "
        "here, or uninstall it"
    )
plugin.Checkout.laws = ROOT / "properties"


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """The options, and the plugin, where it is not installed."""
    if not pluginmanager.has_plugin("frostproof.plugin"):
        pluginmanager.register(plugin, "frostproof.plugin")
    options.declare(parser)
