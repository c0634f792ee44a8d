"""Is what I froze really frozen, and does everything else really train?

In an installed distribution ``frostproof.strategies`` and ``frostproof.properties`` lie in this
folder; in a checkout they are the folders of these names at its top. What is offered here is
imported when it is first used: the pytest plugin must not import torch.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

_HERE = Path(__file__).resolve().parent
if not (_HERE / "strategies").is_dir():
    __path__.append(str(_HERE.parents[2]))

_OFFERED = {
    "assert_frozen": "frostproof.properties.assertions",
    "assert_only_trains": "frostproof.properties.assertions",
    "check_model": "frostproof.checking",
    "check_optimizer": "frostproof.checking",
    "check_recipe": "frostproof.checking",
    "watch": "frostproof.watching",
}
__all__ = [
    "assert_frozen",
    "assert_only_trains",
    "check_model",
    "check_optimizer",
    "check_recipe",
    "watch",
]

if TYPE_CHECKING:
    from frostproof.checking import check_model, check_optimizer, check_recipe
    from frostproof.properties.assertions import assert_frozen, assert_only_trains
    from frostproof.watching import watch


def __getattr__(name: str) -> Any:
    if name not in _OFFERED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_OFFERED[name]), name)
