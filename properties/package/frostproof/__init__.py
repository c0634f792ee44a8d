"""Is what I froze really frozen, and does everything else really train?

In an installed distribution ``frostproof.strategies`` and ``frostproof.properties`` lie in this
folder; in a checkout they are the folders of these names at its top.
"""

from pathlib import Path

_HERE = Path(__file__).resolve().parent
if not (_HERE / "strategies").is_dir():
    __path__.append(str(_HERE.parents[2]))
