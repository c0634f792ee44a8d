"""``watch``: the whole judgement of a recipe, R1 to R8 with causes, around any code that trains."""

from typing import Any, Dict, List, Optional

import torch

from frostproof.properties.harness.own import anatomy
from frostproof.properties.harness.own.blocks import Block
from frostproof.properties.harness.own.declared import Declared
from frostproof.properties.harness.own.examination import Examination
from frostproof.properties.harness.own.findings import Finding, told
from frostproof.properties.harness.own.verdicts import LAWS

NOTHING = "nothing trained under watch: no optimizer step, no gradient, and no parameter moved"


def judgement(findings: List[Finding]) -> str:
    """Findings as text, by law."""
    by_law: Dict[str, List[Finding]] = {}
    for finding in findings:
        by_law.setdefault(finding.law, []).append(finding)
    return "\n".join(f"{law}: {LAWS[law]}.\n{told(by_law[law])}" for law in sorted(by_law))


class Watching:
    """A module under watch from ``start`` to ``finish``; ``notes`` say what may be meant.

    module, keep: as a recipe's factory returns them. trains, frozen: declared by the user: names,
    patterns ("encoder.*", "*lora_*"), parameters or modules; with trains alone, all other
    parameters must stand. Raises ValueError for a name that matches nothing.
    """

    def __init__(
        self, module: torch.nn.Module, *, keep: Any = None, trains: Any = None, frozen: Any = None
    ) -> None:
        __tracebackhide__ = True
        if not isinstance(module, torch.nn.Module):
            raise TypeError(f"watch: expected a module, got {type(module).__name__}")
        if anatomy.lazy(module):
            raise ValueError(
                "watch: lazy parameters have no shape yet: run one batch through the module"
            )
        self.module = module
        self._wanted: Dict[str, Any] = {"trains": trains, "frozen": frozen}
        self._declared = Declared("watch", module, trains, frozen)
        self.examination = Examination(module, keep)
        self.notes: List[str] = []

    def start(self) -> "Watching":
        """Begin to look on."""
        self._declared = Declared("watch", self.module, **self._wanted)
        self.examination.start()
        return self

    def stop(self) -> List[Finding]:
        """Stop looking on; what was found."""
        seen = self.examination
        trained = list(self._declared.module.parameters())
        seen.stop()
        findings = self._declared.judge(seen)
        if not findings and not seen.hands.steps and not seen.sizes and trained and not self._moved():
            findings.append(Finding("R7", "the code", NOTHING))
        self.notes = seen.notes
        return findings

    def _moved(self) -> bool:
        seen = self.examination
        return bool(seen.trainable - seen.still)

    def finish(self) -> None:
        """Stop looking on. Raises AssertionError with all that was found."""
        __tracebackhide__ = True
        findings = self.stop()
        if findings:
            raise AssertionError(judgement(findings))


class watch(Watching, Block):
    """``with watch(module): train()``: frozen parameters and buffers stay, the rest trains.

    See ``Watching`` for the arguments. Raises AssertionError with everything that was found and
    its causes at the end of the block, TypeError without ``with``.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        *,
        keep: Any = None,
        trains: Any = None,
        frozen: Any = None,
        depth: int = 2,
    ) -> None:
        __tracebackhide__ = True
        Block.__init__(self, "watch", depth)
        Watching.__init__(self, module, keep=keep, trains=trains, frozen=frozen)
        self._ready()

    def __enter__(self) -> "watch":
        self._enter()
        self.start()
        return self

    def __exit__(self, kind: Optional[type], problem: Any, trace: Any) -> None:
        __tracebackhide__ = True
        if kind is None:
            self.finish()
        else:
            self.examination.stop()  # what the code raised says more
