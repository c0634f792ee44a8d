"""A program as statements that refer to each other.

``Slice`` says which of them a program needs: what nothing refers to is left out, and of what acts
only what touches the same objects as the closing assertion stays.
"""

from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Set, Tuple


class Unwritable(Exception):
    """Something that no program could write down; the message says what."""


class TooLong(BaseException):
    """A replay that makes more statements than a program could be cut from; no law may catch it."""


class Hole(str):
    """A part of a statement that cannot be written; its text says why."""


def separated(separator: str, pieces: Iterable[List[Any]]) -> List[Any]:
    """Parts of statements, one after the other, with a text between them."""
    parts: List[Any] = []
    for piece in pieces:
        parts += [separator, *piece] if parts else piece
    return parts


class Statement:
    """One statement: texts and references to others.

    pure: it only makes or reads something; hint: its name in the program; defines: it is whole
    lines, that define these names; idle: it sets what is so already.
    """

    def __init__(self, parts: List[Any], pure: bool, hint: str = "") -> None:
        self.parts = parts
        self.pure = pure
        self.hint = hint
        self.defines: List[str] = []
        self.constant = False  # data: what is done with it leaves it as it is
        self.idle = False
        self.sets = ""  # the only attribute that it changes
        self.closes = False
        self.operated = False  # brackets are needed where it is a part of another
        self.adopted = False  # made of numbers that came from nowhere
        self.raised: Optional[BaseException] = None  # by torch
        self.mutates: Optional[List[Any]] = None  # all that it changes; None: whatever it touches

    def refs(self) -> List["Ref"]:
        return [part for part in self.parts if isinstance(part, Ref)]


class Ref:
    """The value of a statement, or what is found at a path from it; of several, that number."""

    def __init__(self, statement: Statement, path: str = "", number: int = 0) -> None:
        self.statement, self.path, self.number = statement, path, number

    def at(self, place: str) -> "Ref":
        """What is found further on."""
        return Ref(self.statement, self.path + place, self.number)


def contrary(condition: Ref) -> List[Any]:
    """What holds where a condition does not."""
    signs = {" is ": " is not ", " is not ": " is ", " == ": " != ", " != ": " == "}
    parts = condition.statement.parts
    if not condition.path and any(part in signs for part in parts if isinstance(part, str)):
        return [signs.get(part, part) if isinstance(part, str) else part for part in parts]
    return ["not (", condition, ")"]


class Block:
    """Statements inside a ``with``, a function, or a ``try`` for what must be refused."""

    def __init__(
        self, manager: Optional[Ref] = None, definition: Any = None, attempt: Sequence[str] = ()
    ) -> None:
        self.body: List[Any] = []
        self.parameters: List[Statement] = []
        self.manager = manager
        self.definition = definition
        self.attempt = attempt
        self.owner: Any = None  # the tensor or module that a callback was given to
        self.done = False  # whether a callback was called
        self.leaves = ""  # the exception by which a law leaves it
        name = getattr(definition, "__name__", "")
        self.statement = Statement([], True, name if name.isidentifier() else "hook")

    def acts(self) -> bool:
        """Whether it does more than look."""
        return any(not each.pure for each in every(self.body))


def every(body: List[Any]) -> Iterator[Statement]:
    """All statements of a body, in order."""
    return (statement for statement, _ in owners(body))


def owners(
    body: List[Any], around: Tuple[Block, ...] = ()
) -> Iterator[Tuple[Statement, Tuple[Block, ...]]]:
    """Each statement, and the blocks around it."""
    for each in body:
        if isinstance(each, Block):
            yield each.statement, around
            yield from owners(each.body, (*around, each))
        else:
            yield each, around


def blocks(body: List[Any]) -> Iterator[Block]:
    """Every block of a body, from outside in."""
    for each in body:
        if isinstance(each, Block):
            yield each
            yield from blocks(each.body)


def writable(statement: Statement) -> bool:
    """Whether neither a statement nor what it refers to has a hole."""
    holes = any(isinstance(part, Hole) for part in statement.parts)
    return not holes and all(writable(ref.statement) for ref in statement.refs())


def acted_on(body: Iterable[Statement]) -> Set[int]:
    """Of what is written to, or asked to act, the statements that make it."""
    acting = (s.parts[0] for s in body if not s.pure and s.parts)
    return {id(part.statement) for part in acting if isinstance(part, Ref)}


class Slice:
    """Which statements a program needs that ends with these.

    whole: all that act; since: of what comes before this place, only what is referred to.
    """

    def __init__(self, root: Block, ends: List[Statement], whole: bool = False, since: int = 0) -> None:
        order = list(owners(root.body))
        self.around = {id(s): around for s, around in order}
        self.done_in: Dict[int, List[Statement]] = {}  # what acts in the function of a callback
        for s, around in order:
            if around and around[-1].definition is not None and not s.pure:
                self.done_in.setdefault(id(around[-1].statement), []).append(s)
        last = max(n for n, (s, _) in enumerate(order) if s in ends)
        self.kept: Set[int] = set()
        for end in ends:
            self.need(end)
        actors, acted = [], acted_on(s for s, _ in order)
        for n, (s, _) in enumerate(order[:last]):
            if (s.pure and not s.raised) or (n < since and not s.closes):
                continue
            reached = self.ancestors(s if s.mutates is None else Statement(s.mutates, False))
            touched = {key for key, each in reached.items() if not each.constant or key in acted}
            # what cannot be written may touch anything: without it the program would be another
            if whole or not touched or not writable(s):
                self.need(s)
            else:
                actors.append((s, touched))
        before = -1
        while before != len(self.kept):
            before = len(self.kept)
            for s, touched in actors:
                if id(s) not in self.kept and touched & self.kept:
                    self.need(s)

    def ancestors(self, statement: Statement) -> Dict[int, Statement]:
        """All that a statement refers to, and what that refers to."""
        found: Dict[int, Statement] = {}
        waiting = self.refers(statement)
        while waiting:
            each = waiting.pop()
            if id(each) not in found:
                found[id(each)] = each
                waiting += self.refers(each)
        return found

    def refers(self, statement: Statement) -> List[Statement]:
        found = [ref.statement for ref in statement.refs()]
        for block in self.around.get(id(statement), ()):
            if block.manager is not None:
                found.append(block.manager.statement)
            found += [block.statement] if block.definition is not None else []
            if statement.closes and block.attempt:
                found += [each for each in every(block.body) if each is not statement]
        return found

    def need(self, statement: Statement) -> None:
        """Keep a statement, what it refers to, and what a callback among that does."""
        waiting = [statement]
        while waiting:
            each = waiting.pop()
            if id(each) not in self.kept:
                self.kept.add(id(each))
                waiting += self.refers(each) + self.done_in.get(id(each), [])
