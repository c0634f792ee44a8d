"""What a replay knows of values: which statement makes them, and how a program writes them."""

import threading
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

import torch

from frostproof.properties.harness.core import checks
from frostproof.properties.harness.reproducer import facts
from frostproof.properties.harness.reproducer.facts import (
    Iterated,
    Known,
    Named,
    Snapshot,
    plain,
)
from frostproof.properties.harness.reproducer.statements import (
    Block,
    Hole,
    Ref,
    Statement,
    TooLong,
    separated,
)

MOST = 12000  # statements of a replay: a minute, and what a program is cut from
HOLDERS = (list, tuple, dict, torch.optim.Optimizer)


def everywhere(value: Any) -> bool:
    """Whether a value is the same object wherever it comes from."""
    return (
        value is None
        or isinstance(value, (bool, int, str, type, torch.dtype, torch.device, torch.layout))
        or (isinstance(value, (tuple, bytes)) and not value)
    )


class Names:
    """The statements of one replay, and what they make.

    own: whether a function is told of, rather than written down; every: write each assertion
    down, not only the one that fails; closed: the assertion that failed.
    """

    def __init__(self, own: Callable[[Any], bool], every: bool = False) -> None:
        self.own = own  # whether a function is told of, rather than written down
        self.every = every
        self.root = Block()
        self.open: List[Block] = [self.root]
        self.depth = 0
        self.known: Dict[int, Tuple[Any, Ref]] = {}
        self.holders: Dict[int, None] = {}  # of the known: those that may hold others, or a gradient
        self.modules: List[Tuple[Any, Ref]] = []
        self.defined: Dict[str, int] = {}
        self.places: Dict[int, Tuple[Any, Ref]] = {}
        self.looked = -1
        self.shadow: Dict[Tuple[int, Any], Ref] = {}
        self.kept: List[Any] = []
        self.triggers: List[Statement] = []  # calls in whose callback an assertion failed
        self.twice: Set[int] = set()  # what two statements have given: named by the variable
        self.recent: Optional[Tuple[Any, Ref]] = None
        self.nones: Dict[Tuple[int, str], Ref] = {}
        self.given: List[Dict[Any, Any]] = []  # arguments of the functions that are told
        self.pending: Dict[int, List[Ref]] = {}
        self.branches: Dict[int, Any] = {}
        self.names: Dict[str, str] = {}  # of parameters: the description's, and the program's
        self.thread = threading.get_ident()
        self.closed: Optional[Statement] = None
        self.failed: Optional[checks.LawBroken] = None
        self.length = 0
        self.cases: List[Statement] = []  # an empty one at the end of each case

    def close(self, condition: List[Any], broken: Optional[checks.LawBroken], what: str) -> None:
        """The program ends where the condition does not hold."""
        made = self.write(*condition, f" or sys.exit({self.sentence(what)})")
        made.closes = True
        if broken is not None:
            self.closed = made

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

    def learn(self, value: Any, ref: Ref, hint: str = "") -> Any:
        """A value that a statement makes; gives it back so that it is recognised later."""
        if type(value) in (bool, int):
            return Known(value, ref)
        if (type(value) in (float, str, tuple, list, dict) and value) or not everywhere(value):
            before = self.known.get(id(value))
            if before is not None and before[0] is value and before[1].statement is not ref.statement:
                self.twice.add(id(value))
                self.recent = (value, ref)
            self.remember(value, ref)
            if isinstance(value, torch.nn.Module):
                self.modules.append((value, ref))
                self.places, self.looked = {}, -1
        else:
            self.recent = (value, ref)
        return value

    def computed(self, value: Any, *parts: Any) -> Any:
        """A value that an expression gives."""
        return self.learn(value, Ref(self.write(*parts, pure=True), operated=True))

    def remember(self, value: Any, ref: Ref) -> None:
        """Know a value by this name."""
        self.known[id(value)] = (value, ref)
        if isinstance(value, HOLDERS) or (isinstance(value, torch.Tensor) and value.requires_grad):
            self.holders[id(value)] = None

    def ref(self, value: Any) -> Optional[Ref]:
        """How a program names a value; None where it has no name."""
        if isinstance(value, (Known, Named, Snapshot)):
            return value.ref
        found = self.known.get(id(value))
        if found is not None and found[0] is value:
            return found[1]
        if isinstance(value, (torch.Tensor, torch.nn.Module, dict)):
            return self.placed(value)
        return None

    def seen(self, value: Any) -> Any:
        """A value, known from now on by the name that it was used under."""
        if isinstance(value, Named):
            if id(value.value) in self.twice:
                self.remember(value.value, value.ref)
            return value.value
        return value

    def placed(self, value: Any) -> Optional[Ref]:
        """A parameter, buffer or submodule of a module that is known, or a known leaf's gradient."""
        self.depth += 1
        try:
            return self._placed(value)
        finally:
            self.depth -= 1

    def _placed(self, value: Any) -> Optional[Ref]:
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
        known = [self.known[key] for key in self.holders if key in self.known]
        tensors = [
            pair for pair in (*known, *self.places.values()) if isinstance(pair[0], torch.Tensor)
        ]
        others = [pair for pair in known if not isinstance(pair[0], torch.Tensor)]
        for owner, ref in [*(tensors if isinstance(value, torch.Tensor) else ()), *others]:
            path = facts.path_to(value, owner, self.names)
            if path:
                return self.along(ref, path)
        return None

    def along(self, ref: Ref, path: List[Any]) -> Optional[Ref]:
        """What is found at a path, which is written down where it goes through a tensor."""
        if len(path) == 1:
            return ref.at(path[0])
        parts = [each if isinstance(each, str) else self.ref(each) for each in path]
        return None if None in parts else Ref(self.write(ref, *parts, pure=True))

    def text(self, value: Any, symbols: bool = False) -> List[Any]:
        """A value as parts of a statement; symbols: numbers go by where they come from."""
        if isinstance(value, Named):
            return [value.ref] if symbols or not everywhere(value.value) else self.text(value.value)
        if isinstance(value, Known) and symbols:
            return [value.ref]
        if isinstance(value, Known):
            return [repr(plain(value))]
        if isinstance(value, (str, int, float, complex, bool, type(None))) and not symbols:
            return [facts.literal(value, self.names)]
        size = isinstance(value, tuple) and all(isinstance(each, int) for each in value)
        if size and not symbols:
            return [repr(facts.plain_deep(tuple(value)))]
        ref = self.ref(value)
        if ref is not None:
            return [ref]
        if isinstance(value, (list, tuple, set, frozenset)) and type(value).__name__ in dir(
            facts.BUILTIN
        ):
            return self.sequence(value, symbols)
        if isinstance(value, Iterated):
            inside = self.sequence(value.values, symbols)
            return [inside[1]] if inside[0] == "list(" else ["iter(", *inside, ")"]
        if isinstance(value, dict):
            items = ([*self.text(k), ": ", *self.text(v, symbols)] for k, v in value.items())
            return ["{", *separated(", ", items), "}"]
        if isinstance(value, torch.Size):
            return [repr(tuple(value))]
        if isinstance(value, bytes) and not isinstance(value, Snapshot):
            return [Hole("bytes that no tensor of the program has")]
        if isinstance(value, torch.Tensor):
            return [self.adopted(value)]
        return [facts.literal(value, self.names)]

    def sequence(self, value: Any, symbols: bool) -> List[Any]:
        whole = self.all_parameters(value)
        if whole is not None:
            return ["list(", whole, ")"]
        kinds: Dict[Any, str] = {list: "[]", tuple: "()", set: "{}", frozenset: "{}"}
        brackets = kinds[type(value)]
        parts = separated(", ", (self.text(item, symbols) for item in value))
        end = ",)" if type(value) is tuple and len(value) == 1 else brackets[1]
        return [brackets[0], *parts, end]

    def all_parameters(self, value: Any) -> Optional[Ref]:
        """``net.parameters()`` for the list of exactly these."""
        if type(value) is not list or not value or not isinstance(value[0], torch.nn.Parameter):
            return None
        for module, ref in self.modules:
            own = list(module.parameters())
            if len(own) == len(value) > 1 and all(a is b for a, b in zip(own, value)):
                return ref.at(".parameters()")
        return None

    def adopted(self, value: torch.Tensor) -> Ref:
        """A tensor that came from nowhere, by its numbers."""
        code = facts.tensor_literal(value)
        if value.grad_fn is not None:  # its numbers alone would be outside of the graph
            code = Hole("a tensor of a graph comes from nothing that it could call")
        made = Statement([code], True)
        made.adopted = True
        self.open[-1].body.append(made)
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
        return ["..."] if index is Ellipsis else self.text(index)

    def touches(self, *values: Any) -> bool:
        """Whether any of the values has a name, or a part that has."""
        refs = [self.ref(value) for value in values]
        if any(ref is not None and not ref.statement.adopted for ref in refs):
            return True
        return any(
            (type(value) in (list, tuple, set) and self.touches(*value))
            or (type(value) is dict and self.touches(*value.values()))
            for value in values
        )

    def operand(self, value: Any) -> List[Any]:
        return self.text(value, symbols=not isinstance(value, torch.Tensor))
