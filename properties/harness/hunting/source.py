"""What the hunt needs of a source of cases: programs, operators, whatever comes."""

import importlib
from dataclasses import asdict, dataclass
from random import Random
from typing import Any, Dict, Iterator, List, Optional, Protocol, Tuple

Skeleton = Tuple[str, ...]
# Each source by name: the module whose ``source(device)`` makes it.
SOURCES: Dict[str, str] = {
    "operators": "frostproof.properties.harness.operators.source",
    "programs": "frostproof.properties.harness.programs.source",
}


@dataclass(frozen=True)
class Fact:
    """One difference of one case in one mode, as text.

    aspect: what differs, in a few fixed words; subject: of what; sentence: both sides; head:
    what tells errors of one aspect apart, the beginning of a message; scene: when.
    """

    aspect: str
    subject: str = ""
    sentence: str = ""
    head: str = ""
    scene: str = "first"

    @property
    def key(self) -> Tuple[str, str]:
        """What a smaller case must still show."""
        return self.aspect, self.head


class Refused(Exception):
    """The mode says that it does not take this case."""


class Source(Protocol):
    """Where cases come from, and how they are judged. Cases have a repr that ``load`` reads."""

    name: str
    device: str  # that cases run on

    def modes(self) -> Dict[str, str]:
        """Each mode, with the reason why this torch has not got it ("" where it has)."""

    def draw(self, random: Random) -> Any:
        """A new case."""

    def load(self, text: str) -> Any:
        """The case of a repr."""

    def chosen(self, case: Any, modes: List[str], random: Random) -> List[str]:
        """The modes, of those wanted, to run a case in: not all, where all would cost too much."""

    def judge(self, case: Any, mode: str, scene: Optional[str] = None) -> List[Fact]:
        """The differences; raises Refused where the mode does not take the case."""

    def simpler(self, case: Any) -> Iterator[Any]:
        """Cases a step simpler, the boldest first."""

    def size(self, case: Any) -> Any:
        """What is smaller for a simpler case."""

    def skeleton(self, case: Any) -> Skeleton:
        """The shape of a case: what cases of one defect have in common."""

    def contains(self, case: Any, skeleton: Skeleton) -> bool:
        """Whether a case probably shows again what one of this shape has shown."""

    def covered(self, case: Any, mode: str, fact: Fact) -> str:
        """The known defect's id that covers this difference; "" where none does."""

    def lighter(self, mode: str) -> List[str]:
        """Modes that may share the cause, the lightest first; the mode itself among them."""

    def script(self, case: Any, mode: str, fact: Fact) -> str:
        """A program in plain torch: exits 1 where the difference shows, 0 where it does not."""

    def reference(self, mode: str) -> str:
        """What the mode is compared with, and why that is right: a phrase for a report."""


def source_of(name: str, device: str = "cpu") -> Source:
    """The source of a name, for a device; raises ValueError for an unknown name."""
    if name not in SOURCES:
        raise ValueError(f"no source is named {name}; use one of {', '.join(SOURCES)}")
    made: Source = importlib.import_module(SOURCES[name]).source(device)
    return made


@dataclass(frozen=True)
class Find:
    """A difference that was made small, as one line of a file."""

    source: str
    mode: str
    case: str
    fact: Fact
    skeleton: Skeleton
    seen: str = ""  # the case as it was drawn
    device: str = "cpu"

    def line(self) -> Dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @staticmethod
    def of(line: Dict[str, Any]) -> "Find":
        """From plain values."""
        known = {**line, "fact": Fact(**line["fact"]), "skeleton": tuple(line["skeleton"])}
        return Find(**known)

    @property
    def group(self) -> Tuple[str, str, str, Skeleton]:
        """Finds of one group are taken for one defect."""
        return self.mode, self.fact.aspect, self.fact.head, self.skeleton
