"""The values of one run of pytest, in one place: ``of(config)``."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, List

import pytest

if TYPE_CHECKING:
    from frostproof.properties.harness.own.options import Own
    from frostproof.properties.harness.session.database import Examples
    from frostproof.properties.harness.session.workers import Machine


@dataclass
class Session:
    """What a run was started with.

    laws: the folder of the laws; profile: of Hypothesis; seed: of the run; shards: of each law;
    devices, dtypes: asked for (no dtypes: all); own: the user's code; and of a run that draws,
    examples: its database, machine: what watches it.
    """

    laws: Path
    profile: str = "default"
    seed: str = "0"
    shards: int = 1
    devices: List[str] = field(default_factory=list)
    dtypes: List[str] = field(default_factory=list)
    examples: "Examples" = field(init=False)
    own: "Own" = field(init=False)
    machine: "Machine" = field(init=False)

    @property
    def thorough(self) -> bool:
        """Whether this is a long run."""
        return self.profile == "nightly"


KEY: "pytest.StashKey[Session]" = pytest.StashKey()


def of(config: pytest.Config) -> Session:
    """The session of a run of the harness."""
    return config.stash[KEY]
