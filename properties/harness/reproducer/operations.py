"""What instrumented code does but for calls: attributes, subscripts, operators, assignments."""

import operator
import sys
import types
from typing import Any, Callable, Dict, List, Tuple

import torch

from frostproof.properties.harness.core.checks import LawBroken
from frostproof.properties.harness.reproducer import facts
from frostproof.properties.harness.reproducer.facts import Known, Named, Snapshot, plain
from frostproof.properties.harness.reproducer.naming import Names
from frostproof.properties.harness.reproducer.statements import (
    Block,
    Ref,
    Statement,
    Unwritable,
    contrary,
    every,
    separated,
)

SIGNS = [*"+ - * / // % ** @ & | ^ << >> == != < <= > >=".split(), "is", "is not", "in", "not in"]
OPERATORS: Dict[str, Callable[..., Any]] = {
    sign: eval(f"lambda left, right: left {sign} right") for sign in SIGNS
}
UNARY: Dict[str, Callable[..., Any]] = {
    sign: eval(f"lambda operand: {sign} operand") for sign in ("-", "+", "~", "not")
}
IN_PLACE = {
    **{"+": operator.iadd, "-": operator.isub, "*": operator.imul, "/": operator.itruediv},
    **{"|": operator.ior, "&": operator.iand},
}


class Operations(Names):
    """What becomes of all but calls."""

    def attribute(self, owner: Any, name: str) -> Any:
        held, owner = owner, plain(owner)
        value = getattr(owner, name)
        if isinstance(held, Named) and callable(value):
            self.remember(owner, held.ref)  # by which its method is called later
        if self.silent() or isinstance(owner, (types.ModuleType, type)) or callable(value):
            return value
        if isinstance(value, torch.nn.Parameter) and isinstance(owner, torch.nn.Module):
            return value
        ref = self.ref(held)
        if ref is None or self.own(type(owner)):
            return value
        return self.learn(value, Ref(self.write(ref, f".{name}", pure=True)))

    def item(self, owner: Any, index: Any) -> Any:
        held, owner, index = owner, plain(owner), facts.plain_deep(index)
        value = owner[index]
        if self.silent() or isinstance(owner, torch.nn.Module) or isinstance(value, torch.nn.Module):
            return value
        ref = self.ref(held)
        if ref is None or (isinstance(value, torch.Tensor) and self.ref(value) is not None):
            return value
        return self.learn(value, Ref(self.write(ref, "[", *self.index(index), "]", pure=True)))

    def set_attribute(self, value: Any, owner: Any, name: str) -> None:
        held, owner, stored = owner, plain(owner), facts.plain_deep(value)
        if not self.silent():
            self.hint(value, name)
            if not self.own(type(owner)) and self.ref(held) is not None:
                held = self.text(held)
                made = self.write(*held, f".{name} = ", *self.text(value))
                made.mutates, made.sets = held, name
                made.idle = getattr(owner, name, held) is stored
                if isinstance(owner, torch.Tensor):
                    self.holders[id(owner)] = None
                self.places, self.looked = {}, -1
        setattr(owner, name, stored)

    def set_item(self, value: Any, owner: Any, index: Any) -> None:
        held, owner, index = owner, plain(owner), facts.plain_deep(index)
        if not self.silent() and self.ref(held) is not None:
            held = self.text(held)
            self.write(*held, "[", *self.index(index), "] = ", *self.text(value)).mutates = held
        owner[index] = value if isinstance(owner, (dict, list)) else facts.plain_deep(value)

    def binary(self, sign: str, left: Any, right: Any) -> Any:
        value = OPERATORS[sign](plain(left), plain(right))
        return self._operated(value, sign, left, right)

    def augmented(self, sign: str, left: Any, right: Any) -> Any:
        known = self.ref(left) if not self.silent() else None
        value = IN_PLACE.get(sign, OPERATORS[sign])(plain(left), plain(right))
        if known is not None and isinstance(value, torch.Tensor) and value is plain(left):
            self.write(known, f" {sign}= ", *self.text(right)).mutates = [known]
            return left
        return self._operated(value, sign, left, right)

    def _operated(self, value: Any, sign: str, left: Any, right: Any) -> Any:
        """The value of an operator, and the expression that gives it where either side has a name."""
        if self.silent() or not self.touches(left, right):
            return value
        try:
            return self.computed(value, *self.operand(left), f" {sign} ", *self.operand(right))
        except Unwritable:
            return value

    def unary(self, sign: str, operand: Any) -> Any:
        value = UNARY[sign](plain(operand))
        if self.silent() or self.ref(operand) is None:
            return value
        return self.computed(value, "not " if sign == "not" else sign, *self.operand(operand))

    def compare(self, sign: str, left: Any, right: Any) -> Any:
        inside = plain if sign in ("is", "is not") else facts.plain_deep
        value = OPERATORS[sign](inside(left), inside(right))
        if self.silent():
            return value
        if sign in ("in", "not in") and self.ref(right) is None and self.ref(left) is None:
            return value
        if sign in ("==", "!="):
            left, right = self.differing(left, right)
        if not any(isinstance(side, Snapshot) for side in (left, right)):
            return self._operated(value, sign, left, right)
        if sign in ("is", "is not") and isinstance(left, Snapshot):
            there = left.ref.statement.parts[0]  # bits are where their tensor is
            return self.computed(value, there, f" {sign} ", *self.operand(right))
        if sign in ("==", "!="):
            return self.computed(value, *self.snapshots(sign, left, right))
        return value

    def differing(self, left: Any, right: Any) -> Tuple[Any, Any]:
        """Of two that hold many, where one of these has no name: the first that differ."""
        one, two, pairs = plain(left), plain(right), []
        if type(one) is dict and type(two) is dict and list(one) == list(two):
            pairs = [(one[key], two[key]) for key in one]
        elif type(one) in (list, tuple) and type(two) is type(one) and len(one) == len(two):
            if self.ref(left) is None or self.ref(right) is None:
                pairs = [pair for pair in zip(one, two) if self.touches(*pair)]
        for ours, theirs in pairs:
            if plain(ours) is not plain(theirs) and plain(ours) != plain(theirs):
                return self.differing(ours, theirs)
        return left, right

    def snapshots(self, sign: str, *sides: Any) -> List[Any]:
        """Bits that were read, compared as lists; by ``repr`` where these would not agree with them."""
        known = next(side for side in sides if isinstance(side, Snapshot))
        lists = [known.listed(side) if isinstance(side, bytes) else side for side in sides]
        exact = "nan" not in repr(lists) and (lists[0] == lists[1]) == (sides[0] == sides[1])
        texts: List[List[Any]] = [
            [side.ref] if isinstance(side, Snapshot) else self.text(held)
            for side, held in zip(sides, lists)
        ]
        shown = (text if exact else ["repr(", *text, ")"] for text in texts)
        return separated(f" {sign} ", shown)

    def joined(self, word: str, number: int, place: int, last: bool, value: Any) -> Any:
        """An operand of ``and`` or ``or``: the last one that is reached stands for all."""
        if self.silent():
            return value
        refs = self.pending.setdefault(number, [])
        if not place:
            refs.clear()
        ref = self.ref(value)
        decides = bool(value) == (word == "or")
        if last and type(value) in (Known, bool) and not decides and refs:
            parts = separated(f" {word} ", ([each] for each in [*refs, *([ref] if ref else [])]))
            return self.computed(bool(value), *parts)
        if ref is not None and not decides:
            refs.append(ref)
        return value

    def quantified(self, function: Any, values: Any) -> Any:
        """``all`` or ``any``: by the element that decides, or by all of them."""
        refs = []
        for value in values:
            if bool(value) == (function is any):
                return value if isinstance(value, Known) else bool(value)
            refs.append(self.ref(value))
        if not refs or None in refs or len(refs) > 20:
            return function is all
        word = " and " if function is all else " or "
        return self.computed(function is all, *separated(word, ([ref] for ref in refs)))

    def branch(self, value: Any) -> Any:
        frame = sys._getframe(1)
        self.branches[id(frame)] = (frame.f_code, value)
        block = self.open[-1]
        hook = isinstance(block.owner, torch.Tensor) and block.definition.__code__ is frame.f_code
        if hook and isinstance(value, Known) and not self.silent():
            otherwise = contrary(value.ref) if value else [value.ref]
            self.write("if ", *otherwise, ": return")  # only the way that it went is known
        return plain(value)

    def hint(self, value: Any, name: str) -> None:
        """A name for the statement that makes a value."""
        ref = self.ref(value)
        if ref is not None and not ref.path and not ref.statement.hint and name != "-":
            ref.statement.hint = name

    def name(self, name: str, value: Any) -> Any:
        """A local variable takes a value: a hint for its name in the program."""
        if not self.silent():
            self.hint(value, name)
        return value

    def name_each(self, names: str, values: Any) -> Any:
        if self.silent() or not isinstance(plain(values), (tuple, list)):
            return plain(values)
        whole, made = self.ref(values), []
        for place, (name, value) in enumerate(zip(names.split(), plain(values))):
            if whole is not None and self.ref(value) is None:
                value = self.learn(value, whole.at(f"[{place}]"))
            made.append(self.name(name, value))
        return made if len(made) == len(plain(values)) else values

    def discarded(self, value: Any) -> None:
        """What a call gave is of no concern: it was called for what it does."""
        ref = None if self.silent() else self.ref(value)
        if ref is not None and not ref.path and isinstance(plain(value), torch.Tensor):
            ref.statement.pure = False

    def block(self, manager: Any) -> Any:
        """``with manager``: a block of the program where torch made the manager."""
        found = None if self.silent() else self.known.get(id(manager))
        return manager if found is None else Inside(self, manager, found[1])


class Inside:
    """Stands for a context manager of torch: its block is one of the program."""

    def __init__(self, tape: Operations, manager: Any, ref: Ref) -> None:
        self.tape, self.manager, self.ref = tape, manager, ref

    def __enter__(self) -> Any:
        block = Block(manager=self.ref)
        self.tape.open[-1].body.append(block)
        self.tape.open.append(block)
        result = self.manager.__enter__()
        if result is not None and not facts.everywhere(result):
            block.statement.hint = "entered"
            self.tape.learn(result, Ref(block.statement))
        return result

    def __exit__(self, *problem: Any) -> Any:
        block = self.tape.open.pop()
        told = any(each.raised is problem[1] for each in every(block.body))
        if problem[0] is not None and not issubclass(problem[0], LawBroken) and not told:
            inner = any(getattr(each, "leaves", "") for each in block.body)
            block.leaves = problem[0].__name__
            if not inner:
                block.body.append(Statement([f"raise {block.leaves}"], False))
        return self.manager.__exit__(*problem)
