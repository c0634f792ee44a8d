"""The text of a program: what only one other statement reads is written where it is read."""

import ast
import dataclasses
import keyword
import re
from typing import Dict, List, Set, Tuple

from frostproof.properties.harness.reproducer.statements import Block, Hole, Statement, Unwritable

MODULES = "contextlib copy ctypes io itertools math pickle sys threading warnings".split()
RESERVED = frozenset(("torch", "nn", "inf", "nan", *MODULES, *keyword.kwlist))
MARK = re.compile(r"__\d+__")  # stands for a name until all lines are written
# torch's error, where it raises one that it should not, in one line
ONE_SENTENCE = (
    "sys.excepthook = lambda kind, error, trace: "
    'print(f"line {trace.tb_lineno}: {kind.__name__}: {error}", file=sys.stderr)'
)


@dataclasses.dataclass(eq=False)
class Line:
    """One line; mark: what it assigns; pure: it only makes that; free: it may be a part of another;
    given: as it stands."""

    pad: str
    text: str
    mark: str = ""
    pure: bool = False
    free: bool = False
    given: bool = False


class Program:
    """Renders the kept statements as text; hooked: its error is to be one sentence."""

    def __init__(self, root: Block, kept: Set[int], comments: List[str], hooked: bool) -> None:
        self.kept, self.comments, self.hooked = kept, comments, hooked
        self.marks: Dict[Tuple[int, int], str] = {}
        self.hints: Dict[str, str] = {}
        self.lasting: Set[str] = set()  # marks of what a function reads whenever it is called
        self.words: Set[str] = set(RESERVED)
        self.lines = merged(self.body(root, ""))

    def body(self, block: Block, pad: str) -> List[Line]:
        lines: List[Line] = []
        for item in block.body:
            if isinstance(item, Block):
                lines += self.block(item, pad)
            elif id(item) in self.kept:
                lines += self.statement(item, pad)
        return lines

    def block(self, block: Block, pad: str) -> List[Line]:
        header = "try:" if block.attempt else ""
        if block.manager is not None:
            guard = f"contextlib.suppress({block.leaves}), " if block.leaves else ""
            header = self.text_of(Statement([f"with {guard}", block.manager], False))
            header += f" as {self.mark(block.statement)}:"
        if block.definition is not None:
            names = [self.mark(each) for each in block.parameters] if block.done else ["*_"]
            header = f"def {self.mark(block.statement)}({', '.join(names)}):"
        inner = self.body(block, pad + "    " * bool(header))
        if block.definition is not None:
            read = {mark for each in inner for mark in MARK.findall(each.text)}
            self.lasting |= read - {each.mark for each in inner}
            if id(block.statement) in self.kept and not inner:
                inner = [Line(f"{pad}    ", "pass")]
        if not inner or not header:
            return inner
        return [Line(pad, header), *inner, *(Line(pad, each) for each in block.attempt)]

    def statement(self, statement: Statement, pad: str) -> List[Line]:
        text = self.text_of(statement)
        for number, name in enumerate(statement.defines):
            text = re.sub(rf"(?<![\w.]){name}\b(?!=[^=])", self.mark(statement, number), text)
        if statement.defines:
            self.words.update(re.findall(r"(?<![\w.])[A-Za-z]\w*", text))
            lines = [Line(pad, each, given=True) for each in text.split("\n")]
            for each in lines:  # a description may name numbers that nothing reads
                mark, numbers, rest = each.text.partition(" = torch.tensor(")
                if numbers and MARK.fullmatch(mark) and rest.endswith(")"):
                    each.mark, each.text, each.pure = mark, each.text[len(mark) + 3 :], True
            return lines
        if statement.raised is None and not statement.closes:
            return [Line(pad, text, self.mark(statement), statement.pure, True)]
        if statement.closes:
            return [Line(pad, text)]
        error = f"except {type(statement.raised).__name__}:"
        return [
            Line(pad + "    " * n, each)
            for n, each in ((0, "try:"), (1, text), (0, error), (1, "pass"))
        ]

    def text_of(self, statement: Statement) -> str:
        for part in statement.parts:
            if isinstance(part, Hole):
                raise Unwritable(str(part))
        return "".join(
            part if isinstance(part, str) else self.mark(part.statement, part.number) + part.path
            for part in statement.parts
        )

    def mark(self, statement: Statement, number: int = 0) -> str:
        """What stands for a statement's name, or one of those that it defines."""
        mark = self.marks.setdefault((id(statement), number), f"__{len(self.marks)}__")
        self.hints[mark] = statement.defines[number] if statement.defines else statement.hint or "t"
        return mark

    def named(self) -> List[str]:
        """The lines with names: one is given again once its last reader is past."""
        whole = "\n".join(each.text for each in self.lines)
        lines = [each for line in self.lines for each in written(line, whole)]
        last = {mark: place for place, line in enumerate(lines) for mark in MARK.findall(line)}
        last.update(dict.fromkeys(self.lasting, len(lines)))
        names: Dict[str, str] = {}
        taken = dict.fromkeys(self.words, len(lines))
        for place, line in enumerate(lines):
            for mark in MARK.findall(line):
                if mark in names:
                    continue
                name, count = self.hints[mark], 1
                while taken.get(name, -1) > place:
                    count += 1
                    name = f"{self.hints[mark]}{count}"
                names[mark], taken[name] = name, last[mark]
            lines[place] = MARK.sub(lambda found: names[found.group()], line)
        return lines

    def text(self) -> str:
        """The whole program."""
        lines = self.named()
        typing = sorted({line for line in lines if line.startswith("from typing import ")})
        body = "\n".join(rolled([line for line in lines if line not in typing]))
        used = {node.id for node in ast.walk(ast.parse(body)) if isinstance(node, ast.Name)}
        used |= {"sys"} if self.hooked else set()
        imports = [*(f"import {name}" for name in MODULES if name in used), *typing]
        constants = [name for name in ("inf", "nan") if name in used]
        imports += [f"from math import {', '.join(constants)}"] if constants else []
        checkpoint = "torch.utils.checkpoint" if "torch.utils.checkpoint" in body else "torch"
        torches = [f"import {checkpoint}"] if "torch" in used else []
        torches += ["from torch import nn"] if "nn" in used else []
        parts = [*(f"# {comment}" for comment in self.comments), *imports]
        parts += ["", *torches] if imports and torches else torches
        return "\n".join([*parts, "", *([ONE_SENTENCE] if self.hooked else []), body, ""])


def merged(lines: List[Line]) -> List[Line]:
    """Each line that only the next that acts reads, once, becomes a part of it."""
    for line in reversed(list(lines)):
        place = lines.index(line)
        readers = [each for each in lines if line.mark and line.mark in each.text]
        if not readers:
            if line.mark and line.given:
                lines.remove(line)
            line.mark = ""
            continue
        reader = readers[0]
        passed = lines[place + 1 : lines.index(reader)]
        near = line.pad == reader.pad and all(line.pure and each.pure for each in passed)
        stays = re.match(rf"{line.mark} \S*= ", reader.text)  # only a name can be added to
        if near and line.free and not stays and "".join(r.text for r in readers).count(line.mark) == 1:
            reader.text = reader.text.replace(line.mark, f"({line.text})")
            reader.pure = reader.pure and line.pure
            lines.remove(line)
    return lines


def written(line: Line, whole: str) -> List[str]:
    """The text of a line, without brackets and names that say nothing."""
    text = f"{line.mark} = {line.text}" if line.mark else line.text
    entered = re.search(r" as (__\d+__):$", text)
    if entered and whole.count(entered.group(1)) == 1:
        text = text[: entered.start()] + ":"
    header = text.endswith(":") and not line.given
    try:
        text = text if line.given else ast.unparse(ast.parse(f"{text} pass" if header else text))
    except SyntaxError:  # the words of a try
        header = False
    return [line.pad + each for each in text.split("\n")[: -1 if header else None]]


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
