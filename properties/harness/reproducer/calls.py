"""Calls while an example is replayed: torch's are written down, outermost ones only."""

import functools
import inspect
import threading
import types
from typing import Any, Dict, List, NamedTuple, Sequence

import torch

from frostproof.properties.harness.core.checks import LawBroken
from frostproof.properties.harness.reproducer import facts
from frostproof.properties.harness.reproducer.facts import Known, plain, plain_deep
from frostproof.properties.harness.reproducer.instrument import telling
from frostproof.properties.harness.reproducer.operations import Operations
from frostproof.properties.harness.reproducer.statements import (
    Block,
    Hole,
    Ref,
    Statement,
    acted_on,
    blocks,
    every,
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
    "set_rng_state use_deterministic_algorithms retain_grad".split()
)
# Methods that only look, of what is no tensor.
LOOKS = frozenset("state_dict get_scale get_last_lr name data_ptr is_enabled get item copy".split())
CLASSES = (torch.nn.Module, torch.optim.Optimizer)  # written down whole, as the law's file has them
_NUMBERS = (bool, int, float, abs, sum, min, max)
BUILTINS = (*_NUMBERS, len, type, id, repr, str, tuple, sorted, list, isinstance, hasattr)
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


class Call(NamedTuple):
    """A function, and what it is called with."""

    function: Any
    values: Sequence[Any]
    named: Dict[str, Any]

    def run(self) -> Any:
        """The call, of the values themselves."""
        named = {name: plain_deep(value) for name, value in self.named.items()}
        return self.function(*map(plain_deep, self.values), **named)

    def told(self) -> Any:
        """The call, of values that say where they come from."""
        return self.function(*self.values, **self.named)


class Calls(Operations):
    """What becomes of a call."""

    def method(self, held: Any, name: str, /, *values: Any, **named: Any) -> Any:
        """``held.name(...)``."""
        owner = plain(held)
        call = Call(getattr(owner, name), values, named)
        if self.silent():
            return call.run()
        own = self.own(call.function)
        if isinstance(owner, types.ModuleType):
            if own or owner.__name__.partition(".")[0] != "torch":
                return self.called(call)
            return self.written([facts.short(f"{owner.__name__}.{name}")], call, makes(name))
        if isinstance(owner, (torch.nn.Module, dict)) and name in STRUCTURE:
            found, ref = call.run(), self.ref(held)
            if name in ("parameters", "buffers") and ref is not None:  # known as this
                found = iter(list(found))
                self.remember(found, ref.at(f".{name}()"))
            return found
        if isinstance(owner, type) and issubclass(owner, torch.autograd.Function) and self.own(owner):
            return self.constructed(call, owner, f".{name}")
        defined = self.ref(type(owner)) is not None  # its class is in the program
        if (own and not defined and not facts.of_torch(owner, name)) or facts.is_description(owner):
            return self.called(call)
        if isinstance(owner, torch.nn.Module) and name == "to":
            before = [(p.dtype, p.device) for p in (*owner.parameters(), *owner.buffers())]
            call.run()
            if before == [(p.dtype, p.device) for p in (*owner.parameters(), *owner.buffers())]:
                return held
        ref = self.ref(held)
        if ref is None and isinstance(owner, torch.Tensor):
            ref = self.text(owner)[0]
        if ref is not None:
            pure = makes(name) if isinstance(owner, torch.Tensor) else name in LOOKS
            return self.written([ref, f".{name}"], call, pure, held)
        if isinstance(owner, type) and owner.__module__.startswith("torch"):
            return self.written([facts.short(f"{facts.label(owner)}.{name}")], call, False)
        # what a list holds is known by itself
        return call.told() if isinstance(owner, (list, dict, set)) else call.run()

    def call(self, function: Any, /, *values: Any, **named: Any) -> Any:
        """``function(...)``."""
        call = Call(plain(function), values, named)
        return call.run() if self.silent() else self.called(call)

    def called(self, call: Call) -> Any:
        """A call of what is no method of a tensor or module."""
        function, values, named = call
        name, owner = getattr(function, "__name__", ""), getattr(function, "__self__", None)
        module = str(getattr(function, "__module__", ""))
        if isinstance(function, functools.partial):
            return self.call(function.func, *function.args, *values, **{**function.keywords, **named})
        if facts.is_harness(function) and hasattr(self, f"harness_{name}"):
            return getattr(self, f"harness_{name}")(call)
        if module.startswith("hypothesis") and name in ("event", "note", "assume", "target"):
            return True  # of no concern to one example
        if module == "builtins" and hasattr(self, f"builtin_{name}"):
            found = getattr(self, f"builtin_{name}")(call)
            if found is not NotImplemented:
                return found
        if owner is not None and not isinstance(owner, (types.ModuleType, type)):
            if not self.own(function) and not facts.is_description(owner):
                return self.method(owner, name, *values, **named)
        if facts.description_of(function) is not None:
            return self.described(call)
        if isinstance(function, torch.nn.Module):
            ref, plainly = self.ref(function), getattr(function, "plainly_called", None)
            if ref is None or (plainly is not None and not Call(plainly, values, named).run()):
                return call.told()  # it does more than its layers, one after the other
            shown = Call(function, values, {} if plainly is not None else named)
            return self.written([ref], shown, facts.only_computes(function))
        if self.own(function):
            kind = isinstance(function, type)
            if facts.starts_threads(function) or (kind and issubclass(function, CLASSES)):
                return self.constructed(call, function)
            if facts.draws_numbers(function):
                return self.drawn(call)
            return call.run() if kind else call.told()
        if self.own(getattr(function, "__wrapped__", None)):  # decorated with torch's
            return self.constructed(call, function)
        ref, label = self.ref(function), facts.label(function)
        if ref is not None:
            return self.written([ref], call, False)
        if label.startswith(("torch.", "nn.")):
            return self.written([label], call, makes(label.rpartition(".")[2]))
        held = any(self.ref(value) is not None for value in values)
        if (held and function in BUILTINS) or (module in LIBRARY and self.touches(*values)):
            return self.written([label], call, True, symbols=True)
        if isinstance(function, type) and module == "builtins":
            return function(*map(plain, values), **named)  # a list, or what goes through one
        return call.run()

    # builtins; NotImplemented: as any other

    def builtin_eval(self, call: Call) -> Any:
        code = plain(call.values[0])
        code = telling(code, call.function.__name__) if isinstance(code, str) else code
        return call.function(code, *map(plain, call.values[1:]))

    def builtin_getattr(self, call: Call) -> Any:
        owner, name = map(plain, call.values[:2])
        there = len(call.values) == 2 or hasattr(owner, name)
        return self.expression(f"_1.{name}", call.values[0]) if there else NotImplemented

    def builtin_setattr(self, call: Call) -> None:
        self.set_attribute(call.values[2], call.values[0], plain(call.values[1]))

    def builtin_all(self, call: Call) -> Any:
        """By the element that decides, or by all of them."""
        refs, every_one = [], call.function is all
        for value in call.values[0]:
            if bool(value) != every_one:
                return value if isinstance(value, Known) else bool(value)
            refs.append(self.ref(value))
        if not refs or None in refs or len(refs) > 20:
            return every_one
        parts = separated(" and " if every_one else " or ", ([ref] for ref in refs))
        return self.computed(every_one, *parts)

    def builtin_sum(self, call: Call) -> Any:
        if self.ref(call.values[0]) is not None:
            return NotImplemented
        plus = functools.partial(self.expression, "_1 + _2")
        return functools.reduce(plus, plain(call.values[0]), *(call.values[1:] or (0,)))

    def builtin_bool(self, call: Call) -> Any:
        return call.values[0] if isinstance(plain(call.values[0]), bool) else NotImplemented

    builtin_exec, builtin_any = builtin_eval, builtin_all

    def constructed(self, call: Call, defined: Any, place: str = "") -> Any:
        """A call of a class or function of the law's own file that the program gets as it stands."""
        if self.ref(defined) is None:
            source = facts.definition(defined)
            if source is None:
                return call.told()
            made = self.write(source, pure=True)
            made.defines = [defined.__name__]
            self.remember(defined, Ref(made))
        return self.written([self.ref(defined), place], call, isinstance(defined, type))

    def written(
        self, head: List[Any], call: Call, pure: bool, held: Any = None, symbols: bool = False
    ) -> Any:
        """A call that goes into the program."""
        owner = plain(held)
        if any(isinstance(each, torch.Generator) for each in (*call.values, *call.named.values())):
            pure = False  # what is drawn next depends on it
        values = [self.callback(self.again(value), owner) for value in call.values]
        named = {name: self.callback(self.again(value), owner) for name, value in call.named.items()}
        given = self.arguments(values, named, symbols or type(owner) in (list, dict, set))
        if given[:1] == ["list("] and str(head[0]).startswith("torch.optim."):
            given = [given[1], *given[3:]]  # an optimizer takes an iterator
        made = Statement([*head, "(", *given, ")"], pure)
        made.idle, made.sets = is_idle(owner, head[-1], values), SETTERS.get(head[-1], "")
        if isinstance(owner, torch.Tensor) and not pure:
            self.hold(owner)  # requires_grad_, or a gradient made by hand
            if not head[1].startswith((".backward", ".register")):
                made.mutates = head[:1]
        body = self.open[-1].body
        place = len(body)
        self.depth += 1
        try:
            result = Call(call.function, values, named).run()
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
            call = Call(inner, values, named)
            if block.acts() or block in self.open or threading.get_ident() != self.thread:
                return call.told()
            return self.inside(block, call)

        self.remember(told, Ref(block.statement))
        self.callbacks[id(inner)] = told, block
        return told

    def inside(self, block: Block, call: Call) -> Any:
        """A call of a callback: what the first that acts does is the function's body."""
        block.done, block.body, block.parameters = True, [], []
        known, names = dict(self.known), list(inspect.signature(call.function).parameters)
        names += [f"{names[-1] if names else 'a'}{number}" for number in range(len(call.values))]
        for name, value in zip(names, call.values):
            block.parameters.append(Statement([name], True, name))
            if not facts.everywhere(value):
                self.remember(value, Ref(block.parameters[-1]))
        depth, opened = self.depth, self.open
        self.depth, self.open = 0, [block]
        try:
            result = call.told()
            if result is not None:
                self.write("return ", *self.text(result, symbols=True))
            return plain_deep(result)
        finally:
            for each in every(block.body):  # what is so already at the first call need not be later
                each.idle = False
            # what is made inside is not known outside, and what was given goes by another name
            self.kept.append(self.known)
            self.known, self.depth, self.open = known, depth, opened

    def rehearse(self) -> None:
        """What the hooks would do that were never called: with zeros for what they are given."""
        for block in list(blocks(self.root.body)):
            if block.done or block.definition is None or block.owner is None:
                continue
            given: Any = (block.owner, (torch.zeros(1),), torch.zeros(1))
            if isinstance(block.owner, torch.Tensor):
                given = (torch.zeros_like(block.owner.detach()),)
                given[0].grad = torch.zeros_like(given[0])
            try:
                wanted = len(inspect.signature(block.definition).parameters)
                self.inside(block, Call(block.definition, given[:wanted], {}))
            except Exception as problem:
                reason = Hole(f"a hook that never ran: tried, it raised {type(problem).__name__}")
                block.body = [Statement([reason], False)] if len(given) == 1 else []

    def described(self, call: Call) -> Any:
        """What a description builds: it prints itself; the same data once, while nothing changes it."""
        code = facts.description_of(call.function)
        self.depth += 1
        try:
            result, (lines, names) = call.run(), call._replace(function=code).run()
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

    def drawn(self, call: Call) -> Any:
        """Numbers made from a seed: written out where they are few, else as they are made."""
        block = Block()
        self.open.append(block)
        try:
            result = call.told()
        finally:
            self.open.pop()
        results = result if isinstance(result, (tuple, list)) else [result]
        if not all(map(facts.is_plain, results)):
            self.open[-1].body += block.body
            return result
        for value in results:
            self.remember(value, Ref(self.write(facts.tensor_literal(value), pure=True)))
        return result
