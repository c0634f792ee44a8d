"""What a replay knows of values: which statement makes them, and how a program writes them."""

import threading
from typing import Any, Callable, Dict, List, Optional, Tuple

import torch

from frostproof.properties.harness.core import checks
from frostproof.properties.harness.reproducer import facts
from frostproof.properties.harness.reproducer.facts import (
    Known,
    Named,
    Snapshot,
    everywhere,
    plain,
)
from frostproof.properties.harness.reproducer.statements import (
    Block,
    Ref,
    Statement,
    TooLong,
    separated,
)

MOST = 40000  # statements of a replay: half a minute, and what a program is cut from
RECENT = 256  # of what may hold others, so many are looked through: not all, for each value
HOLDERS = (list, tuple, dict, torch.optim.Optimizer)


class Names:
    """The statements of one replay, and what they make.

    own: whether a function is told of, rather than written down; every: write each assertion
    down, not only the one that fails; closed: the assertion that failed.
    """

    def __init__(self, own: Callable[[Any], bool], every: bool = False) -> None:
        self.own, self.every = own, every
        self.root = Block()
        self.open: List[Block] = [self.root]
        self.depth = self.length = 0
        self.known: Dict[int, Tuple[Any, Ref]] = {}
        self.holders: Dict[int, None] = {}  # of the known: those that may hold others, or a gradient
        self.modules: List[Tuple[Any, Ref]] = []
        self.places: Dict[int, Tuple[Any, Ref]] = {}
        self.looked = -1
        self.kept: List[Any] = []  # so that no other gets its id
        self.triggers: List[Statement] = []  # calls in whose callback an assertion failed
        self.pending: Dict[int, List[Ref]] = {}
        self.branches: Dict[int, Any] = {}
        self.names: Dict[str, str] = {}  # of parameters: the description's, and the program's
        self.thread = threading.get_ident()
        self.callbacks: Dict[int, Any] = {}  # what torch calls instead of a law's function, its block
        self.data: Dict[str, Statement] = {}  # by its code
        self.closed: Optional[Statement] = None
        self.failed: Optional[checks.LawBroken] = None
        self.cases: List[Statement] = []  # an empty one at the end of each case

    def sentence(self, text: str) -> str:
        """A sentence as code, with the program's names."""
        for name in sorted(self.names, key=len, reverse=True):
            text = text.replace(name, self.names[name])
        return repr(text[:200])

    def silent(self) -> bool:
        return self.depth > 0 or threading.get_ident() != self.thread

    def write(self, *parts: Any, pure: bool = False) -> Statement:
        """One more statement, made of texts and references."""
        made = Statement(list(parts), pure)
        self.open[-1].body.append(made)
        self.length += 1
        if self.length > MOST:
            raise TooLong(f"the law makes more than {MOST} calls of torch in this example")
        return made

    def learn(self, value: Any, ref: Ref) -> Any:
        """A value that a statement makes, as what is recognised later."""
        if type(value) in (bool, int):
            return Known(value, ref)
        if everywhere(value):
            return Named(value, ref)
        before = self.known.get(id(value))
        if isinstance(value, torch.Tensor) and before is not None and before[0] is value:
            if before[1].statement.parts != ref.statement.parts:
                return Named(value, ref)  # two statements have made it: here it goes by the second
        self.remember(value, ref)
        if isinstance(value, torch.nn.Module):
            self.modules.append((value, ref))
            self.looked = -1
        return value

    def computed(self, value: Any, *parts: Any) -> Any:
        """A value that an expression gives."""
        made = self.write(*parts, pure=True)
        made.operated = True
        return self.learn(value, Ref(made))

    def remember(self, value: Any, ref: Ref) -> None:
        """Know a value by this name."""
        self.known[id(value)] = (value, ref)
        if isinstance(value, HOLDERS) or (isinstance(value, torch.Tensor) and value.requires_grad):
            self.hold(value)

    def hold(self, value: Any) -> None:
        """What may hold others, or a gradient, and was seen last."""
        self.holders.pop(id(value), None)
        self.holders[id(value)] = None

    def ref(self, value: Any) -> Optional[Ref]:
        """How a program names a value; None where it has no name."""
        if isinstance(value, (Known, Named, Snapshot)):
            return value.ref
        found = self.known.get(id(value))
        if found is not None and found[0] is value:
            return found[1]
        if isinstance(value, (torch.Tensor, torch.nn.Module, dict)):
            self.depth += 1
            try:
                return self._placed(value)
            finally:
                self.depth -= 1
        return None

    def _placed(self, value: Any) -> Optional[Ref]:
        """A parameter, buffer or submodule of a module that is known, or a known leaf's gradient."""
        now = sum(map(len, (self.modules, *(block.body for block in self.open))))
        if self.modules and id(value) not in self.places and now != self.looked:
            self.places, self.looked = {}, now
            for module, ref in self.modules:
                for part, place in facts.places(module):
                    self.places.setdefault(id(part), (part, ref.at(place)))
                self.names.update(facts.program_names(module))
        found = self.places.get(id(value))
        if found is not None and found[0] is value:
            return found[1]
        known = [self.known[key] for key in [*self.holders][-RECENT:] if key in self.known]
        if isinstance(value, torch.Tensor):
            known = [*known, *self.places.values()]
            known.sort(key=lambda pair: not isinstance(pair[0], torch.Tensor))
        for owner, ref in known:
            path = facts.path_to(value, owner, self.names)
            parts = [each if isinstance(each, str) else self.ref(each) for each in path]
            if len(path) == 1:
                return ref.at(path[0])
            if path and None not in parts:  # written down where it goes through a tensor
                return Ref(self.write(ref, *parts, pure=True))
        return None

    def text(self, value: Any, symbols: bool = False) -> List[Any]:
        """A value as parts of a statement; symbols: numbers go by where they come from."""
        if isinstance(value, (Known, Named)):
            if symbols or isinstance(plain(value), torch.Tensor):
                return [value.ref]
            value = plain(value)
        if isinstance(value, facts.PLAIN) and not symbols:
            return [facts.literal(value, self.names)]
        if isinstance(value, tuple) and not symbols and all(isinstance(each, int) for each in value):
            return [repr(facts.plain_deep(tuple(value)))]
        ref = self.ref(value)
        if ref is not None:
            return [ref]
        if type(value) in facts.BRACKETS or isinstance(value, tuple):
            return self.sequence(value, symbols)
        if isinstance(value, dict):
            items = ([*self.text(k), ": ", *self.text(v, symbols)] for k, v in value.items())
            return ["{", *separated(", ", items), "}"]
        if isinstance(value, torch.Tensor):
            return [self.adopted(value)]
        return [facts.literal(value, self.names)]

    def sequence(self, value: Any, symbols: bool) -> List[Any]:
        whole = self.all_parameters(value)
        if whole is not None:
            return ["list(", whole, ")"]
        brackets = facts.BRACKETS.get(type(value), "()")
        parts = separated(", ", (self.text(item, symbols) for item in value))
        end = ",)" if brackets == "()" and len(value) == 1 else brackets[1]
        return [brackets[0], *parts, end]

    def all_parameters(self, value: Any) -> Optional[Ref]:
        """``net.parameters()`` for the list of exactly these."""
        if type(value) is list and len(value) > 1 and isinstance(value[0], torch.nn.Parameter):
            for module, ref in self.modules:
                if list(map(id, module.parameters())) == list(map(id, value)):
                    return ref.at(".parameters()")
        return None

    def adopted(self, value: torch.Tensor) -> Ref:
        """A tensor that came from nowhere, by its numbers."""
        made = self.write(facts.tensor_literal(value), pure=True)
        made.adopted = True
        self.remember(value, Ref(made))
        return Ref(made)

    def arguments(self, values: Any, named: Dict[str, Any], symbols: bool = False) -> List[Any]:
        """The arguments of a call, as parts."""
        given = [self.text(value, symbols) for value in values]
        for name, value in named.items():
            if name != "device" or str(plain(value)) != "cpu":
                given.append([f"{name}=", *self.text(value)])
        return separated(", ", given)

    def index(self, index: Any) -> List[Any]:
        """What stands between the brackets of a subscript."""
        if isinstance(index, tuple):
            return separated(", ", map(self.index, index)) or ["()"]
        if isinstance(index, slice):
            ends = ["" if end is None else repr(end) for end in (index.start, index.stop)]
            return [":".join(ends) + ("" if index.step is None else f":{index.step}")]
        return self.text(index)

    def touches(self, *values: Any) -> bool:
        """Whether any of the values has a name, or a part that has."""
        for value in values:
            ref = self.ref(value)
            if ref is not None and not ref.statement.adopted:
                return True
            inner = value.values() if type(value) is dict else value
            if type(value) in (list, tuple, set, dict) and self.touches(*inner):
                return True
        return False

    def operand(self, value: Any) -> List[Any]:
        return self.text(value, symbols=not isinstance(value, torch.Tensor))
