"""A program's text made short: no idle brackets, slices of a net, loops."""

import ast
import re
from typing import FrozenSet, List


def tidy(text: str) -> str:
    """Without brackets that say nothing."""
    try:
        return ast.unparse(ast.parse(text))
    except SyntaxError:  # the header of a block
        return text


CHAIN = re.compile(r"net(\d*)\[(\d+)(?::(\d+))?\]\(net\1\[(\d+)(?::(\d+))?\]\(")


def folded(text: str) -> str:
    """Layers that are called one after the other, as one slice of their net."""
    start = 0
    while True:
        found = CHAIN.search(text, start)
        if found is None:
            return text
        start = found.start() + 1
        net, outer, outer_end, first, first_end = found.groups()
        if (int(first_end) if first_end else int(first) + 1) != int(outer):
            continue
        end = outer_end or int(outer) + 1
        depth, place = 1, found.end()
        while depth:  # the bracket that closes the inner call goes
            depth += {"(": 1, ")": -1}.get(text[place], 0)
            place += 1
        if text[place] != ")":  # more than the inner call is given on: a cut, a sum
            continue
        inner, start = text[found.end() : place - 1], 0
        text = f"{text[: found.start()]}net{net}[{first}:{end}]({inner}{text[place:]}"


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


def unread(line: str, used: FrozenSet[str]) -> bool:
    """Whether a line gives numbers a name that nothing reads, as a description may."""
    found = re.match(r"(\w+) = torch\.tensor\(.*\)$", line)
    return found is not None and found.group(1) not in used


def names_read(text: str) -> FrozenSet[str]:
    """The names that a text reads."""
    return frozenset(
        node.id
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    )
