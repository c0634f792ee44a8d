"""Writes down what a law does with torch while its minimal example is replayed.

``instrument`` makes the law and what it uses here tell each call, attribute, operator and block.
What is torch's is written down; the oracle, the snapshots and the checks are silent: of them
only the values count. What is known by a name goes by its name, whatever else is small is
written as a number; a description that is drawn prints itself.
"""

import operator
import sys
import types
from typing import Any, Callable, Dict, List, Tuple

import torch

from frostproof.properties.harness.core.checks import LawBroken
from frostproof.properties.harness.reproducer import facts
from frostproof.properties.harness.reproducer.calls import Calls
from frostproof.properties.harness.reproducer.facts import Known, Named, Snapshot, plain
from frostproof.properties.harness.reproducer.naming import everywhere
from frostproof.properties.harness.reproducer.statements import (
    Block,
    Ref,
    Statement,
    Unwritable,
    contrary,
    every,
    separated,
)

OPERATORS: Dict[str, Callable[..., Any]] = {
    **{"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv},
    **{"//": operator.floordiv, "%": operator.mod, "**": operator.pow, "@": operator.matmul},
    **{"&": operator.and_, "|": operator.or_, "^": operator.xor, "<<": operator.lshift},
    **{">>": operator.rshift, "==": operator.eq, "!=": operator.ne, "<": operator.lt},
    **{"<=": operator.le, ">": operator.gt, ">=": operator.ge, "is": operator.is_},
    "is not": operator.is_not,
    "in": lambda left, right: left in right,
    "not in": lambda left, right: left not in right,
}
UNARY: Dict[str, Callable[..., Any]] = {
    "-": operator.neg,
    "+": operator.pos,
    "~": operator.invert,
    "not": operator.not_,
}
IN_PLACE = {
    **{"+": operator.iadd, "-": operator.isub, "*": operator.imul, "/": operator.itruediv},
    **{"//": operator.ifloordiv, "%": operator.imod, "**": operator.ipow, "@": operator.imatmul},
    **{"&": operator.iand, "|": operator.ior, "^": operator.ixor, "<<": operator.ilshift},
    ">>": operator.irshift,
}


class Tape(Calls):
    """What instrumented code tells."""

    def attribute(self, owner: Any, name: str) -> Any:
        owner = plain(self.seen(owner))
        value = getattr(owner, name)
        if self.silent() or isinstance(owner, (types.ModuleType, type)) or callable(value):
            return value
        if isinstance(value, torch.nn.Parameter) and isinstance(owner, torch.nn.Module):
            return value
        ref = self.ref(owner)
        if ref is None or self.own(type(owner)):
            return value
        return self.learn(value, Ref(self.write(ref, f".{name}", pure=True)))

    def item(self, owner: Any, index: Any) -> Any:
        owner, index = plain(owner), facts.plain_deep(index)
        value = owner[index]
        if self.silent():
            return value
        ref = None if isinstance(owner, torch.nn.Module) else self.ref(owner)
        if ref is not None and not isinstance(value, torch.nn.Module):
            if isinstance(value, torch.Tensor) and self.ref(value) is not None:
                return value
            return self.learn(value, Ref(self.write(ref, "[", *self.index(index), "]", pure=True)))
        known = self.shadow.get((id(owner), index if isinstance(index, (str, int)) else None))
        if known is not None and everywhere(value):
            self.recent = (value, known)
        return value

    def set_attribute(self, value: Any, owner: Any, name: str) -> None:
        stored = facts.plain_deep(value)
        made = None if self.silent() else self.ref(value)
        if made is not None and not made.path and not made.statement.hint:
            made.statement.hint = name
        if not self.silent() and not self.own(type(owner)) and self.ref(owner) is not None:
            held = self.text(owner)
            self.write(*held, f".{name} = ", *self.text(value)).mutates = held
            if isinstance(owner, torch.Tensor):
                self.holders[id(owner)] = None
            self.places, self.looked = {}, -1
        setattr(owner, name, stored)

    def set_item(self, value: Any, owner: Any, index: Any) -> None:
        index = facts.plain_deep(index)
        if not self.silent() and self.ref(owner) is not None:
            held = self.text(owner)
            self.write(*held, "[", *self.index(index), "] = ", *self.text(value)).mutates = held
        owner[index] = value if isinstance(owner, (dict, list)) else facts.plain_deep(value)

    def binary(self, sign: str, left: Any, right: Any) -> Any:
        value = OPERATORS[sign](plain(left), plain(right))
        return self._operated(value, sign, left, right)

    def augmented(self, sign: str, left: Any, right: Any) -> Any:
        known = self.ref(left) if not self.silent() else None
        value = IN_PLACE[sign](plain(left), plain(right))
        if value is left and known is not None and isinstance(left, torch.Tensor):
            self.write(known, f" {sign}= ", *self.text(right)).mutates = [known]
            return value
        return self._operated(value, sign, left, right)

    def _operated(self, value: Any, sign: str, left: Any, right: Any) -> Any:
        if self.silent() or not self.touches(left, right):
            return value
        try:
            parts = [*self.operand(left), f" {sign} ", *self.operand(right)]
        except Unwritable:
            return value
        return self.computed(value, *parts)

    def unary(self, sign: str, operand: Any) -> Any:
        value = UNARY[sign](plain(operand))
        if self.silent() or self.ref(operand) is None:
            return value
        word = "not " if sign == "not" else sign
        parts = [word, *self.operand(operand)]
        return self.computed(value, *parts)

    def compare(self, sign: str, left: Any, right: Any) -> Any:
        inside = plain if sign in ("is", "is not") else facts.plain_deep
        value = OPERATORS[sign](inside(left), inside(right))
        if self.silent():
            return value
        if sign in ("in", "not in") and self.ref(right) is None and self.ref(left) is None:
            return value
        if sign in ("==", "!="):
            left, right = self.differing(left, right)
        elif isinstance(plain(left), Snapshot) and sign not in ("is", "is not"):
            return value
        if not self.touches(left, right):
            return value
        try:
            if sign in ("is", "is not") and isinstance(plain(left), Snapshot):
                there = plain(left).ref.statement.parts[0]  # bits are where their tensor is
                parts = [there, f" {sign} ", *self.operand(right)]
            elif isinstance(plain(left), Snapshot) or isinstance(plain(right), Snapshot):
                parts = self.snapshots(sign, plain(left), plain(right))
            else:
                parts = [*self.operand(left), f" {sign} ", *self.operand(right)]
        except Unwritable:
            return value
        return self.computed(value, *parts)

    def differing(self, left: Any, right: Any) -> Tuple[Any, Any]:
        """Of two that hold many, where one of these has no name: the first that differ."""
        one, two = plain(left), plain(right)
        pairs: List[Tuple[Any, Any]] = []
        if type(one) is dict and type(two) is dict and list(one) == list(two):
            pairs = [(self.entry(one, key), self.entry(two, key)) for key in one]
        elif type(one) in (list, tuple) and type(two) is type(one) and len(one) == len(two):
            if self.ref(left) is None or self.ref(right) is None:
                pairs = [pair for pair in zip(one, two) if self.touches(*pair)]
        for ours, theirs in pairs:
            if plain(ours) is not plain(theirs) and plain(ours) != plain(theirs):
                return self.differing(ours, theirs)
        return left, right

    def entry(self, owner: Dict[Any, Any], key: Any) -> Any:
        """What a dict holds, and where it comes from."""
        ref = self.shadow.get((id(owner), key))
        return owner[key] if ref is None else Named(owner[key], ref)

    def snapshots(self, sign: str, *sides: Any) -> List[Any]:
        """Bits that were read, compared as lists; by ``repr`` where these would not agree with them."""
        known = next(side for side in sides if isinstance(side, Snapshot))
        lists = [known.listed(side) if isinstance(side, bytes) else side for side in sides]
        exact = (
            None not in lists
            and "nan" not in repr(lists)
            and (lists[0] == lists[1]) == (sides[0] == sides[1])
        )
        texts = (self.text(s) if isinstance(s, Snapshot) else known.numbers(s) for s in sides)
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

    def branch(self, value: Any) -> Any:
        frame = sys._getframe(1)
        self.branches[id(frame)] = (frame.f_code, value)
        block = self.open[-1]
        hook = isinstance(block.owner, torch.Tensor) and block.definition.__code__ is frame.f_code
        if hook and isinstance(value, Known) and not self.silent():
            otherwise = contrary(value.ref) if value else [value.ref]
            self.write("if ", *otherwise, ": return")  # only the way that it went is known
        return plain(value)

    def side(self, value: Any) -> Any:
        """An argument whose value says nothing of where it comes from: None, a dtype."""
        recent, self.recent = self.recent, None
        if recent is not None and recent[0] is value and not self.silent():
            return Named(value, recent[1])
        return value

    def variable(self, name: str, value: Any) -> Any:
        frame = sys._getframe(1)
        given = self.given[-1].get((frame.f_code, name)) if self.given else None
        if given is not None and given.value is value:
            return given
        ref = self.nones.get((id(frame), name))
        several = everywhere(value) or id(value) in self.twice
        return Named(value, ref) if ref is not None and several else value

    def name(self, name: str, value: Any) -> Any:
        """A local variable takes a value: a hint for its name in the program."""
        recent, self.recent = self.recent, None
        key = (id(sys._getframe(1)), name)
        self.nones.pop(key, None)
        if self.silent():
            return value
        if isinstance(value, Named):
            recent, value = (value.value, value.ref), value.value
        ref = self.ref(value)
        if recent is not None and recent[0] is value:
            self.nones[key] = ref = recent[1]
        elif ref is not None and isinstance(value, torch.Tensor):
            self.nones[key] = ref
        if ref is not None and not ref.path and not ref.statement.hint:
            ref.statement.hint = name
        return value

    def name_each(self, names: str, values: Any) -> Any:
        if not isinstance(values, (tuple, list)):
            return values
        plain_values = []
        whole = None if self.silent() else self.ref(values)
        for place, (name, value) in enumerate(zip(names.split(), values)):
            if whole is not None and self.ref(value) is None:
                value = self.side(self.learn(value, whole.at(f"[{place}]")))
            key = (id(sys._getframe(1)), name)
            self.nones.pop(key, None)
            if isinstance(value, Named):
                self.nones[key] = value.ref
            ref = self.ref(value) if not self.silent() else None
            if ref is not None and name != "-" and not ref.path and not ref.statement.hint:
                ref.statement.hint = name
            plain_values.append(value.value if isinstance(value, Named) else value)
        return plain_values if len(plain_values) == len(values) else values

    def dictionary(self, made: Dict[Any, Any]) -> Dict[Any, Any]:
        for key, value in made.items():
            if isinstance(value, Named):
                made[key] = value.value
                self.shadow[id(made), key] = value.ref
        self.kept.append(made)
        return made

    def discarded(self, value: Any) -> None:
        """What a call gave is of no concern: it was called for what it does."""
        ref = None if self.silent() else self.ref(value)
        if ref is not None and not ref.path and isinstance(value, torch.Tensor):
            ref.statement.pure = False

    def block(self, manager: Any) -> Any:
        """``with manager``: a block of the program where torch made the manager."""
        found = None if self.silent() else self.known.get(id(manager))
        return manager if found is None else Inside(self, manager, found[1])

    def call(self, function: Any, *values: Any, **named: Any) -> Any:
        if self.silent():
            return function(*map(plain, values), **{k: plain(v) for k, v in named.items()})
        return self.called(function, values, named)

    def method(self, owner: Any, name: str, *values: Any, **named: Any) -> Any:
        owner = plain(self.seen(owner))
        if self.silent():
            function = getattr(owner, name)
            return function(*map(plain, values), **{k: plain(v) for k, v in named.items()})
        return self.asked(owner, name, values, named)


class Inside:
    """Stands for a context manager of torch: its block is one of the program."""

    def __init__(self, tape: Tape, manager: Any, ref: Ref) -> None:
        self.tape, self.manager, self.ref = tape, manager, ref

    def __enter__(self) -> Any:
        block = Block(manager=self.ref)
        self.tape.open[-1].body.append(block)
        self.tape.open.append(block)
        result = self.manager.__enter__()
        if result is not None and not everywhere(result):
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
