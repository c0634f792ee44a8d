"""For your own pytest suite: assertions on what is frozen, around any code.

from frostproof import assert_frozen, assert_only_trains
"""

import dataclasses
from typing import Any, Collection, Dict, List, Mapping, Optional, Sequence, Union

import torch

from frostproof.properties.harness.own.blocks import Block
from frostproof.properties.harness.own.declared import Declared, unmoved
from frostproof.properties.harness.own.examination import Examination
from frostproof.properties.harness.own.findings import Finding, named, told

Part = Union[str, torch.Tensor, torch.nn.Module]
Watched = Union[torch.nn.Module, torch.Tensor, Mapping[str, Any], Sequence[Any]]


class _Asserting(Block):
    """A block whose end raises AssertionError with what was found."""

    def __init__(self, name: str, examination: Examination) -> None:
        __tracebackhide__ = True
        super().__init__(name, depth=4)
        self._examination = examination

    def __enter__(self) -> None:
        self._enter()
        self._examination.start()

    def __exit__(self, kind: Any, problem: Any, trace: Any) -> None:
        __tracebackhide__ = True
        self._examination.stop()
        if kind is None:
            text = self._problems()
            if text:
                raise AssertionError(text)

    def _problems(self) -> str:
        raise NotImplementedError


def _listed(head: str, findings: List[Finding]) -> str:
    names = named([finding.subject for finding in findings])
    return f"{head}: {names}\n{told(findings)}" if findings else ""


class _ModuleFrozen(_Asserting):
    """A module's parameters and buffers, or some of them, must stand."""

    def __init__(self, module: torch.nn.Module, names: Any, buffers: bool) -> None:
        __tracebackhide__ = True
        self._module, self._names, self._buffers = module, names, buffers
        super().__init__("assert_frozen", Examination(module))
        self._declared = self._declare()

    def _declare(self) -> Declared:
        __tracebackhide__ = True
        module, both = self._module, dict(self._module.named_parameters())
        if self._buffers:
            both.update(module.named_buffers())  # type: ignore[arg-type]
        if not both:
            raise ValueError("assert_frozen: nothing to watch: no parameters, buffers or tensors")
        wanted = list(both) if self._names is None else self._names
        return Declared("assert_frozen", module, frozen=wanted, buffers=self._buffers)

    def __enter__(self) -> None:
        self._declared = self._declare()
        super().__enter__()

    def _problems(self) -> str:
        moved = self._declared.moved()
        findings = self._declared.judge(self._examination)
        findings = [f for f in findings if f.law in ("R1", "R2") and f.subject in moved]
        return _listed("should be frozen, but moved", findings)


class _TensorsFrozen(_Asserting):
    """Tensors that belong to no module here must stand."""

    def __init__(self, kept: Dict[str, Any]) -> None:
        __tracebackhide__ = True
        super().__init__("assert_frozen", Examination(torch.nn.Module(), kept))

    def __enter__(self) -> None:
        __tracebackhide__ = True
        super().__enter__()
        if not self._examination.kept.tensors:
            self._examination.stop()
            raise ValueError("assert_frozen: nothing to watch: no parameters, buffers or tensors")

    def _problems(self) -> str:
        moved = [
            dataclasses.replace(f, sentence=f.sentence.replace("is to be kept", "should be frozen"))
            for f in self._examination.findings
            if f.law == "R4" and "gradients" not in f.sentence
        ]
        return _listed("should be frozen, but moved", moved)


def assert_frozen(
    watched: Watched, names: Optional[Collection[Part]] = None, *, buffers: bool = True
) -> Block:
    """``with assert_frozen(watched):`` the code inside changes no bit of it.

    watched: a module, a tensor, or a mapping or list of them. names: of a module only these:
    patterns ("encoder.*", "*lora_*"), names of parameters or submodules, or parameters.
    buffers: a module's buffers too (BatchNorm's move in train mode). Raises AssertionError that
    names each tensor that moved, by how much and why; ValueError where there is nothing to watch
    or a name matches nothing; TypeError without ``with``.
    """
    __tracebackhide__ = True
    if isinstance(watched, torch.nn.Module):
        return _ModuleFrozen(watched, names, buffers)._ready()
    if isinstance(watched, torch.Tensor):
        return _TensorsFrozen({"the tensor": watched})._ready()
    if isinstance(watched, Mapping):
        return _TensorsFrozen(dict(watched))._ready()
    if isinstance(watched, (list, tuple)):
        listed = {f"tensor {number}": one for number, one in enumerate(watched)}
        return _TensorsFrozen(listed)._ready()
    raise TypeError(
        f"assert_frozen: expected a module, a tensor, or a mapping or list of them, got "
        f"{type(watched).__name__}; of a generator make a list"
    )


class _OnlyTrains(_Asserting):
    """Some parameters of a module must move, and no others."""

    def __init__(self, module: torch.nn.Module, names: Any) -> None:
        __tracebackhide__ = True
        super().__init__("assert_only_trains", Examination(module))
        self._module, self._names = module, names
        self._declared = self._declare()

    def _declare(self) -> Declared:
        __tracebackhide__ = True
        return Declared("assert_only_trains", self._module, trains=self._names)

    def __enter__(self) -> None:
        self._declared = self._declare()
        super().__enter__()

    def _problems(self) -> str:
        moved = self._declared.moved()
        found = self._declared.judge(self._examination)
        wrong = [f for f in found if f.law == "R1" and f.subject in moved]
        problems = (
            _listed("moved, but should not", wrong),
            _listed("did not move, but should", unmoved(self._declared, found, moved)),
        )
        return "\n".join(filter(None, problems))


def assert_only_trains(module: torch.nn.Module, names: Collection[Part]) -> Block:
    """``with assert_only_trains(module, names):`` the code inside moves these, and no others.

    names: of parameters or of submodules with all of their parameters, patterns ("*lora_*"), or
    parameters. Raises AssertionError for what moved and should not and for what did not move and
    should, with causes; ValueError for a name that matches nothing; TypeError without ``with``.
    """
    __tracebackhide__ = True
    return _OnlyTrains(module, names)._ready()
