"""Calls while an example is replayed: torch's are written down, outermost ones only."""

import functools
import inspect
import threading
import types
from typing import Any, Dict, List

import torch

from frostproof.properties.harness.core.checks import LawBroken
from frostproof.properties.harness.reproducer import facts
from frostproof.properties.harness.reproducer.facts import plain, plain_deep
from frostproof.properties.harness.reproducer.instrument import telling
from frostproof.properties.harness.reproducer.operations import Operations
from frostproof.properties.harness.reproducer.statements import (
    Block,
    Hole,
    Ref,
    Statement,
    Unwritable,
    acted_on,
    blocks,
    every,
)

# What only looks at a module: the parameters that come are known by their places.
STRUCTURE = frozenset(
    "parameters named_parameters buffers named_buffers modules named_modules children named_children "
    "items keys values".split()
)
# What acts although it is a function of torch whose name does not end with "_".
ACTS = frozenset(
    "backward manual_seed set_grad_enabled seed save set_default_dtype checkpoint set_num_threads "
    "register_parametrization remove_parametrizations weight_norm remove_weight_norm spectral_norm "
    "set_rng_state use_deterministic_algorithms retain_grad".split()
)
# Methods that only look, of what is no tensor.
LOOKS = frozenset("state_dict get_scale get_last_lr name data_ptr is_enabled get item copy".split())
BUILTINS = (bool, len, type, id, repr, str, float, int, tuple, sorted, abs, list, isinstance, hasattr)
LIBRARY = ("copy", "_copy", "math", "pickle", "_pickle", "io")


def makes(name: str) -> bool:
    """Whether a function or method of torch of this name only makes or reads something."""
    acts = name in ACTS or name.startswith("register_") or (name[-1] == "_" and name[-2:] != "__")
    return not acts


SETTERS = {".requires_grad_": "requires_grad", ".zero_grad": "grad", ".copy_": "values"}


def is_idle(owner: Any, method: str, values: Any) -> bool:
    """Whether a setter sets what is so already."""
    if method not in (".requires_grad_", ".zero_grad"):
        return False
    parts = [owner] if isinstance(owner, torch.Tensor) else []
    if isinstance(owner, torch.optim.Optimizer):
        parts = [p for group in owner.param_groups for p in group["params"]]
    if isinstance(owner, torch.nn.Module):
        parts = list(owner.parameters())
    if method == ".zero_grad":
        return all(p.grad is None for p in parts)
    return all(p.requires_grad == (plain(values[0]) if values else True) for p in parts)


def _with_options(function: Any, options: Any, *values: Any) -> Any:
    return function(*values, options)


class Calls(Operations):
    """What becomes of a call."""

    def method(self, owner: Any, name: str, *values: Any, **named: Any) -> Any:
        if self.silent():
            return self.run(getattr(plain(owner), name), values, named)
        return self.asked(owner, name, values, named)

    def call(self, function: Any, *values: Any, **named: Any) -> Any:
        if self.silent():
            return self.run(plain(function), values, named)
        return self.called(plain(function), values, named)

    @staticmethod
    def run(function: Any, values: Any, named: Dict[str, Any]) -> Any:
        """``function(...)`` of the values themselves."""
        return function(*map(plain_deep, values), **{k: plain_deep(v) for k, v in named.items()})

    def asked(self, owner: Any, name: str, values: Any, named: Dict[str, Any]) -> Any:
        """``owner.name(...)``."""
        held, owner = owner, plain(owner)
        function = getattr(owner, name)
        if isinstance(owner, types.ModuleType):
            if owner.__name__.partition(".")[0] == "torch" and not self.own(function):
                label = facts.short(f"{owner.__name__}.{name}")
                return self.written([label], function, values, named, makes(name))
            return self.called(function, values, named)
        if isinstance(owner, type) and owner.__module__ == "multiprocessing.reduction":
            hole = Hole("what goes to another process: the program is one process")
            return self.written([hole], function, values, named, False)
        if isinstance(owner, (torch.nn.Module, dict)) and name in STRUCTURE:
            found, ref = self.run(function, values, named), self.ref(held)
            if name in ("parameters", "buffers") and ref is not None:  # known as this
                found = iter(list(found))
                self.remember(found, ref.at(f".{name}()"))
            return found
        if (self.own(function) and not facts.of_torch(owner, name)) or facts.is_description(owner):
            return self.called(function, values, named)
        if isinstance(owner, torch.nn.Module) and name == "to":
            before = [(p.dtype, p.device) for p in (*owner.parameters(), *owner.buffers())]
            self.run(function, values, named)
            if before == [(p.dtype, p.device) for p in (*owner.parameters(), *owner.buffers())]:
                return held
        ref = self.ref(held)
        if ref is None and isinstance(owner, torch.Tensor):
            ref = self.text(owner)[0]
        if ref is None:
            if getattr(owner, "__module__", "").startswith("torch") and isinstance(owner, type):
                label = facts.short(f"{facts.label(owner)}.{name}")
                return self.written([label], function, values, named, False)
            if isinstance(owner, (list, dict, set)):  # what they hold is known by itself
                return function(*values, **named)
            return self.run(function, values, named)
        pure = makes(name) if isinstance(owner, torch.Tensor) else name in LOOKS
        return self.written([ref, f".{name}"], function, values, named, pure, held)

    def called(self, function: Any, values: Any, named: Dict[str, Any]) -> Any:
        """``function(...)``."""
        name, owner = getattr(function, "__name__", ""), getattr(function, "__self__", None)
        if isinstance(function, functools.partial):
            return self.called(function.func, (*function.args, *values), {**function.keywords, **named})
        if facts.is_harness(function) and hasattr(self, f"harness_{name}"):
            return getattr(self, f"harness_{name}")(function, values, named)
        module = str(getattr(function, "__module__", ""))
        if module.startswith("hypothesis") and name in ("event", "note", "assume", "target"):
            return True  # of no concern to one example
        if function is eval or function is exec:
            code = plain(values[0])
            code = telling(code, name) if isinstance(code, str) else code
            return function(code, *map(plain, values[1:]))
        if function is getattr and (len(values) == 2 or hasattr(plain(values[0]), plain(values[1]))):
            return self.attribute(values[0], plain(values[1]))
        if function is setattr:
            return self.set_attribute(values[2], values[0], plain(values[1]))
        if function is all or function is any:
            return self.quantified(function, values[0])
        if function is sum:
            start = values[1:] or (0,)
            return functools.reduce(functools.partial(self.binary, "+"), plain(values[0]), *start)
        if function is bool and isinstance(plain(values[0]), bool):
            return values[0]
        if owner is not None and not isinstance(owner, (types.ModuleType, type)):
            if not self.own(function) and not facts.is_description(owner):
                return self.asked(owner, name, values, named)
        described = facts.description_of(function)
        if described is not None:
            return self.described(described, function, values, named)
        if isinstance(function, torch.nn.Module):
            ref = self.ref(function)
            if ref is None or self.descends(function, values, named):
                return function(*values, **named)
            named = {} if hasattr(function, "plainly_called") else named
            return self.written([ref], function, values, named, facts.only_computes(function))
        if self.own(function):
            kind = isinstance(function, type)
            if facts.starts_threads(function) or (kind and issubclass(function, torch.nn.Module)):
                return self.constructed(function, values, named)
            if facts.draws_numbers(function):
                return self.drawn(function, values, named)
            return self.run(function, values, named) if kind else function(*values, **named)
        ref = self.ref(function)
        if ref is not None:
            return self.written([ref], function, values, named, False)
        label = facts.label(function)
        if label.endswith(".functional_call") and len(values) == 4:
            inner = plain_deep(values[2]), plain_deep(values[3])
            if self.descends(plain(values[0]), *inner):
                label = Hole(f"{label} of a net that is cut: the program's net is a plain Sequential")
                return self.written([label], function, values, named, True)
            # the program's net takes no options
            function, values = functools.partial(_with_options, function, inner[1]), values[:3]
        if label.startswith(("torch.", "nn.")):
            return self.written([label], function, values, named, makes(label.rpartition(".")[2]))
        held = any(self.ref(value) is not None for value in values)
        if (held and function in BUILTINS) or (module in LIBRARY and self.touches(*values)):
            return self.written([label], function, values, named, True, symbols=True)
        if isinstance(function, type) and module == "builtins":
            return function(*map(plain, values), **named)  # a list, or what goes through one
        return self.run(function, values, named)

    @staticmethod
    def descends(module: Any, values: Any, named: Dict[str, Any]) -> bool:
        """Whether a described net does more in this call than its layers one after the other."""
        plainly: Any = getattr(module, "plainly_called", None)
        return plainly is not None and not Calls.run(plainly, values, named)

    def constructed(self, function: Any, values: Any, named: Dict[str, Any]) -> Any:
        """A class or function of the law's own file that the program gets as it stands."""
        ref = self.ref(function)
        if ref is None:
            source = facts.definition(function)
            if source is None:
                return function(*values, **named)
            made = self.write(source, pure=True)
            made.defines = [function.__name__]
            ref = Ref(made)
            self.remember(function, ref)
        return self.written([ref], function, values, named, isinstance(function, type))

    def written(
        self,
        head: List[Any],
        function: Any,
        values: Any,
        named: Dict[str, Any],
        pure: bool,
        owner: Any = None,
        symbols: bool = False,
    ) -> Any:
        """A call that goes into the program."""
        held, owner = owner, plain(owner)
        if any(isinstance(each, torch.Generator) for each in (*values, *named.values())):
            pure = False  # what is drawn next depends on it
        values = [self.callback(self.again(value), owner) for value in values]
        named = {name: self.callback(self.again(value), owner) for name, value in named.items()}
        body = self.open[-1].body
        given = self.arguments(values, named, symbols or type(owner) in (list, dict, set))
        if given[:1] == ["list("] and str(head[0]).startswith("torch.optim."):
            given = [given[1], *given[3:]]  # an optimizer takes an iterator
        made = Statement([*head, "(", *given, ")"], pure)
        made.idle, made.sets = is_idle(owner, head[-1], values), SETTERS.get(head[-1], "")
        self.length += 1
        if isinstance(owner, torch.Tensor) and not pure:
            self.holders[id(owner)] = None  # requires_grad_, or a gradient made by hand
            if not head[1].startswith((".backward", ".register")):
                made.mutates = head[:1]
        place = len(body)
        self.depth += 1
        try:
            result = self.run(function, values, named)
        except LawBroken:
            made.pure = False
            self.triggers.append(made)
            raise
        except Exception as problem:
            made.raised = problem
            raise
        finally:
            self.depth -= 1
            body.insert(max(place, len(body)), made)
        if result is None and not pure:
            return None
        if result is owner and owner is not None and self.ref(held) is not None:
            return held
        if isinstance(result, torch.Tensor) and self.ref(result) is not None and not pure:
            return result
        return self.learn(result, Ref(made))

    def again(self, value: Any) -> Any:
        """The argument itself; what can be read only once is read, and stands for its list."""
        if not isinstance(value, (filter, map, zip, types.GeneratorType)):
            return value
        items = list(value)
        whole = self.all_parameters(items)
        made = iter(items)
        self.remember(made, whole or Ref(self.write("iter(", *self.text(items), ")", pure=True)))
        return made

    def callback(self, value: Any, owner: Any) -> Any:
        """A function of the law's that torch will call: a function of the program."""
        inner = plain(value)
        if not isinstance(inner, (types.FunctionType, types.MethodType)) or not self.own(inner):
            return value
        before, block = self.callbacks.get(id(inner), (None, Block()))
        if before is not None and not block.acts():
            return before
        if self.ref(inner) is not None:
            return inner
        cells = [cell.cell_contents for cell in getattr(inner, "__closure__", None) or ()]
        cells += vars(getattr(inner, "__self__", types.SimpleNamespace())).values()
        for held in cells:  # what it may fill begins as it is
            if type(held) in (list, dict, set) and self.ref(held) is None:
                self.remember(held, Ref(self.write(*self.text(type(held)(held)), pure=True)))
        block = Block(definition=inner)
        block.owner = owner
        self.open[-1].body.append(block)

        @functools.wraps(inner)
        def told(*values: Any, **named: Any) -> Any:
            if block.acts() or block in self.open or threading.get_ident() != self.thread:
                return inner(*values, **named)
            return self.inside(block, inner, values, named)

        self.remember(told, Ref(block.statement))
        self.callbacks[id(inner)] = told, block
        return told

    def inside(self, block: Block, function: Any, values: Any, named: Dict[str, Any]) -> Any:
        """A call of a callback: what the first that acts does is the function's body."""
        block.done, block.body, block.parameters = True, [], []
        known, names = dict(self.known), list(inspect.signature(function).parameters)
        names += [f"{names[-1] if names else 'a'}{number}" for number in range(len(values))]
        for name, value in zip(names, values):
            block.parameters.append(Statement([name], True, name))
            if not facts.everywhere(value):
                self.remember(value, Ref(block.parameters[-1]))
        depth, self.depth = self.depth, 0
        opened, self.open = self.open, [block]
        try:
            result = function(*values, **named)
            if result is not None:
                try:
                    self.write("return ", *self.text(result, symbols=True))
                except Unwritable:
                    pass
            return plain_deep(result)
        finally:
            for each in every(
                block.body
            ):  # what is so already when it is called first need not be later
                each.idle = False
            # what is made inside is not known outside, and what was given goes by another name
            self.kept.append(self.known)
            self.known = known
            self.depth, self.open = depth, opened

    def rehearse(self) -> None:
        """What the hooks would do that were never called: with zeros for what they are given."""
        for block in list(blocks(self.root.body)):
            if block.done or block.definition is None or block.owner is None:
                continue
            wanted = len(inspect.signature(block.definition).parameters)
            zeros, owner = torch.zeros(1), block.owner
            ways: List[Any] = [(owner, (zeros,), zeros), (owner, (zeros,), (zeros,))]
            if isinstance(owner, torch.Tensor):
                zeros = torch.zeros_like(owner.detach())
                zeros.grad = torch.zeros_like(zeros)
                ways = [(zeros,)]
            for given in ways:
                try:
                    self.inside(block, block.definition, given[:wanted], {})
                    break
                except Exception as problem:
                    reason = Hole(f"a hook that never ran: tried, it raised {type(problem).__name__}")
                    of_tensor = isinstance(owner, torch.Tensor)
                    block.body = [Statement([reason], False)] if of_tensor else []

    def described(self, code: Any, function: Any, values: Any, named: Dict[str, Any]) -> Any:
        """What a description builds: it prints itself; the same data once, while nothing changes it."""
        self.depth += 1
        try:
            result = self.run(function, values, named)
            lines, names = self.run(code, values, named)
        finally:
            self.depth -= 1
        made = self.data.get(lines)
        if made is None or not made.constant or id(made) in acted_on(every(self.root.body)):
            made = self.data[lines] = self.write(lines, pure=True)
            made.defines, made.constant = list(names), code.__name__ == "data_code"
        parts = list(result.values()) if isinstance(result, dict) else result
        for number, value in enumerate(parts if isinstance(parts, (tuple, list)) else [parts]):
            self.learn(value, Ref(made, number=number))
        return result

    def drawn(self, function: Any, values: Any, named: Dict[str, Any]) -> Any:
        """Numbers made from a seed: written out where they are few, else as they are made."""
        block = Block()
        self.open.append(block)
        try:
            result = function(*values, **named)
        finally:
            self.open.pop()
        results = result if isinstance(result, (tuple, list)) else [result]
        if not all(map(facts.is_plain, results)):
            self.open[-1].body += block.body
            return result
        for value in results:
            self.remember(value, Ref(self.write(facts.tensor_literal(value), pure=True)))
        return result
