"""The text of a program: what only one other statement refers to is written where it is used."""

import ast
import keyword
import re
from typing import Any, Dict, List, Set, Tuple

from frostproof.properties.harness.reproducer.statements import (
    Block,
    Hole,
    Statement,
    Unwritable,
    blocks,
    every,
)

MODULES = "contextlib copy ctypes io itertools math pickle sys threading warnings".split()
RESERVED = frozenset(("torch", "nn", "inf", "nan", *MODULES, *keyword.kwlist))
MARK = re.compile(r"__\d+__")  # stands for a name until all lines are written
# torch's error, where it raises one that it should not, in one line
ONE_SENTENCE = (
    "sys.excepthook = lambda kind, error, trace: "
    'print(f"line {trace.tb_lineno}: {kind.__name__}: {error}", file=sys.stderr)'
)


class Program:
    """Renders the kept statements as text; hooked: its error is to be one sentence."""

    def __init__(self, root: Block, kept: Set[int], comments: List[str], hooked: bool) -> None:
        self.kept, self.comments, self.hooked = kept, comments, hooked
        self.uses: Dict[int, int] = {}
        self.marks: Dict[Tuple[int, int], str] = {}
        self.hints: Dict[str, str] = {}
        self.lasting: Set[str] = set()  # marks of what a function reads whenever it is called
        self.words: Set[str] = set(RESERVED)
        used = [s for s in every(root.body) if id(s) in kept]
        for block in blocks(root.body):
            if block.manager is not None and self.alive(block):
                used.append(Statement([block.manager], False))
        for statement in used:
            for ref in statement.refs():
                self.uses[id(ref.statement)] = self.uses.get(id(ref.statement), 0) + 1
        self.lines = self.body(root.body, "")

    def alive(self, block: Block) -> bool:
        if id(block.statement) in self.kept and block.definition is not None:
            return True
        return any(id(each) in self.kept for each in every(block.body))

    def body(self, items: List[Any], pad: str) -> List[str]:
        lines: List[str] = []
        waiting: List[Tuple[Statement, str]] = []  # used once, not yet written

        def flush() -> None:
            lines.extend(f"{pad}{self.mark(each)} = {text}" for each, text in waiting)
            waiting.clear()

        for item in items:
            if isinstance(item, Block):
                if self.alive(item):
                    header, footer = self.header(item, waiting)
                    flush()
                    inner = self.body(item.body, pad + "    " * bool(header))
                    lines += [pad + line for line in header]
                    lines += inner or [f"{pad}    pass"]
                    lines += [pad + line for line in footer]
                    if item.definition is not None:
                        whole = "\n".join(inner)
                        local = re.findall(r"^ *(__\d+__) = ", whole, re.MULTILINE)
                        self.lasting.update({*MARK.findall(whole)} - {*local})
                continue
            if id(item) not in self.kept or (item.closes and not item.parts):  # its try says it
                continue
            text = self.inline(item, waiting)
            plain = not item.defines and item.raised is None and not item.closes
            if plain and self.uses.get(id(item), 0) == 1:
                waiting.append((item, text))
                continue
            flush()
            if plain and self.uses.get(id(item), 0):
                text = f"{self.mark(item)} = {text}"
            elif item.raised is not None and not item.closes:
                text = f"try:\n    {text}\nexcept {type(item.raised).__name__}:\n    pass"
            lines += [pad + line for line in text.split("\n")]
        flush()
        return lines

    def header(self, block: Block, waiting: List[Tuple[Statement, str]]) -> Tuple[List[str], List[str]]:
        if block.manager is not None:
            text = self.inline(Statement([block.manager], False), waiting)
            if self.uses.get(id(block.statement), 0):
                text = f"{text} as {self.mark(block.statement)}"
            guard = f"contextlib.suppress({block.leaves}), " if block.leaves else ""
            return [f"with {guard}{text}:"], []
        if block.definition is not None:
            names = [self.mark(each) for each in block.parameters] if block.done else ["*_"]
            return [f"def {self.mark(block.statement)}({', '.join(names)}):"], []
        return (["try:"], block.attempt()) if block.attempt is not None else ([], [])

    def inline(self, statement: Statement, waiting: List[Tuple[Statement, str]]) -> str:
        """The text of a statement, with what only it uses written inside where order allows."""
        wanted = {id(ref.statement) for ref in statement.refs()}
        inside: Dict[int, str] = {}
        for place in range(len(waiting) - 1, -1, -1):
            each, text = waiting[place]
            if id(each) not in wanted:
                if each.pure and (statement.pure or all(s.pure for s, _ in waiting[:place])):
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
            if isinstance(part, str):
                parts.append(part)
                continue
            text = inside.get(id(part.statement), "")
            if text and part.statement.operated:
                text = f"({text})"
            parts.append((text or self.mark(part.statement, part.number)) + part.path)
        text = "".join(parts)
        for number, name in enumerate(statement.defines):
            text = re.sub(rf"(?<![\w.]){name}\b(?!=[^=])", self.mark(statement, number), text)
        if statement.defines:
            self.words.update(re.findall(r"(?<![\w.])[A-Za-z]\w*", text))
        return text if statement.defines else tidy(text)

    def mark(self, statement: Statement, number: int = 0) -> str:
        """What stands for a statement's name, or one of those that it defines."""
        mark = self.marks.setdefault((id(statement), number), f"__{len(self.marks)}__")
        self.hints[mark] = statement.defines[number] if statement.defines else statement.hint or "t"
        return mark

    def named(self) -> List[str]:
        """The lines with names: one is given again once its last reader is past."""
        last = {mark: place for place, line in enumerate(self.lines) for mark in MARK.findall(line)}
        last.update(dict.fromkeys(self.lasting, len(self.lines)))
        whole = "\n".join(self.lines)
        names: Dict[str, str] = {}
        taken = dict.fromkeys(self.words, len(self.lines))
        lines = []
        for place, line in enumerate(self.lines):
            for mark in MARK.findall(line):
                if mark not in names:
                    name, count = self.hints[mark], 1
                    while taken.get(name, -1) > place:
                        count += 1
                        name = f"{self.hints[mark]}{count}"
                    names[mark], taken[name] = name, last[mark]
            # a description may name numbers that nothing reads
            numbers = re.match(r"(__\d+__) = torch\.tensor\(.*\)$", line)
            if numbers is None or whole.count(numbers.group(1)) > 1:
                lines.append(MARK.sub(lambda found: names[found.group()], line))
        return lines

    def text(self) -> str:
        """The whole program."""
        body = "\n".join(rolled(self.named()))
        used = {node.id for node in ast.walk(ast.parse(body)) if isinstance(node, ast.Name)}
        used |= {"sys"} if self.hooked else set()
        imports = [f"import {name}" for name in MODULES if name in used]
        constants = [name for name in ("inf", "nan") if name in used]
        imports += [f"from math import {', '.join(constants)}"] if constants else []
        checkpoint = "torch.utils.checkpoint" if "torch.utils.checkpoint" in body else "torch"
        torches = [f"import {checkpoint}"] if "torch" in used else []
        torches += ["from torch import nn"] if "nn" in used else []
        parts = [*(f"# {comment}" for comment in self.comments), *imports]
        parts += ["", *torches] if imports and torches else torches
        return "\n".join([*parts, "", *([ONE_SENTENCE] if self.hooked else []), body, ""])


def tidy(text: str) -> str:
    """Without brackets that say nothing."""
    try:
        return ast.unparse(ast.parse(text))
    except SyntaxError:  # the header of a block
        return text


def rolled(lines: List[str]) -> List[str]:
    """Passages that come several times in a row, as a loop."""
    place = 0
    while place < len(lines):
        for size in range(1, min(12, (len(lines) - place) // 2) + 1):
            passage = lines[place : place + size]
            if passage[0].startswith((" ", ")")) or not "".join(passage).strip():
                break
            times = 1
            while lines[place + times * size : place + (times + 1) * size] == passage:
                times += 1
            if times > 1 and (times - 1) * size > 1:
                loop = [f"for _ in range({times}):", *(f"    {line}" for line in passage)]
                lines = [*lines[:place], *loop, *lines[place + times * size :]]
                place += len(loop) - 1
                break
        place += 1
    return lines
