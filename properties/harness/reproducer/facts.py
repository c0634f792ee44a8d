"""What the tape knows of values: their names in public, their numbers, where they come from."""

import ast
import builtins
import collections
import inspect
import math
import sys
import textwrap
import types
from functools import cache
from typing import Any, Dict, Iterator, List, Optional, Tuple

import torch

from frostproof.properties.harness.core import bits
from frostproof.properties.harness.reproducer.statements import Hole
from frostproof.strategies.literals import FEW, numbers

BRACKETS: Dict[Any, str] = {list: "[]", tuple: "()", set: "{}", frozenset: "{}"}
PLAIN = (str, int, float, complex, type(None))
MOST = 64  # numbers of a tensor that are written out where nothing else makes it


class Known(int):
    """A whole number or truth value that a statement of the program gives."""

    def __new__(cls, value: int, ref: Any) -> "Known":
        made = int.__new__(cls, value)
        made.ref, made.kind = ref, type(value)
        return made

    ref: Any
    kind: Any

    def __repr__(self) -> str:
        return repr(self.kind(self))

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(self.kind(self), spec)


class Named:
    """What is the same object wherever it comes from, None or a dtype, and its statement."""

    def __init__(self, value: Any, ref: Any) -> None:
        self.value, self.ref = value, ref

    def __getattr__(self, name: str) -> Any:
        return getattr(self.value, name)

    def __bool__(self) -> bool:
        return bool(self.value)

    def __eq__(self, other: object) -> bool:
        return bool(self.value == plain(other))

    def __hash__(self) -> int:
        return hash(self.value)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.value)

    def __repr__(self) -> str:
        return repr(self.value)


class Snapshot(bytes):
    """Bits that were read of a tensor of the program, which keeps its values at that time."""

    ref: Any
    shape: Tuple[int, ...]
    dtype: torch.dtype

    def listed(self, other: bytes) -> Any:
        """What ``tolist`` makes of bits like these; None: they are of another shape or dtype."""
        try:
            return bits.from_bits(bytes(other), self.shape, self.dtype).tolist()
        except ValueError:
            return None


def everywhere(value: Any) -> bool:
    """Whether a value is the same object wherever it comes from."""
    one = (type(None), int, type, torch.dtype, torch.device, torch.layout)
    return isinstance(value, one) or (isinstance(value, (tuple, bytes)) and not value)


def plain(value: Any) -> Any:
    """The value itself."""
    if isinstance(value, Named):
        return value.value
    return value.kind(value) if isinstance(value, Known) else value


def plain_deep(value: Any) -> Any:
    """The value itself, and what is inside a list, tuple, slice or dict."""
    if type(value) in (list, tuple, set):
        inside = [plain_deep(each) for each in value]
        return value if all(map(lambda a, b: a is b, inside, value)) else type(value)(inside)
    if type(value) is dict:
        return {plain(key): plain_deep(each) for key, each in value.items()}
    if isinstance(value, slice):
        return slice(plain(value.start), plain(value.stop), plain(value.step))
    return plain(value)


# names in public


NAMESPACES = (
    "torch torch.nn torch.nn.functional torch.optim torch.optim.lr_scheduler torch.autograd "
    "torch.autograd.forward_ad torch.nn.utils torch.autograd.functional torch.nn.init torch.func "
    "torch.linalg torch.special torch.amp torch.fft torch.utils.checkpoint torch.nn.utils.stateless "
    "torch.nn.utils.parametrize torch.nn.utils.rnn torch.nn.utils.parametrizations "
    "torch.optim.swa_utils"
).split()


@cache
def _public() -> Dict[int, Tuple[str, Any]]:
    found: Dict[int, Tuple[str, Any]] = {}
    for name in NAMESPACES:
        for key, value in vars(sys.modules.get(name, torch)).items():
            owner = str(getattr(value, "__module__", None) or "torch")
            if key[0] != "_" and callable(value) and owner.startswith("torch"):
                found.setdefault(id(value), (short(f"{name}.{key}"), value))
    return found


def short(label: str) -> str:
    """A public name as programs write it."""
    return label[6:] if label.startswith("torch.nn.") else label


def label(function: Any) -> str:
    """The public name of a function or class of torch, or of a builtin."""
    found, known = _public().get(id(function), ("", None))
    if known is function:
        return found
    module = str(getattr(function, "__module__", "") or "")
    name = str(getattr(function, "__qualname__", getattr(function, "__name__", "")))
    if module == "builtins":
        return name
    if module.startswith("torch") and "<" not in name:
        return f"torch.{name}" if hasattr(torch, name) else short(f"{module}.{name}")
    return f"{module.lstrip('_')}.{name}"


def is_harness(function: Any) -> bool:
    """Whether a function is one of the harness's own core or reference."""
    return str(getattr(function, "__module__", "")).startswith(
        ("frostproof.properties.harness.core", "frostproof.properties.harness.ref")
    )


def of_torch(owner: Any, name: str) -> bool:
    """Whether torch's class has this method, whoever has put another in its place."""
    held = next((kind for kind in type(owner).__mro__ if name in vars(kind)), object)
    return held.__module__.partition(".")[0] == "torch"


def is_description(owner: Any) -> bool:
    """Whether an object is drawn: a frozen dataclass."""
    parameters = getattr(type(owner), "__dataclass_params__", None)
    return bool(parameters is not None and parameters.frozen)


PRINTED = {"build": "code", "data": "data_code", "parameters": "parameters_code"}


def description_of(function: Any) -> Any:
    """What prints the code of a description's method; None where nothing does."""
    owner = getattr(function, "__self__", None)
    name = PRINTED.get(getattr(function, "__name__", ""), "")
    return getattr(owner, name, None) if name and is_description(owner) else None


def starts_threads(function: Any) -> bool:
    """Whether a function starts threads, which the tape does not hear."""
    code = getattr(function, "__code__", None)
    return code is not None and "Thread" in (*code.co_names, *code.co_consts)


def draws_numbers(function: Any) -> bool:
    """Whether a function makes tensors of numbers from a generator or a seed."""
    if is_description(getattr(function, "__self__", None)):
        return getattr(function, "__name__", "") == "build"
    code = getattr(function, "__code__", None)
    if code is None or not inspect.isfunction(function):
        return False
    parameters = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return "generator" in parameters or "seed" in parameters


# modules


def places(module: torch.nn.Module) -> Iterator[Tuple[Any, str]]:
    """The parts of a module, and where they are from it."""
    described = getattr(module, "places", None)
    if described is not None:
        yield from described()
        return
    for name, part in module.named_modules():
        where = _path(module, name)
        if name:
            yield part, where
        for key, value in (*part._parameters.items(), *part._buffers.items()):
            if value is not None:
                yield value, f"{where}.{key}"


def _path(module: Any, name: str) -> str:
    text = ""
    for part in name.split(".") if name else ():
        listed = isinstance(module, (torch.nn.Sequential, torch.nn.ModuleList))
        text += f"[{part}]" if listed else f".{part}" if part.isidentifier() else f"[{part!r}]"
        module = module._modules[part]
    return text


def only_computes(module: torch.nn.Module) -> bool:
    """Whether calling a module changes nothing: it has no buffers and no hooks."""
    for part in module.modules():
        if part._buffers or part._forward_hooks or part._forward_pre_hooks or part._backward_hooks:
            return False
        if getattr(part, "max_norm", None) is not None:
            return False
    return True


def program_names(module: Any) -> Dict[str, str]:
    """The names of a described net's parameters, and those of the program's."""
    described = getattr(module, "program_names", None)
    return dict(described()) if described is not None else {}


def path_to(value: Any, owner: Any, names: Dict[str, str]) -> List[Any]:
    """The path to what another holds now: texts, and tensors that have names; [] where it does not."""
    if isinstance(owner, torch.Tensor):
        try:
            return [".grad"] if owner.is_leaf and owner.grad is value else []
        except RuntimeError:  # of a view that torch forbids to look at
            return []
    if isinstance(owner, torch.optim.Optimizer):
        for place, group in enumerate(owner.param_groups):
            if group is value:
                return [f".param_groups[{place}]"]
        for parameter, state in owner.state.items():
            for key, entry in state.items() if isinstance(state, dict) else ():
                if entry is value:
                    return [".state[", parameter, f"][{key!r}]"]
    pairs: Any = enumerate(owner) if type(owner) in (list, tuple) else ()
    pairs = owner.items() if type(owner) in (dict, collections.OrderedDict) else pairs
    for key, each in pairs:
        if plain(each) is value and isinstance(key, (str, int)):
            return [f"[{literal(key, names)}]"]
    return []


# numbers


def literal(value: Any, names: Dict[str, str]) -> str:
    """A plain value as code."""
    if isinstance(value, str):
        return repr(names.get(value, value))
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else f'float("{value}")'
    if isinstance(value, torch.device):
        return repr(str(value))
    if isinstance(value, (*PLAIN, torch.dtype, torch.memory_format, torch.layout)):
        return repr(value)
    if value is ...:
        return "..."
    if isinstance(value, type):
        return label(value)
    return Hole(f"a {type(value).__name__} comes from nothing that a program could call")


def tensor_literal(value: torch.Tensor, most: int = MOST) -> str:
    """A tensor by its numbers."""
    if value.layout is not torch.strided or value.numel() > most:
        return Hole(f"a tensor of shape {tuple(value.shape)} comes from nothing that it could call")
    if value.grad_fn is not None:  # its numbers alone would be outside of the graph
        return Hole("a tensor of a graph comes from nothing that it could call")
    dense = bits.from_bits(bits.read_bits(value), tuple(value.shape), value.dtype)
    made = f"torch.tensor({numbers(dense)}, dtype={value.dtype})"
    made = made if value.device.type == "cpu" else f'{made}.to("{value.device}")'
    if isinstance(value, torch.nn.Parameter):
        return f"nn.Parameter({made}{'' if value.requires_grad else ', requires_grad=False'})"
    return f"{made}.requires_grad_()" if value.requires_grad else made


def is_plain(value: Any) -> bool:
    """Whether a value is a small leaf of contiguous values, which its numbers make again."""
    if not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
        return False
    fresh = value.stride() == torch.empty(tuple(value.shape)).stride()
    return 0 < value.numel() <= FEW and value.grad_fn is None and fresh


# classes of the law's file


def definition(thing: Any) -> Optional[str]:
    """The source of a class or function, and of what it needs of its file; None: it needs more."""
    try:
        source = textwrap.dedent(inspect.getsource(thing))
    except (OSError, TypeError):
        return None
    scope, before = vars(inspect.getmodule(thing) or builtins), []
    read = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
    for name in sorted(read & {*scope} - {"torch", "nn", thing.__name__}):
        value, needed = scope[name], None
        if getattr(value, "__module__", "") == "typing":
            needed = f"from typing import {name}"
        elif inspect.isclass(value) or inspect.isfunction(value):
            needed = definition(value)
        elif isinstance(value, (int, float, str, tuple, list, dict)):
            needed = f"{name} = {value!r}"
        elif isinstance(value, types.ModuleType) and value.__name__ == name:
            continue  # the program imports what it reads
        if needed is None:
            return None
        before.append(needed)
    return "\n".join([*before, source.rstrip()])
