"""The values of one run of pytest, in one place: ``of(config)``."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, List

import pytest

if TYPE_CHECKING:
    from frostproof.properties.harness.machine.plugin import Machine
    from frostproof.properties.harness.own.options import Own
    from frostproof.properties.harness.session.database import Examples


@dataclass
class Session:
    """What a run was started with.

    laws: the folder of the laws; profile: of Hypothesis; seed: of the run; examples: the
    database; shards: of each law; devices, dtypes: asked for (no dtypes: all); own: the
    user's code; machine: what watches it.
    """

    laws: Path
    profile: str
    seed: str
    examples: "Examples"
    shards: int
    devices: List[str]
    dtypes: List[str]
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
