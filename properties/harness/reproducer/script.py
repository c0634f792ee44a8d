"""A program under construction: plain lines, blocks, checks, and notes that only checks need.

A check ends the program with one sentence. When a program is shortened only checks are
left out, and what nothing refers to any more: never what trains, freezes or cuts.
"""

import contextlib
import io
import re
import warnings
from dataclasses import dataclass, field
from typing import Any, Callable, Iterator, List, Optional, Tuple


@dataclass
class Node:
    """A statement; ``lines`` are without indentation.

    check: ends the program where the law is broken. name: what the statement defines,
    where it may be left out once nothing refers to it. body: statements of a block, which
    goes with its last statement.
    """

    lines: List[str] = field(default_factory=list)
    check: bool = False
    name: str = ""
    body: Optional[List["Node"]] = None


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

    def add(self, *lines: str) -> None:
        """Statements that stay."""
        self._open[-1].extend(Node([line]) for line in lines)

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
        yield
        self._open.pop()

    # rendering

    def text(self, without: Tuple[int, ...] = ()) -> str:
        """The program, without the checks of these identities (``id`` of their nodes)."""
        left_out = set(without)
        while True:
            body = _render(self.nodes, 0, left_out)
            unused = [
                node
                for node in _all(self.nodes)
                if node.name and id(node) not in left_out and not _used(node, self.nodes, left_out)
            ]
            if not unused:
                break
            left_out.update(map(id, unused))
        while body and not body[0]:
            body.pop(0)
        text = "\n".join(body)
        imports = [
            line
            for word, line in (
                (r"\bcontextlib\.", "import contextlib"),
                (r"\bcopy\.", "import copy"),
                (r"\bctypes\.", "import ctypes"),
                (r"\bsys\.", "import sys"),
                (r"\bwarnings\.", "import warnings"),
                (r"\breduce\(", "from functools import reduce"),
                (r"(?<![\w.])inf\b|(?<![\w.])nan\b", "from math import inf, nan"),
            )
            if re.search(word, text)
        ]
        torches = ["import torch"] if re.search(r"\btorch\.|\bnn\.", text) else []
        if re.search(r"\bnn\.", text.replace("torch.nn.", "")):
            torches.append("from torch import nn")
        parts = [*(f"# {comment}" for comment in self.comments), *imports]
        if torches:
            parts += ["", *torches]
        setup = []
        if re.search(r"\bdevice\b", text) or re.search(r"\bdtype\b(?!=torch)", text):
            setup = [line for line in self.header if re.search(_names(line), text)]
        return "\n".join([*parts, "", *setup, text, ""])

    header: List[str] = []

    def checks(self) -> List[Node]:
        """Every check, in order."""
        return [node for node in _all(self.nodes) if node.check]

    def _after(self, check: Node) -> Tuple[int, ...]:
        """The statements after the one that holds a check: they no longer matter."""
        for place, node in enumerate(self.nodes):
            if node is check or any(inner is check for inner in _all(node.body or [])):
                if node.lines[0].startswith("def "):
                    return ()  # it is called later
                return tuple(id(later) for later in self.nodes[place + 1 :])
        return ()

    def shortened(self, run: Callable[[str], Optional[str]]) -> str:
        """The program with only the checks it needs to end as it does; ``run`` gives how."""
        whole = self.text()
        ends = run(whole)
        if ends is None:
            return whole
        checks = self.checks()
        for number, node in enumerate(checks):
            # most often one check alone says it all
            others = tuple(id(other) for other in checks if other is not node)
            others += self._after(node)
            text = self.text(others)
            if number < 40 and run(text) == ends:
                return text
        return whole


def _all(nodes: List[Node]) -> Iterator[Node]:
    for node in nodes:
        yield node
        if node.body:
            yield from _all(node.body)


def _names(line: str) -> str:
    return r"\b(" + "|".join(re.escape(n.strip()) for n in line.partition("=")[0].split(",")) + r")\b"


def _used(node: Node, nodes: List[Node], left_out: Any) -> bool:
    rest = "\n".join(_render(nodes, 0, {*left_out, id(node)}))
    return re.search(rf"\b{re.escape(node.name)}\b", rest) is not None


def _render(nodes: List[Node], depth: int, left_out: Any) -> List[str]:
    found: List[str] = []
    pad = "    " * depth
    for node in nodes:
        if id(node) in left_out:
            continue
        if node.body is None:
            found += [pad + line for part in node.lines for line in part.split("\n")]
            continue
        body = _render(node.body, depth + 1, left_out)
        if body:
            found += [pad + node.lines[0], *body]
    return found


def outcome(text: str) -> Optional[str]:
    """How a program ends when run here: None where it ends well, else its sentence or error.

    It runs in this process, because a torch that was broken by hand is broken only here.
    """
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            exec(compile(text, "<reproducer>", "exec"), {"__name__": "__main__"})
    except SystemExit as ended:
        return None if not ended.code else str(ended.code)
    except Exception as raised:
        return f"{type(raised).__name__}: {raised}"
    return None
