"""What instrumented code does but for calls: attributes, subscripts, operators, assignments."""

import re
import sys
import types
from functools import cache
from typing import Any, Callable, Dict, List, Tuple

import torch

from frostproof.properties.harness.core.checks import LawBroken
from frostproof.properties.harness.reproducer import facts
from frostproof.properties.harness.reproducer.facts import Known, Named, Snapshot, plain, plain_deep
from frostproof.properties.harness.reproducer.naming import Names
from frostproof.properties.harness.reproducer.statements import (
    Block,
    Ref,
    Statement,
    contrary,
    every,
    separated,
)

AUGMENTED = tuple(f"{sign}=" for sign in "+ - * / // % ** @ & | ^ << >>".split())
COMPARISONS = ("==", "!=", "<", "<=", ">", ">=", "in", "not in")


@cache
def evaluated(pattern: str) -> Callable[..., Any]:
    """The function of a pattern such as ``_1 + _2`` or ``_1.grad``; of ``_1 += _2`` the new ``_1``."""
    space: Dict[str, Any] = {}
    body = f"{pattern}; return _1" if word(pattern) in AUGMENTED else f"return {pattern}"
    exec(f"def function(_1, _2=None): {body}", space)
    return space["function"]  # type: ignore[no-any-return]


def word(pattern: str) -> str:
    """The operator between two operands; "" of any other pattern."""
    return pattern[3:-3] if pattern[2] == " " else ""


class Operations(Names):
    """What becomes of all but calls."""

    def expression(self, pattern: str, *held: Any) -> Any:
        """An attribute, a subscript or an operator; ``held``: its operands."""
        sign = word(pattern)
        values = [plain_deep(each) if sign in COMPARISONS else plain(each) for each in held]
        if pattern == "_1[_2]":
            values[1] = plain_deep(values[1])
        value = evaluated(pattern)(*values)
        if self.silent():
            return value
        if pattern[2:3] in (".", "["):
            return self.part(value, pattern, *held)
        if sign in ("in", "not in") and self.ref(held[0]) is self.ref(held[1]) is None:
            return value
        if sign in ("==", "!="):
            held = self.differing(*held)
        bits = [isinstance(each, Snapshot) for each in held]
        if True not in bits and self.touches(*held):
            texts = [self.text(each, not isinstance(each, torch.Tensor)) for each in held]
        elif True in bits and sign in ("==", "!="):
            texts = self.listed(value == (sign == "=="), *held)
        elif bits[0] and sign in ("is", "is not"):  # bits are where their tensor is
            texts = [[held[0].ref.statement.parts[0]], self.text(held[1], True)]
        else:
            return value
        parts: List[Any] = []
        for each in filter(None, re.split("_([12])", pattern)):
            parts += texts[int(each) - 1] if each in ("1", "2") else [each]
        return self.computed(value, *parts)

    def gathered(self, pattern: str, names: str, value: Any) -> Any:
        """What a comprehension gives: by its source, where what is in it comes from no call."""
        value = list(value) if isinstance(value, types.GeneratorType) else value
        if self.silent() or self.touches(value):
            return value
        frame, parts, known = sys._getframe(1), [], False
        for n, piece in enumerate(re.split(r"\b_(\d+)\b", pattern)):
            if n % 2 == 0:
                parts.append(piece)
                continue
            name = names.split()[int(piece) - 1]
            held = frame.f_locals.get(name, frame.f_globals.get(name, frame.f_builtins.get(name)))
            known = known or self.ref(held) is not None
            named = self.ref(held) is not None or type(held) in (*facts.PLAIN, *facts.BRACKETS, dict)
            if not named and frame.f_builtins.get(name) is not held:
                return value
            parts += self.text(held) if named else [name]
        return self.learn(value, Ref(self.write(*parts, pure=True))) if known else value

    def part(self, value: Any, pattern: str, held: Any, index: Any = None) -> Any:
        """An attribute, or what is at an index, of a value that has a name."""
        owner, ref = plain(held), self.ref(held)
        if ref is None or isinstance(owner, (types.ModuleType, type)) or self.own(type(owner)):
            return value
        if isinstance(held, Named) and callable(value):
            self.remember(owner, ref)  # by which its method is called later
        of_module = isinstance(owner, torch.nn.Module) and isinstance(value, torch.nn.Parameter)
        if of_module or callable(value):
            return value
        if pattern[2] == ".":
            return self.learn(value, Ref(self.write(ref, pattern[2:], pure=True)))
        if isinstance(value, torch.Tensor) and self.ref(value) is not None:
            return value
        return self.learn(value, Ref(self.write(ref, "[", *self.index(index), "]", pure=True)))

    def augmented(self, pattern: str, left: Any, right: Any) -> Any:
        """``left += right`` and the like: the new value."""
        before, value = plain(left), evaluated(pattern)(plain(left), plain(right))
        if self.silent():
            return value
        if isinstance(value, torch.Tensor) and value is before and self.ref(left) is not None:
            place = self.ref(left)
            self.write(place, pattern[2:-2], *self.text(right)).mutates = [place]
            return left
        if not self.touches(left, right):
            return value
        sign = pattern[2:-2].replace("=", "")
        return self.computed(value, *self.text(left, True), sign, *self.text(right, True))

    def set_attribute(self, value: Any, owner: Any, name: str) -> None:
        held, owner, stored = owner, plain(owner), plain_deep(value)
        if not self.silent():
            self.name(name, value)
            if not self.own(type(owner)) and self.ref(held) is not None:
                self.stored(owner, self.text(held), [f".{name}"], value)
        setattr(owner, name, stored)

    def set_item(self, value: Any, owner: Any, index: Any) -> None:
        held, owner, index = owner, plain(owner), plain_deep(index)
        if not self.silent() and self.ref(held) is not None:
            self.stored(owner, self.text(held), ["[", *self.index(index), "]"], value)
        owner[index] = value if isinstance(owner, (dict, list)) else plain_deep(value)

    def stored(self, owner: Any, held: List[Any], place: List[Any], value: Any) -> None:
        """Write down that something is put into what has a name."""
        made = self.write(*held, *place, " = ", *self.text(value))
        made.mutates, made.sets = held, place[0][1:]
        made.idle = getattr(owner, made.sets, held) is plain(value) if made.sets else False
        if isinstance(owner, torch.Tensor):
            self.hold(owner)
        self.places, self.looked = {}, -1

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

    def listed(self, equal: bool, *sides: Any) -> List[List[Any]]:
        """Bits that were read, compared as lists; by ``repr`` where these would not agree with them."""
        known = next(side for side in sides if isinstance(side, Snapshot))
        lists = [known.listed(side) if isinstance(side, bytes) else side for side in sides]
        exact = "nan" not in repr(lists) and (lists[0] == lists[1]) == equal
        texts = [
            [side.ref] if isinstance(side, Snapshot) else self.text(values)
            for side, values in zip(sides, lists)
        ]
        return texts if exact else [["repr(", *text, ")"] for text in texts]

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

    def name(self, name: str, value: Any) -> Any:
        """A local variable takes a value: a hint for its name in the program."""
        ref = None if self.silent() else self.ref(value)
        if ref is not None and not ref.path and not ref.statement.hint and name != "-":
            ref.statement.hint = name
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
        self.tape, self.manager, self.block = tape, manager, Block(manager=ref)

    def __enter__(self) -> Any:
        self.tape.open[-1].body.append(self.block)
        self.tape.open.append(self.block)
        result = self.manager.__enter__()
        if result is not None and not facts.everywhere(result):
            self.block.statement.hint = "entered"
            self.tape.learn(result, Ref(self.block.statement))
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
