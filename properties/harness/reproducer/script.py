"""A program under construction: plain lines, blocks, checks, and notes that only checks need.

A check ends the program with one sentence. When a program is shortened only checks are
left out, what a healthy torch does not need, and what nothing refers to any more: never
what trains, freezes or cuts, for then the program could fail on a healthy torch.
"""

import ast
import contextlib
import io
import sys
import warnings
from dataclasses import dataclass, field
from typing import Any, Callable, FrozenSet, Iterator, List, Optional, Tuple


@dataclass
class Node:
    """A statement; ``lines`` are without indentation.

    check: ends the program where the law is broken. name: what the statement defines,
    where it may be left out once nothing refers to it. optional: a healthy torch ends the
    same way without it. body: statements of a block, which goes with its last statement;
    without lines they are no block, but stay together.
    """

    lines: List[str] = field(default_factory=list)
    check: bool = False
    name: str = ""
    optional: bool = False
    body: Optional[List["Node"]] = None


class Raised(str):
    """How a program ended that raised an error where it should not: "RuntimeError: ..."."""


def quoted(sentence: str) -> str:
    """A sentence as a Python literal: an f-string where it has replacement fields."""
    text = sentence.replace("\\", "\\\\").replace('"', "'")
    return f'{"f" if "{" in text else ""}"{text}"'


class Script:
    """A standalone program in plain torch."""

    def __init__(self, comments: List[str]) -> None:
        self.comments = comments
        self.nodes: List[Node] = []
        self._open: List[List[Node]] = [self.nodes]
        self.header: List[str] = []
        self.hooked = False  # errors are told in one sentence
        self.loops = 0  # that are open
        self.run: Any = None  # the training run that the program shows, to be drawn

    def add(self, *lines: str) -> None:
        """Statements that stay."""
        self._open[-1].extend(Node([line]) for line in lines)

    def optional(self, *lines: str) -> None:
        """Statements that stay only where the program does not show the fault without them."""
        self._open[-1].extend(Node([line], optional=True) for line in lines)

    def note(self, name: str, line: str) -> None:
        """A statement that stays only where something refers to ``name``."""
        self._open[-1].append(Node([line], name=name))

    def check(self, condition: str, sentence: str) -> None:
        """End the program with the sentence unless the condition holds."""
        self._open[-1].append(Node([f"{condition} or sys.exit({quoted(sentence)})"], check=True))

    def check_after(self, line: str, condition: str, sentence: str) -> None:
        """A check with the line that binds what it speaks of."""
        self._open[-1].append(Node([line, f"{condition} or sys.exit({quoted(sentence)})"], check=True))

    def raises(self, error: str, action: str, sentence: str, matching: str = "") -> None:
        """End the program unless the action raises the error, with a word in its message."""
        handler = "pass"
        if matching:
            handler = (
                f'"{matching}" in str(error).lower() or sys.exit({quoted(sentence + ": {error}")})'
            )
        self._open[-1].append(
            Node(
                [
                    "try:",
                    f"    {action}",
                    f"except {error}{' as error' if matching else ''}:",
                    f"    {handler}",
                    "else:",
                    f"    sys.exit({quoted(sentence + ', but nothing was raised')})",
                ],
                check=True,
            )
        )

    @contextlib.contextmanager
    def block(self, header: str, name: str = "") -> Iterator[None]:
        """A compound statement (loop, with, def); left out once its body is empty."""
        node = Node([header], name=name, body=[])
        self._open[-1].append(node)
        assert node.body is not None
        self._open.append(node.body)
        self.loops += header.startswith("for ")
        yield
        self.loops -= header.startswith("for ")
        self._open.pop()

    @contextlib.contextmanager
    def passage(self) -> Iterator[None]:
        """Statements that stay together, and only where the fault is not shown without them.

        What follows must hold on a healthy torch without them too.
        """
        node = Node(optional=True, body=[])
        self._open[-1].append(node)
        assert node.body is not None
        self._open.append(node.body)
        yield
        self._open.pop()

    # rendering

    def text(self, without: Tuple[int, ...] = ()) -> str:
        """The program, without the statements of these identities (``id`` of their nodes)."""
        left_out = set(without)
        while True:
            body = _render(self.nodes, 0, left_out)
            used = _names_read("\n".join(body))
            unused = {id(node) for node in _all(self.nodes) if node.name and node.name not in used}
            if unused <= left_out:
                break
            left_out |= unused
        setup = [line for line in self.header if line.partition(" =")[0] in used]
        if self.hooked:
            setup = [ONE_SENTENCE, *setup]
            used |= {"sys"}
        imports = [f"import {name}" for name in MODULES if name in used]
        if "reduce" in used:
            imports.append("from functools import reduce")
        constants = [name for name in ("inf", "nan") if name in used]
        if constants:
            imports.append(f"from math import {', '.join(constants)}")
        if any("torch" in line for line in setup):
            used |= {"torch"}
        torches = ["import torch"] if "torch" in used else []
        if "nn" in used:
            torches.append("from torch import nn")
        if imports and torches:
            imports.append("")
        comments = [f"# {comment}" for comment in self.comments]
        return "\n".join([*comments, *imports, *torches, "", *setup, *body, ""])

    def checks(self) -> List[Node]:
        """Every check, in order."""
        return [node for node in _all(self.nodes) if node.check]

    def _after(self, check: Node) -> List[Node]:
        """The statements after the one that holds a check: they no longer matter."""
        for place, node in enumerate(self.nodes):
            if node is check or any(inner is check for inner in _all(node.body or [])):
                if node.lines and node.lines[0].startswith("def "):
                    return []  # it is called later
                return self.nodes[place + 1 :]
        return []

    def shortened(self, run: Callable[[str], Optional[str]]) -> str:
        """The program with only the checks it needs to end as it does; ``run`` gives how."""
        whole = self.text()
        ends = run(whole)
        if ends is None:
            return whole
        without: Tuple[int, ...] = ()

        def ends_without(*nodes: Node) -> bool:
            nonlocal without
            more = (*without, *map(id, nodes))
            if run(self.text(more)) != ends:
                return False
            without = more
            return True

        if isinstance(ends, Raised):
            for node in reversed(self.nodes):
                if not ends_without(node):
                    break
            for check in self.checks()[:40]:
                ends_without(check)
        else:
            self._one_check(ends_without)
        for node in list(_all(self.nodes)):
            if node.optional and id(node) not in without:
                ends_without(node)
        return self.text(without)

    def _one_check(self, ends_without: Callable[..., bool]) -> None:
        """Leave out all checks but one: most often it says it all."""
        checks = self.checks()
        for node in checks[:40]:
            others = [other for other in checks if other is not node]
            if ends_without(*others, *self._after(node)):
                return


# torch's error, where it raises one that it should not, in one line
ONE_SENTENCE = (
    "sys.excepthook = lambda kind, error, trace: "
    'print(f"line {trace.tb_lineno}: {kind.__name__}: {error}", file=sys.stderr)'
)
MODULES = ("contextlib", "copy", "ctypes", "io", "pickle", "sys", "threading", "warnings")


def _all(nodes: List[Node]) -> Iterator[Node]:
    for node in nodes:
        yield node
        if node.body:
            yield from _all(node.body)


def _names_read(text: str) -> FrozenSet[str]:
    """The names that a program reads, those in the fields of its sentences included."""
    return frozenset(
        node.id
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    )


def _render(nodes: List[Node], depth: int, left_out: Any) -> List[str]:
    found: List[str] = []
    pad = "    " * depth
    for node in nodes:
        if id(node) in left_out:
            continue
        if node.body is None:
            found += [pad + line for part in node.lines for line in part.split("\n")]
            continue
        if not node.lines:
            found += _render(node.body, depth, left_out)
            continue
        body = _render(node.body, depth + 1, left_out)
        if body:
            found += [pad + node.lines[0], *body]
    return found


def outcome(text: str) -> Optional[str]:
    """How a program ends when run here: None where it ends well, else its sentence or ``Raised``.

    It runs in this process, because a torch that was broken by hand is broken only here.
    """
    hook = sys.excepthook
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            exec(compile(text, "<reproducer>", "exec"), {"__name__": "__main__"})
    except SystemExit as ended:
        return None if not ended.code else str(ended.code)
    except Exception as raised:
        return Raised(f"{type(raised).__name__}: {raised}")
    finally:
        sys.excepthook = hook
    return None
