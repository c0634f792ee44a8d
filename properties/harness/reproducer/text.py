"""A program's text made short: no idle brackets, loops for what comes several times."""

import ast
import re
from typing import FrozenSet, List


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
