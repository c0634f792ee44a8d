"""Gradients that are cancelled by hand where there are none: a frozen copy's, in place of its leader's.

Setting ``.grad`` to None where it is None leaves no trace, so one call of the user's step
runs under a torch function mode, which sees it; only where something frozen is a copy of
something that trains, and nothing is compiled, which would be compiled anew under a mode.
"""

import contextlib
import gc
import types
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Set, Tuple

import torch

from frostproof.properties.harness.core.bits import read_bits
from frostproof.properties.harness.own import causes
from frostproof.properties.harness.own.averaged_copies import alike_by_chance, common_end, sample
from frostproof.properties.harness.own.findings import named
from frostproof.properties.harness.own.optimizer_watch import living

if TYPE_CHECKING:
    from frostproof.properties.harness.own.examination import Examination

MODE: Any = getattr(torch.overrides, "TorchFunctionMode", None)  # absent before torch 1.13
CALL = 2  # the call that is looked at: the first one may set things up


def _mode(note: Callable[[Any], None]) -> Any:
    """A mode that tells of each ``tensor.grad = None``, and changes nothing."""
    gradient: Any = torch.Tensor.grad  # on the class, the descriptor
    setter = gradient.__set__

    class Sets(MODE):  # type: ignore[misc]
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func == setter and args[1] is None:
                note(args[0])
            return func(*args, **(kwargs or {}))

    return Sets()


def _compiled(module: torch.nn.Module) -> bool:
    """Whether anything of the user's is compiled, as far as it shows."""
    if any(vars(owner).get("_compiled_call_impl") is not None for owner in module.modules()):
        return True
    if not _something_compiled():
        return False
    gc.collect()  # what earlier work has left, such as another recipe, is called no more
    return _something_compiled()


def _something_compiled() -> bool:
    if living(lambda kind: kind.__name__ == "OptimizedModule"):
        return True
    functions = (thing for thing in gc.get_objects() if type(thing) is types.FunctionType)
    return any(
        "_torchdynamo_orig_callable" in vars(function)
        and not vars(function).get("_torchdynamo_disable")  # kept from it: torch's own, a graph of it
        and not str(function.__module__).startswith("torch.")
        for function in functions
    )


def _few_of(tensor: torch.Tensor, shapes: Set[Tuple[int, ...]]) -> Optional[bytes]:
    values = sample(tensor) if tuple(tensor.shape) in shapes else None
    return None if values is None else read_bits(values)


class Cancelled:
    """What was cancelled between backward and an optimizer's step.

    twins: of each frozen parameter that began as a copy of a trainable one, that one's name.
    for_nothing: frozen parameters whose gradients were cancelled though they had none.
    for_good: whether a gradient was cancelled that was there.
    """

    def __init__(self, seen: "Examination") -> None:
        self.seen = seen
        self.twins: Dict[str, str] = {}
        self.for_nothing: Set[str] = set()
        self.for_good = False
        self._open = False

    def start(self) -> None:
        """Look for copies, before anything has moved."""
        seen = self.seen
        shapes = {tuple(seen.parameters[name].shape) for name in seen.frozen.names}
        leaders: Dict[bytes, List[str]] = {}
        for name in seen.trainable:
            values = _few_of(seen.parameters[name], shapes)
            if values is not None:
                leaders.setdefault(values, []).append(name)
        shapes = {tuple(seen.parameters[name].shape) for some in leaders.values() for name in some}
        for name in sorted(seen.frozen.names):
            values = _few_of(seen.parameters[name], shapes)
            same = [(common_end(name, other), other) for other in leaders.get(values or b"", [])]
            if same and max(same)[0]:
                self.twins[name] = max(same)[1]

    def look(self) -> Any:
        """A context for one call of the user's step."""
        wanted = self.seen.calls == CALL and self.twins and MODE is not None
        if not wanted or _compiled(self.seen.module):
            return contextlib.nullcontext()
        self._open = True
        self.names = {id(parameter): name for name, parameter in self.seen.parameters.items()}
        return _mode(self._cancelled)

    def close(self) -> None:
        """An optimizer steps: what is cancelled after that is cleared for the next step."""
        self._open = False

    def _cancelled(self, tensor: Any) -> None:
        name = self.names.get(id(tensor))
        if not self._open or not self.seen.arrived or name is None:
            return  # cleared before backward
        if tensor.grad is not None:
            self.for_good = True
        elif name in self.seen.frozen.names:
            self.for_nothing.add(name)


def judge_cancelled(seen: "Examination") -> None:
    """R5 where a part of a copy was to stand, and a note where it was the whole copy."""
    found = seen.cancelled
    told: List[str] = [name for name in seen.parameters if name in found.for_nothing]
    if found.for_good or not told or not all(name in found.twins for name in told):
        return
    if all(alike_by_chance(sample(seen.parameters[name])) for name in told):
        return
    if set(told) == set(found.twins):
        seen.notes.append(f"gradients are cancelled that never come: {named(told)}: frozen anyway")
        return
    for name in told:
        twin = found.twins[name]
        sentence = (
            "its gradient is set to None between backward and the optimizer's step, but it is frozen "
            f"and never has one, while {twin}, as whose copy it began, keeps its own"
        )
        seen.find("R5", name, sentence, causes.CANCELLED_IN_VAIN)
