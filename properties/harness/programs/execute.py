"""A program as a live function and live inputs."""

import itertools
import linecache
import types
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Tuple

import torch

from frostproof.strategies.programs import OF_MODULE, Program

_number = itertools.count()


@dataclass
class Live:
    """A program that can be called: f(*arguments), or through its module.

    namespace: the globals of the function; module: the module whose forward it is, where it
    is one; tensors: the inputs by name, the leaves behind them ("x_leaf") too.
    """

    program: Program
    namespace: Dict[str, Any]
    call: Callable[..., Any]
    tensors: Dict[str, torch.Tensor] = field(default_factory=dict)

    def renew(self, device: str = "cpu") -> Tuple[torch.Tensor, ...]:
        """Make the inputs anew; the arguments of the call. What was fired or kept is forgotten."""
        scope: Dict[str, Any] = {"torch": torch}
        if self.program.stateful:
            scope["module"] = self.namespace["module"]
            for each in self.program.inputs:  # a buffer cannot be registered twice
                if each.kind in OF_MODULE and hasattr(scope["module"], each.name):
                    delattr(scope["module"], each.name)
        exec(code_of(self.program.setup(device)), scope)
        for each in self.program.inputs:
            if each.kind in OF_MODULE:
                scope[each.name] = getattr(scope["module"], each.name)
        self.tensors = {
            name: value
            for name, value in scope.items()
            if isinstance(value, torch.Tensor) and not name.endswith("_base")
        }
        self.fired.clear()
        kept = self.namespace.get("kept")
        if kept is not None and hasattr(kept, "held"):
            del kept.held
        return tuple(self.tensors[each.name] for each in self.program.arguments)

    @property
    def fired(self) -> List[Any]:
        """What its hooks noted."""
        made: List[Any] = self.namespace["fired"]
        return made

    def kept(self) -> Any:
        """What it stored on the module outside; None where nothing."""
        return getattr(self.namespace.get("kept"), "held", None)


_codes: Dict[str, types.CodeType] = {}


def code_of(source: str) -> types.CodeType:
    """Compiled code; the last 2000 are kept."""
    if source not in _codes:
        if len(_codes) > 2000:
            _codes.clear()
        _codes[source] = compile(source, "<inputs>", "exec")
    return _codes[source]


def live(program: Program, broken: bool = False) -> Live:
    """The program's function, with globals of its own; its source can be inspected."""
    source = program.preamble() + "\n\n" + program.function(broken)
    name = f"<program {next(_number)}>"
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    namespace: Dict[str, Any] = {"torch": torch, "fired": [], "__name__": "program"}
    exec(compile(source, name, "exec"), namespace)
    if program.stateful:
        namespace["module"] = namespace["Net"]()
    call = namespace["module"] if program.stateful else namespace["f"]
    return Live(program, namespace, call)


def flat(output: Any) -> List[Any]:
    """The values that a program returned, in order."""
    if isinstance(output, dict):
        return list(output.values())
    return list(output) if isinstance(output, (tuple, list)) else [output]
