"""Calls while an example is replayed: torch's are written down, outermost ones only."""

import functools
import re
import threading
import types
from typing import Any, Callable, Dict, List

import torch

from frostproof.properties.harness.core.checks import LawBroken
from frostproof.properties.harness.reproducer import facts
from frostproof.properties.harness.reproducer.facts import Known, Named, plain
from frostproof.properties.harness.reproducer.instrument import telling
from frostproof.properties.harness.reproducer.naming import Names, everywhere
from frostproof.properties.harness.reproducer.statements import (
    Block,
    Hole,
    Ref,
    Statement,
    Unwritable,
    blocks,
    separated,
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
    "set_rng_state use_deterministic_algorithms".split()
)
# Methods that only look, of what is no tensor.
LOOKS = frozenset("state_dict get_scale get_last_lr name data_ptr is_enabled get item copy".split())
BUILTINS = frozenset(
    (bool, len, type, id, repr, str, float, int, tuple, sorted, abs, list, isinstance, hasattr)
)
LIBRARY = ("copy", "_copy", "math", "pickle", "_pickle", "io")


def makes(name: str) -> bool:
    """Whether a function or method of torch of this name only makes or reads something."""
    return name not in ACTS and (name[-1] != "_" or name[-2:] == "__")


def _with_options(function: Any, options: Any, *values: Any) -> Any:
    return function(*values, options)


Special = Callable[[Any, Any, Any, Dict[str, Any]], Any]
SPECIAL: Dict[str, Special] = {}


class Calls(Names):
    """What becomes of a call."""

    def attribute(self, owner: Any, name: str) -> Any:
        """``owner.name``: see ``Tape``."""
        raise NotImplementedError

    def set_attribute(self, value: Any, owner: Any, name: str) -> None:
        """``owner.name = value``: see ``Tape``."""
        raise NotImplementedError

    def asked(self, owner: Any, name: str, values: Any, named: Dict[str, Any]) -> Any:
        """``owner.name(...)``."""
        function = getattr(owner, name)
        if isinstance(owner, types.ModuleType):
            root = owner.__name__.partition(".")[0]
            if root == "torch" and not self.own(function):
                label = f"{owner.__name__}.{name}"
                return self.written([facts.short(label)], function, values, named, makes(name))
            return self.called(function, values, named)
        if isinstance(owner, type) and owner.__module__ == "multiprocessing.reduction":
            hole = Hole("what goes to another process: the program is one process")
            return self.written([hole], function, values, named, False)
        if isinstance(owner, (torch.nn.Module, dict)) and name in STRUCTURE:
            found = function(*map(plain, values), **named)
            return self.listing(owner, name, found) if name in ("parameters", "buffers") else found
        if (self.own(function) and not facts.of_torch(owner, name)) or facts.is_description(owner):
            return self.called(function, values, named)
        if isinstance(owner, torch.nn.Module) and name == "to":
            before = [(p.dtype, p.device) for p in (*owner.parameters(), *owner.buffers())]
            made = function(*map(plain, values), **{k: plain(v) for k, v in named.items()})
            if before == [(p.dtype, p.device) for p in (*owner.parameters(), *owner.buffers())]:
                return made
        ref = self.ref(owner)
        if ref is None and isinstance(owner, torch.Tensor):
            ref = self.text(owner)[0]
        if ref is None:
            if getattr(owner, "__module__", "").startswith("torch") and isinstance(owner, type):
                label = facts.short(f"{facts.label(owner)}.{name}")
                return self.written([label], function, values, named, False)
            if isinstance(owner, (list, dict, set)):  # what they hold is known by itself
                return function(*map(self.seen, values), **named)
            return function(*map(facts.plain_deep, values), **named)
        pure = makes(name) if isinstance(owner, torch.Tensor) else name in LOOKS
        pure = pure and name != "retain_grad" and not name.startswith("register_")
        filled = type(owner) in (list, dict, set)
        return self.written([ref, f".{name}"], function, values, named, pure, owner, symbols=filled)

    def listing(self, owner: Any, name: str, found: Any) -> Any:
        """What ``net.parameters()`` gives, known as this."""
        made, ref = iter(list(found)), self.ref(owner)
        if ref is not None:
            self.remember(made, ref.at(f".{name}()"))
        return made

    def called(self, function: Any, values: Any, named: Dict[str, Any]) -> Any:
        """``function(...)``."""
        if isinstance(function, functools.partial):
            return self.called(function.func, (*function.args, *values), {**function.keywords, **named})
        special = SPECIAL.get(getattr(function, "__name__", ""))
        if special is not None and facts.is_harness(function):
            return special(self, function, values, named)
        if getattr(function, "__name__", "") in ("event", "note", "assume", "target"):
            if str(function.__module__).startswith("hypothesis"):
                return True  # of no concern to one example
        if function is eval or function is exec:
            code = plain(values[0])
            code = telling(code, function.__name__) if isinstance(code, str) else code
            return function(code, *map(plain, values[1:]))
        if function is getattr and (len(values) == 2 or hasattr(plain(values[0]), values[1])):
            return self.attribute(plain(values[0]), plain(values[1]))
        if function is setattr:
            return self.set_attribute(values[2], plain(values[0]), plain(values[1]))
        if function is all or function is any:
            return self.quantified(function, values[0])
        if function is sum:
            return functools.reduce(
                functools.partial(self.binary, "+"), plain(values[0]), *(values[1:] or (0,))
            )
        if function is bool and isinstance(plain(values[0]), bool):
            return values[0]
        owner = getattr(function, "__self__", None)
        if (
            owner is not None
            and not isinstance(owner, types.ModuleType)
            and not isinstance(owner, type)
        ):
            if not self.own(function) and not facts.is_description(owner):
                return self.asked(owner, function.__name__, values, named)
        described = facts.description_of(function)
        if described is not None:
            return self.described(described, function, values, named)
        if self.own(function) and not isinstance(function, torch.nn.Module):
            if isinstance(function, type) and issubclass(function, torch.nn.Module):
                return self.constructed(function, values, named)
            if facts.starts_threads(function):
                return self.constructed(function, values, named)
            if facts.draws_numbers(function):
                return self.drawn(function, values, named)
            return self.told(function, values, named)
        ref = self.ref(function)
        if isinstance(function, torch.nn.Module):
            if ref is not None and not self.descends(function, values, named):
                if hasattr(function, "plainly_called"):
                    named = {}
                return self.written([ref], function, values, named, facts.only_computes(function))
            return self.told(function, values, named)
        if ref is not None:
            return self.written([ref], function, values, named, False)
        label = facts.label(function)
        if label.endswith(".functional_call") and len(values) == 4:
            inner = facts.plain_deep(values[2]), facts.plain_deep(values[3])
            if self.descends(plain(values[0]), *inner):
                label = Hole(f"{label} of a net that is cut: the program's net is a plain Sequential")
                return self.written([label], function, values, named, True)
            # the program's net takes no options
            function, values = functools.partial(_with_options, function, inner[1]), values[:3]
        if label.startswith(("torch.", "nn.")):
            return self.written([label], function, values, named, makes(label.rpartition(".")[2]))
        module = getattr(function, "__module__", "") or ""
        held = any(self.ref(value) is not None for value in values)
        if (held and any(function is each for each in BUILTINS)) or (
            module in LIBRARY and self.touches(*values)
        ):
            return self.written([label], function, values, named, True, symbols=True)
        return self.told(function, values, named)

    def told(self, function: Any, values: Any, named: Dict[str, Any]) -> Any:
        """A function of the law's own: what it is given goes by the names of its parameters."""
        code = getattr(getattr(function, "__func__", function), "__code__", None)
        given = {}
        if any(isinstance(value, Named) for value in (*values, *named.values())) and code is not None:
            names = code.co_varnames[isinstance(function, types.MethodType) : code.co_argcount]
            pairs = (*zip(names, values), *named.items())
            given = {(code, name): value for name, value in pairs if isinstance(value, Named)}
        self.given.append(given)
        try:
            return function(*map(self.seen, values), **{k: self.seen(v) for k, v in named.items()})
        finally:
            self.given.pop()

    @staticmethod
    def descends(module: Any, values: Any, named: Dict[str, Any]) -> bool:
        """Whether a described net does more in this call than its layers one after the other."""
        return hasattr(module, "plainly_called") and not module.plainly_called(
            *map(plain, values), **{k: plain(v) for k, v in named.items()}
        )

    def constructed(self, function: Any, values: Any, named: Dict[str, Any]) -> Any:
        """A class or function of the law's own file that the program gets as it stands."""
        source = facts.definition(function)
        if source is None:
            return self.told(function, values, named)
        made = Statement([source], True, source=True)
        made.hint = function.__name__
        self.open[-1].body.append(made)
        return self.written([Ref(made)], function, values, named, isinstance(function, type))

    def binary(self, sign: str, left: Any, right: Any) -> Any:
        """``left sign right``: see ``Tape``."""
        raise NotImplementedError

    def quantified(self, function: Any, values: Any) -> Any:
        """``all`` or ``any``: by the element that decides, or by all of them."""
        refs = []
        for value in values:
            if bool(value) == (function is any):
                return value if isinstance(value, Known) else bool(value)
            refs.append(self.ref(value))
        word = " and " if function is all else " or "
        if not refs or None in refs or len(refs) > 20:
            return function is all
        parts = separated(word, ([ref] for ref in refs))
        return self.computed(function is all, *parts)

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
        if any(isinstance(each, torch.Generator) for each in (*values, *named.values())):
            pure = False  # what is drawn next depends on it
        values = [self.callback(facts.again(value), owner) for value in values]
        named = {name: self.callback(facts.again(value), owner) for name, value in named.items()}
        body = self.open[-1].body
        given = self.arguments(values, named, symbols)
        if given[:1] == ["list("] and str(head[0]).startswith("torch.optim."):
            given = [given[1], *given[3:]]  # an optimizer takes an iterator
        made = Statement([*head, "(", *given, ")"], pure)
        self.length += 1
        if isinstance(owner, torch.Tensor) and not pure:
            self.holders[id(owner)] = None  # requires_grad_, or a gradient made by hand
        if isinstance(owner, torch.Tensor) and not str(head[1]).startswith((".backward", ".register")):
            made.mutates = head[:1]
        place = len(body)
        self.depth += 1
        try:
            result = function(
                *map(facts.plain_deep, values), **{k: facts.plain_deep(v) for k, v in named.items()}
            )
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
        if result is owner and owner is not None and self.ref(owner) is not None:
            return result
        if isinstance(result, torch.Tensor) and self.ref(result) is not None and not pure:
            return result
        return self.learn(result, Ref(made))

    def callback(self, value: Any, owner: Any) -> Any:
        """A function of the law's that torch will call: a function of the program."""
        inner = plain(value)
        if not isinstance(inner, (types.FunctionType, types.MethodType)) or not self.own(inner):
            return value
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
        tape = self

        @functools.wraps(inner)
        def told(*values: Any, **named: Any) -> Any:
            if block.body or block.done or threading.get_ident() != tape.thread:
                return inner(*values, **named)
            return tape.inside(block, inner, values, named)

        self.remember(told, Ref(block.statement))
        return told

    def inside(self, block: Block, function: Any, values: Any, named: Dict[str, Any]) -> Any:
        """The first call of a callback: what it does is the function's body."""
        block.done = True
        known = dict(self.known)
        for number, value in enumerate(values):
            block.parameters.append(Statement([f"a{number}"], True))
            block.parameters[-1].hint = f"a{number}"
            if not everywhere(value):
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
            return facts.plain_deep(result)
        finally:
            mine = [key for key in self.known if key not in known]
            for key in mine:  # what is made inside is not known outside
                self.kept.append(self.known.pop(key))
            for value in values:  # outside it goes by another name
                if id(value) in known:
                    self.known[id(value)] = known[id(value)]
            self.depth, self.open = depth, opened

    def rehearse(self) -> None:
        """What the hooks of tensors would do that were never called: with zeros for a gradient."""
        for block in list(blocks(self.root.body)):
            if block.done or block.definition is None or not isinstance(block.owner, torch.Tensor):
                continue
            gradient = torch.zeros_like(block.owner.detach())
            gradient.grad = torch.zeros_like(gradient)
            try:
                self.inside(block, block.definition, (gradient,), {})
            except Exception as problem:
                reason = Hole(f"a hook that never ran: tried, it raised {type(problem).__name__}")
                block.body.append(Statement([reason], False))

    def described(self, code: Any, function: Any, values: Any, named: Dict[str, Any]) -> Any:
        """What a description builds: it prints itself."""
        self.depth += 1
        try:
            result = function(*map(plain, values), **{k: plain(v) for k, v in named.items()})
            lines, names = code(*map(plain, values), **{k: plain(v) for k, v in named.items()})
        finally:
            self.depth -= 1
        made, original = Statement([lines], True, source=True), lines
        self.open[-1].body.append(made)
        parts = list(result.values()) if isinstance(result, dict) else result
        results = parts if isinstance(parts, (tuple, list)) else [parts]
        for number, (value, name) in enumerate(zip(results, names)):
            self.defined[name] = self.defined.get(name, 0) + 1
            if self.defined[name] > 1:
                lines = re.sub(rf"(?<![\w.]){name}\b(?!=[^=])", f"{name}{self.defined[name]}", lines)
                name = f"{name}{self.defined[name]}"
            made.defines.append(name)
            made.parts = [lines]
            self.learn(value, Ref(made, number=number))
        made.same = original if code.__name__ == "data_code" else ""
        return result

    def drawn(self, function: Any, values: Any, named: Dict[str, Any]) -> Any:
        """Numbers made from a seed: written out where they are few, else as they are made."""
        block = Block()
        self.open.append(block)
        try:
            result = self.told(function, values, named)
        finally:
            self.open.pop()
        results = result if isinstance(result, (tuple, list)) else [result]
        codes = [facts.plain_tensor_code(each) for each in results]
        if None in codes:
            self.open[-1].body += block.body
            return result
        for value, code in zip(results, codes):
            self.learn(value, Ref(self.write(code, pure=True)))
        return result
