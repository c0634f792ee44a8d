"""Programs as a source of the hunt."""

import functools
import random as _random
import re
from typing import Any, Dict, FrozenSet, Iterator, List, Optional, Sequence, Tuple

from frostproof.properties.harness.hunting.source import Fact
from frostproof.properties.harness.hunting.source import Refused as NotTaken
from frostproof.properties.harness.programs import defects, judge, simplify
from frostproof.properties.harness.programs.compare import Difference
from frostproof.properties.harness.programs.modes import COMPILED, MODES
from frostproof.properties.harness.programs.script import script
from frostproof.strategies.digits import Digits
from frostproof.strategies.programs import DIGITS, Input, Program, Statement, read_program, words

ERRORS = ("error", "internal")
# What stands before the message of the error that a compiler or an interpreter passes on.
_PASSED_ON = re.compile(
    r"""(?s).*?(?:got\ (\w+)\(["']              # Dynamo, on fake tensors
    |\*\*\{[^\n]*\}\):\n()                     # the same, before torch 2.7
    |raised:\s+(\w+):\s                       # a backend
    |TorchScript.*\n(\w+):\s)(.*)""",
    re.VERBOSE,
)


def _head(kind: str, message: str) -> str:
    """An error's kind, that of what it passes on, and the first words of the message."""
    passed = _PASSED_ON.match(message)
    if passed:
        *kinds, message = passed.groups()
        inner = "".join(each or "" for each in kinds)
        kind = f"{kind}: {inner}" if inner else kind
    words = re.sub(r"[0-9]+|0x[0-9a-f]+", "N", " ".join(message.split()[:8]))
    return f"{kind}: {words}"[:120]


def fact_of(difference: Difference) -> Fact:
    """A difference as text; its head is that of the error, the mode's or eager's."""
    head = ""
    if difference.aspect in ERRORS:
        head = _head(*difference.other)
    elif difference.aspect == "accepts":
        head = _head(*difference.eager)
    elif isinstance(difference.eager, (str, tuple)) and "RuntimeError" in difference.eager:
        head = "refused"  # autograd does not say, or does not go back
    return Fact(difference.aspect, difference.subject, str(difference)[:600], head, difference.scene)


def facts_of(
    program: Program, mode: str, scenes: Optional[Sequence[str]] = None
) -> Tuple[List[Fact], List[str]]:
    """(those that are new, the rows of the others). Raises judge.Refused."""
    new, rows = [], []
    for each in judge.judge(program, mode, scenes):
        fact = fact_of(each)
        row = defects.covered(program, mode, fact)
        if row:
            rows.append(row)
        else:
            new.append(fact)
    return new, rows


class Programs:
    """Random programs, run in the modes of torch, judged by eager."""

    name = "programs"

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def modes(self) -> Dict[str, str]:
        return {name: mode.missing() for name, mode in MODES.items()}

    def draw(self, random: _random.Random) -> Program:
        without = random.choice(self.vocabularies())
        return read_program(
            Digits(random.getrandbits(8 * DIGITS).to_bytes(DIGITS, "big")), words(without)
        )

    @functools.lru_cache(maxsize=1)  # noqa: B019  (there is one source)
    def vocabularies(self) -> Tuple[FrozenSet[str], ...]:
        """What to leave out: nothing, or what some mode leaves out."""
        return (*[frozenset()] * 2, *{frozenset(mode.without) for mode in MODES.values()})

    def load(self, text: str) -> Program:
        made: Program = eval(text, {"Input": Input, "Program": Program, "Statement": Statement})
        return made

    def chosen(self, case: Program, modes: List[str], random: _random.Random) -> List[str]:
        """Three cheap modes and a compiled one, of those that take the program."""
        fitting = [name for name in modes if MODES[name].takes(case)]
        dear = [name for name in fitting if MODES[name].cost == COMPILED]
        weights = [1 if "inductor" in name or "export" in name else 4 for name in dear]
        cheap = [name for name in fitting if name not in dear]
        picked = random.choices(dear, weights) if dear else []
        return random.sample(cheap, min(3, len(cheap))) + picked

    def scenes(self, case: Program, mode: str) -> List[str]:
        """The first call and one more scene, by the program."""
        others = [scene for scene in MODES[mode].scenes if scene != "first"]
        extra = [others[len(repr(case)) % len(others)]] if others else []
        return ["first", *extra]

    def judge(self, case: Program, mode: str, scene: Optional[str] = None) -> List[Fact]:
        scenes = self.scenes(case, mode) if scene is None else [scene]
        if defects.ends(case, mode):
            raise NotTaken("a known defect would end or spoil this process")
        try:
            return [fact_of(each) for each in judge.judge(case, mode, scenes, self.device)]
        except judge.Refused as refused:
            raise NotTaken(str(refused)) from refused

    def simpler(self, case: Program) -> Iterator[Program]:
        return simplify.simpler(case)

    def size(self, case: Program) -> Any:
        return simplify.size(case)

    def skeleton(self, case: Program) -> Tuple[str, ...]:
        return simplify.skeleton(case)

    def contains(self, case: Program, skeleton: Tuple[str, ...]) -> bool:
        return simplify.contains(case, skeleton)

    def covered(self, case: Program, mode: str, fact: Fact) -> str:
        return defects.covered(case, mode, fact)

    def lighter(self, mode: str) -> List[str]:
        """Modes of one family, those with less in them first."""
        if mode.startswith("compile-"):
            kept = ["compile-eager", "compile-aot_eager", "compile-aot_eager_decomp_partition", mode]
            if "break" in mode:
                kept.insert(2, "compile-aot_eager-break")
            if "dynamic" in mode:
                kept.insert(2, "compile-aot_eager-dynamic")
            return list(dict.fromkeys(kept))
        families = ("export", "make_fx", "func-vmap")
        for family in families:
            if mode.startswith(family):
                alike = [name for name in MODES if name.startswith(family)]
                return [*alike[: alike.index(mode)], mode]
        if mode in ("func-vjp", "func-grad"):
            return list(dict.fromkeys(("func-vjp", mode)))
        if mode in ("func-jvp", "func-linearize"):
            return list(dict.fromkeys(("func-jvp", mode)))
        return [mode]

    def script(self, case: Program, mode: str, fact: Fact) -> str:
        return script(case, mode, fact, self.device)

    def reference(self, mode: str) -> str:
        return "eager"


def source(device: str = "cpu") -> Programs:
    """The source."""
    return Programs(device)
