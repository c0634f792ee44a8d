"""What the tape knows of values: their names in public, their numbers, where they come from."""

import ast
import builtins
import collections
import dataclasses
import importlib
import inspect
import math
import textwrap
import types
from functools import cache
from typing import Any, Dict, Iterator, List, Optional, Tuple

import torch

from frostproof.properties.harness.core import bits
from frostproof.properties.harness.reproducer.statements import Hole
from frostproof.strategies.literals import FEW, numbers, shortest

BUILTIN = builtins
MOST = 64  # numbers of a tensor that are written out where nothing else makes it


class Known(int):
    """A whole number or truth value that a statement of the program gives."""

    ref: Any
    kind: Any

    def __new__(cls, value: int, ref: Any) -> "Known":
        made = int.__new__(cls, value)
        made.ref, made.kind = ref, type(value)
        return made

    def __repr__(self) -> str:
        return repr(self.kind(self))

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(self.kind(self), spec)


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

    def numbers(self, other: Any) -> List[str]:
        """Bits that came from nowhere, as code of such a list."""
        if not isinstance(other, bytes) or self.listed(other) is None:
            return [repr(other)]
        made = bits.from_bits(other, self.shape, self.dtype)
        if made.numel() > MOST and not any(other):
            return [f"torch.zeros({self.shape}, dtype={self.dtype}).tolist()"]
        if made.numel() > MOST:
            return [Hole("bits that no tensor of the program has")]
        return [numbers(made).replace("nan", 'float("nan")').replace("inf", 'float("inf")')]


@dataclasses.dataclass
class Named:
    """An argument that is the same object wherever it comes from: None, a dtype; and its statement."""

    value: Any
    ref: Any


class Iterated:
    """What an iterator gives: to write it down would use it up."""

    def __init__(self, iterator: Any) -> None:
        self.values = list(iterator)


def again(value: Any) -> Any:
    """The argument itself, or what stands for it where it can be read only once."""
    return Iterated(value) if isinstance(value, (filter, map, zip, types.GeneratorType)) else value


def plain(value: Any) -> Any:
    """The value itself."""
    if isinstance(value, Named):
        return value.value
    if isinstance(value, Iterated):
        return iter(value.values)
    return value.kind(value) if isinstance(value, Known) else value


def plain_deep(value: Any) -> Any:
    """The value itself, and what is inside a list, tuple, slice or dict."""
    if type(value) in (list, tuple, set):
        if any(isinstance(each, (Named, Known, list, tuple, dict)) for each in value):
            return type(value)(map(plain_deep, value))
        return value
    if type(value) is dict:
        return {key: plain_deep(each) for key, each in value.items()}
    if isinstance(value, slice):
        return slice(plain(value.start), plain(value.stop), plain(value.step))
    return plain(value)


# names in public

NAMESPACES = [
    f"torch{name}"
    for name in (
        " .nn .nn.functional .optim .optim.lr_scheduler .autograd .autograd.forward_ad .nn.utils "
        ".autograd.functional .nn.init .func .linalg .special .amp .fft .utils.checkpoint "
        ".nn.utils.stateless .nn.utils.parametrize .nn.utils.rnn .nn.utils.parametrizations "
        ".optim.swa_utils"
    ).split(" ")
]


@cache
def _public() -> Dict[int, Tuple[str, Any]]:
    found: Dict[int, Tuple[str, Any]] = {}
    for name in NAMESPACES:
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        for key, value in vars(module).items():
            owner = str(getattr(value, "__module__", None) or "torch")
            if key[0] != "_" and callable(value) and owner.startswith("torch"):
                found.setdefault(id(value), (f"{name}.{key}", value))
    return found


def short(label: str) -> str:
    """A public name as programs write it."""
    return label[6:] if label.startswith("torch.nn.") else label


def label(function: Any) -> str:
    """The public name of a function or class of torch, or of a builtin."""
    found = _public().get(id(function))
    if found is not None and found[1] is function:
        return short(found[0])
    module = str(getattr(function, "__module__", "") or "")
    name = str(getattr(function, "__qualname__", getattr(function, "__name__", "")))
    if module == "builtins":
        return name
    if module.startswith("torch") and "<" not in name:
        plainly = getattr(torch, name, None)
        return f"torch.{name}" if plainly is not None else short(f"{module}.{name}")
    return f"{module.lstrip('_')}.{name}"


def is_harness(function: Any) -> bool:
    """Whether a function is one of the harness's own core or reference."""
    module = str(getattr(function, "__module__", ""))
    return module.startswith(
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
    elif type(owner) in (list, tuple):
        for place, each in enumerate(owner):
            if each is value:
                return [f"[{place}]"]
    elif type(owner) in (dict, collections.OrderedDict):
        for key, each in owner.items():
            if each is value and isinstance(key, (str, int)):
                return [f"[{literal(key, names)}]"]
    return []


# numbers


def literal(value: Any, names: Dict[str, str]) -> str:
    """A plain value as code."""
    if isinstance(value, str):
        return repr(names.get(value, value))
    if isinstance(value, float):
        text = repr(value)
        return text if math.isfinite(value) else f'float("{text}")'
    if isinstance(value, torch.device):
        return repr(str(value))
    if value is None or isinstance(value, (bool, int, complex, torch.dtype, torch.memory_format)):
        return repr(value)
    if isinstance(value, (torch.layout, type(Ellipsis))):
        return "..." if value is ... else repr(value)
    if isinstance(value, type):
        return label(value)
    if isinstance(value, dict):
        return (
            "{" + ", ".join(f"{literal(k, names)}: {literal(v, names)}" for k, v in value.items()) + "}"
        )
    if isinstance(value, (list, tuple)):
        inner = ", ".join(literal(each, names) for each in value)
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' * (len(value) == 1)})"
    return Hole(f"a {type(value).__name__} comes from nothing that a program could call")


def tensor_literal(value: torch.Tensor) -> str:
    """A tensor by its numbers."""
    if value.layout is not torch.strided or value.numel() > MOST:
        return Hole(f"a tensor of shape {tuple(value.shape)} comes from nothing that it could call")
    dense = bits.from_bits(bits.read_bits(value), tuple(value.shape), value.dtype)
    made = f"torch.tensor({numbers(dense)}, dtype={value.dtype})"
    return made if value.device.type == "cpu" else f'{made}.to("{value.device}")'


def plain_tensor_code(value: Any) -> Optional[str]:
    """A small tensor that is a leaf of contiguous values, as an expression; else None."""
    if not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
        return None
    if value.numel() > FEW or not value.numel() or value.grad_fn is not None:
        return None
    if not value.is_contiguous():
        return None
    made = tensor_literal(value)
    if isinstance(value, torch.nn.Parameter):
        return f"nn.Parameter({made}{'' if value.requires_grad else ', requires_grad=False'})"
    return f"{made}.requires_grad_()" if value.requires_grad else made


def number(value: float, dtype: torch.dtype) -> str:
    """A number of a tensor as code."""
    text = shortest(value, dtype) if isinstance(value, float) else repr(value)
    return f'float("{text}")' if text.strip("-") in ("nan", "inf") else text


# classes of the law's file


class _Bare(ast.NodeTransformer):
    """Without annotations and docstrings."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        self.generic_visit(node)
        node.returns = None
        for each in (*node.args.args, *node.args.kwonlyargs):
            each.annotation = None
        return self.without_docstring(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> Any:
        self.generic_visit(node)
        return self.without_docstring(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        if node.value is None:
            return None
        return ast.copy_location(ast.Assign([node.target], node.value), node)

    @staticmethod
    def without_docstring(node: Any) -> Any:
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        return node


def definition(thing: Any, seen: Tuple[Any, ...] = ()) -> Optional[str]:
    """The source of a class or function in plain torch, and of what it needs; None: it needs more."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(thing)))
    except (OSError, TypeError, SyntaxError):
        return None
    tree = ast.fix_missing_locations(_Bare().visit(tree))
    scope = vars(inspect.getmodule(thing) or builtins)
    before: List[str] = []
    bound = {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    bound |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    bound |= {node.name for node in ast.walk(tree) if hasattr(node, "name")}
    for name in sorted({node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - bound):
        if name in ("torch", "nn") or (name not in scope and hasattr(builtins, name)):
            continue
        value = scope.get(name)
        if inspect.isclass(value) or inspect.isfunction(value):
            needed = None if value in seen else definition(value, (*seen, thing))
        elif isinstance(value, (int, float, str, tuple, list, dict)):
            needed = f"{name} = {value!r}"
        else:
            needed = "" if isinstance(value, types.ModuleType) else None
        if needed is None:
            return None
        before += [needed] if needed else []
    return "\n".join([*before, ast.unparse(tree)])
