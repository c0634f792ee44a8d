"""A program as statements that refer to each other, and its text.

What only one other statement refers to is written where it is used, what nothing refers to is
left out, and of what acts only what touches the same objects as the closing assertion stays.
"""

import keyword
from typing import Any, Dict, Iterable, Iterator, List, Optional, Set, Tuple

from frostproof.properties.harness.reproducer.text import names_read, rolled, tidy, unread

MODULES = (
    *("contextlib", "copy", "ctypes", "io", "itertools", "math", "pickle", "sys", "threading"),
    *("warnings", "torch.utils.checkpoint"),
)
RESERVED = frozenset(("torch", "nn", "sys", "inf", "nan", "p", "value", "generator", *keyword.kwlist))


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

    pure: it only makes or reads something; hint: its name in the program; source: its text is
    whole lines, that define ``defines``; raised: what torch raised.
    """

    def __init__(self, parts: List[Any], pure: bool, source: bool = False) -> None:
        self.parts = parts
        self.pure = pure
        self.source = source
        self.hint = ""
        self.operated = False
        self.defines: List[str] = []
        self.raised: Optional[BaseException] = None
        self.closes = False
        self.mutates: Optional[List[Any]] = None  # all that it changes; None: whatever it touches
        self.same = ""  # data: merged with others of this text
        self.adopted = False  # made of numbers that came from nowhere

    def refs(self) -> List["Ref"]:
        return [part for part in self.parts if isinstance(part, Ref)]


class Ref:
    """The value of a statement, or what is found at a path from it; of several, that number."""

    def __init__(
        self, statement: Statement, path: str = "", number: int = 0, operated: bool = False
    ) -> None:
        self.statement, self.path, self.number = statement, path, number
        statement.operated = statement.operated or operated

    def at(self, place: str) -> "Ref":
        """What is found further on."""
        return Ref(self.statement, self.path + place, self.number)


def contrary(condition: Ref) -> List[Any]:
    """What holds where a condition does not."""
    signs = {" is ": " is not ", " is not ": " is "}
    parts = condition.statement.parts
    if not condition.path and any(part in signs for part in parts if isinstance(part, str)):
        return [signs.get(part, part) if isinstance(part, str) else part for part in parts]
    return ["not (", condition, ")"]


class Block:
    """Statements inside a ``with``, a function, or a ``try`` for what must be refused."""

    def __init__(
        self, manager: Optional[Ref] = None, definition: Any = None, attempt: Any = None
    ) -> None:
        self.body: List[Any] = []
        self.parameters: List[Statement] = []
        self.manager = manager
        self.definition = definition
        self.attempt = attempt
        self.owner: Any = None  # the tensor or module that a callback was given to
        self.done = False  # whether a callback was called
        self.leaves = ""  # the exception by which a law leaves it
        self.statement = Statement([], True, source=True)
        if definition is not None:
            name = definition.__name__
            self.statement.hint = name if name.isidentifier() else "hook"


def every(body: List[Any]) -> Iterator[Statement]:
    """All statements of a body, in order."""
    for each in body:
        if isinstance(each, Block):
            yield each.statement
            yield from every(each.body)
        else:
            yield each


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


class Slice:
    """Which statements a program needs that ends with these; whole: all that act."""

    def __init__(self, root: Block, ends: List[Statement], whole: bool = False, since: int = 0) -> None:
        self.order = [(s, around) for s, around in owners(root.body)]
        self.around = {id(s): around for s, around in self.order}
        self.done_in: Dict[int, List[Statement]] = {}  # what acts in the function of a callback
        for s, around in self.order:
            if around and around[-1].definition is not None and not s.pure:
                self.done_in.setdefault(id(around[-1].statement), []).append(s)
        last = max(n for n, (s, _) in enumerate(self.order) if s in ends)
        self.kept: Set[int] = set()
        self.reached: Set[int] = set()
        for end in ends:
            self.need(end)
        acting = [(n, s) for n, (s, _) in enumerate(self.order[:last]) if not s.pure or s.raised]
        actors = []
        for n, s in acting:
            if n < since and not s.closes:
                continue
            touched = set(self.ancestors(s if s.mutates is None else Statement(s.mutates, False)))
            # what cannot be written may touch anything: without it the program would be another
            if whole or not touched or self.unwritten(s):
                self.need(s)
            else:
                actors.append((s, touched))
        before = -1
        while before != len(self.kept):
            before = len(self.kept)
            for s, touched in actors:
                if id(s) not in self.kept and touched & self.reached:
                    self.need(s)

    def ancestors(self, statement: Statement) -> Dict[int, Statement]:
        """All that a statement refers to, and what that refers to."""
        found: Dict[int, Statement] = {}
        waiting = [*self.refers(statement)]
        while waiting:
            each = waiting.pop()
            if id(each) not in found:
                found[id(each)] = each
                waiting += self.refers(each)
        return found

    def unwritten(self, statement: Statement) -> bool:
        """Whether a part of it, or of what it refers to, cannot be written."""
        reached = [statement, *self.ancestors(statement).values()]
        return any(isinstance(part, Hole) for each in reached for part in each.parts)

    def refers(self, statement: Statement) -> List[Statement]:
        found = [ref.statement for ref in statement.refs()]
        for block in self.around.get(id(statement), ()):
            if block.manager is not None:
                found.append(block.manager.statement)
            found += [block.statement] if block.definition is not None else []
            if statement.closes and block.attempt is not None:
                found += [each for each in every(block.body) if each is not statement]
        return found

    def need(self, statement: Statement) -> None:
        """Keep a statement, what it refers to, and what a callback among that does."""
        waiting = [statement]
        while waiting:
            each = waiting.pop()
            if id(each) in self.kept:
                continue
            self.kept.add(id(each))
            self.reached.add(id(each))
            waiting += self.refers(each) + self.done_in.get(id(each), [])


class Program:
    """Renders the kept statements as text."""

    def __init__(self, root: Block, kept: Set[int], comments: List[str]) -> None:
        self.kept, self.comments = kept, comments
        self.uses: Dict[int, int] = {}
        self.last: Dict[int, int] = {}
        self.taken: Dict[str, int] = {}
        self.named: Dict[int, str] = {}
        self.merged: Dict[int, Statement] = {}
        self.clock = self.flushing = 0
        for block in [root, *blocks(root.body)]:
            if block.manager is not None and self.alive(block):
                self.use(block.manager.statement)
        for statement in every(root.body):
            self.clock += 1
            if id(statement) in kept:
                for ref in statement.refs():
                    self.use(ref.statement)
        inside = {id(s) for s, around in owners(root.body) if any(b.definition for b in around)}
        inside |= {id(s) for block in blocks(root.body) for s in block.parameters}
        for statement in every(root.body):  # what a callback reads is read whenever that is called
            if id(statement) in inside and id(statement) in kept:
                for ref in statement.refs():
                    if id(ref.statement) not in inside:
                        self.last[id(ref.statement)] = 10**9
        for statement in reversed(list(every(root.body))):
            if self.uses.get(id(statement)) == 1:  # it may be written where it is used, later
                for ref in statement.refs():
                    there = self.last[id(statement)]
                    self.last[id(ref.statement)] = max(there, self.last.get(id(ref.statement), 0))
        self.merge(root)
        for statement in every(root.body):  # no other may have the names that descriptions define
            if id(statement) in kept:
                self.taken.update((name, 10**9) for name in statement.defines)
        self.clock = 0
        self.lines = self.body(root.body, 0)

    def merge(self, root: Block) -> None:
        """Give the same data one name, where nothing writes to it."""
        kept = [each for each in every(root.body) if id(each) in self.kept]
        acting = [each for each in kept if not each.pure and each.parts]
        written = {id(e.parts[0].statement) for e in acting if isinstance(e.parts[0], Ref)}
        first: Dict[str, Statement] = {}
        for each in kept:
            if each.same and id(each) not in written:
                if each.same in first:
                    self.merged[id(each)] = first[each.same]
                first.setdefault(each.same, each)

    def use(self, statement: Statement) -> None:
        self.uses[id(statement)] = self.uses.get(id(statement), 0) + 1
        self.last[id(statement)] = max(self.clock, self.last.get(id(statement), 0))

    def alive(self, block: Block) -> bool:
        if id(block.statement) in self.kept and block.definition is not None:
            return True
        return any(id(each) in self.kept for each in every(block.body))

    def body(self, items: List[Any], depth: int) -> List[str]:
        lines: List[str] = []
        waiting: List[Tuple[Statement, str]] = []  # used once, not yet written
        pad = "    " * depth

        def flush() -> None:
            self.flushing = 1  # the line that follows still reads its names
            for statement, text in waiting:
                lines.append(pad + self.defined(statement, text))
            waiting.clear()
            self.flushing = 0

        for item in items:
            if isinstance(item, Block):
                self.clock += 1
                if not self.alive(item):
                    self.clock += sum(1 for _ in every(item.body))
                    continue
                header, footer = self.header(item, waiting)
                flush()
                inner = self.body(item.body, depth + bool(header))
                lines += [pad + line for line in header]
                lines += inner or ["    " * (depth + 1) + "pass"]
                lines += [pad + line for line in footer]
                continue
            self.clock += 1
            if id(item) not in self.kept or id(item) in self.merged:
                continue
            text = self.inline(item, waiting)
            if item.closes and not text:  # of a try, whose end says it
                continue
            once = self.uses.get(id(item), 0) == 1 and not item.source and item.raised is None
            if once and not item.closes:
                waiting.append((item, text))
                continue
            flush()
            if item.source:
                lines += [pad + line for line in text.split("\n")]
            elif item.raised is not None and not item.closes:
                error = type(item.raised).__name__
                lines += [f"{pad}try:", f"{pad}    {text}", f"{pad}except {error}:", f"{pad}    pass"]
            elif self.uses.get(id(item), 0):
                lines.append(pad + self.defined(item, text))
            else:
                lines += [pad + line for line in text.split("\n")]
        flush()
        return lines

    def header(self, block: Block, waiting: List[Tuple[Statement, str]]) -> Tuple[List[str], List[str]]:
        if block.manager is not None:
            text = self.inline(Statement([block.manager], False), waiting)
            used = self.uses.get(id(block.statement), 0)
            text = f"{text} as {self.name(block.statement)}" if used else text
            guard = f"contextlib.suppress({block.leaves}), " if block.leaves else ""
            return [f"with {guard}{text}:"], []
        if block.definition is not None:
            names = [self.name(each) for each in block.parameters] if block.done else ["*_"]
            return [f"def {self.name(block.statement)}({', '.join(names)}):"], []
        if block.attempt is not None:
            return ["try:"], block.attempt()
        return [], []

    def inline(self, statement: Statement, waiting: List[Tuple[Statement, str]]) -> str:
        """The text of a statement, with what only it uses written inside where order allows."""
        wanted = {id(ref.statement) for ref in statement.refs()}
        inside: Dict[int, str] = {}
        for place in range(len(waiting) - 1, -1, -1):
            each, text = waiting[place]
            if id(each) not in wanted:
                if each.pure and statement.pure:
                    continue
                if each.pure and all(s.pure for s, _ in waiting[:place]):
                    continue
                break
            passed = [s for s, _ in waiting[place + 1 :] if id(s) not in inside]
            if passed and not (each.pure and all(s.pure for s in passed)):
                break
            inside[id(each)] = text
        waiting[:] = [(each, text) for each, text in waiting if id(each) not in inside]
        parts = []
        for part in statement.parts:
            if isinstance(part, Hole):
                raise Unwritable(str(part))
            if not isinstance(part, Ref):
                parts.append(part)
                continue
            text = inside.get(id(part.statement), "")
            if not text:
                parts.append(self.name(part.statement, part.number) + part.path)
                continue
            if part.statement.operated:
                text = f"({text})"
            parts.append(text + part.path)
        return "".join(parts) if statement.source else tidy("".join(parts))

    def defined(self, statement: Statement, text: str) -> str:
        return f"{self.name(statement)} = {text}"

    def name(self, statement: Statement, number: int = 0) -> str:
        statement = self.merged.get(id(statement), statement)
        if statement.defines:
            return statement.defines[number]
        if id(statement) not in self.named:
            hint = statement.hint or "t"
            if statement.source:
                self.taken[hint] = 10**9
                self.named[id(statement)] = hint
                return hint
            name, count = hint, 1
            while name in RESERVED or self.taken.get(name, 0) > self.clock - self.flushing:
                count += 1
                name = f"{hint}{count}"
            self.taken[name] = self.last.get(id(statement), 0)
            self.named[id(statement)] = name
        return self.named[id(statement)]

    def text(self, hooked: bool = False) -> str:
        """The whole program."""
        read = names_read("\n".join(self.lines))
        body = "\n".join(rolled([line for line in self.lines if not unread(line, read)]))
        used = names_read(body)
        imports = [f"import {name}" for name in MODULES if name in used or (name == "sys" and hooked)]
        if "torch.utils.checkpoint" in body:
            imports.append("import torch.utils.checkpoint")
        constants = [name for name in ("inf", "nan") if name in used]
        if constants:
            imports.append(f"from math import {', '.join(constants)}")
        torches = ["import torch"] if "torch" in used else []
        torches += ["from torch import nn"] if "nn" in used else []
        parts = [*(f"# {comment}" for comment in self.comments), *imports]
        parts += ["", *torches] if imports and torches else torches
        return "\n".join([*parts, "", *([ONE_SENTENCE] if hooked else []), body, ""])


# torch's error, where it raises one that it should not, in one line
ONE_SENTENCE = (
    "sys.excepthook = lambda kind, error, trace: "
    'print(f"line {trace.tb_lineno}: {kind.__name__}: {error}", file=sys.stderr)'
)


def blocks(body: List[Any]) -> Iterator[Block]:
    """Every block of a body, from outside in."""
    for each in body:
        if isinstance(each, Block):
            yield each
            yield from blocks(each.body)
