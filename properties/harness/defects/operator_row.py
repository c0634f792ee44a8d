"""What a known defect of an operator is."""

from dataclasses import dataclass
from typing import Tuple


@dataclass(frozen=True)
class OperatorDefect:
    """A defect of operators in torch versions ``first`` to ``last``.

    name: of the row, and of the test of its program; operators, laws, routes: regular expressions
    on what it excuses (whole names); when: its condition, in words; program: it ends by
    ``sys.exit(sentence)`` where the defect shows; dtypes: "" for all.
    """

    name: str
    sentence: str
    issue: str
    when: str
    program: str
    operators: str = ""
    laws: str = ".*"
    routes: str = ".*"
    dtypes: str = ".*"
    first: Tuple[int, int] = (1, 13)
    last: Tuple[int, int] = (999, 0)
