"""What a known defect of a torch version is."""

from dataclasses import dataclass
from typing import Tuple

NOT_REPORTED = "no upstream report was found"


@dataclass(frozen=True)
class Defect:
    """A law broken by torch versions ``first`` to ``last`` (inclusive), by node id pattern.

    test: file::function; cells: a regular expression on the bracketed id, such as
    "cpu-.*"; issue: the upstream report or document; sentence: what goes wrong;
    condition: words of conditions.py: only such examples are known to break the law, and
    all others must hold ("": the law breaks whatever is drawn); beside: the kind of accelerator
    that must be there, whatever the law runs on; table: the file of the row; program: the file
    in ``programs/``, without its ending, that shows the defect in plain torch ("": none).
    """

    test: str
    sentence: str
    issue: str
    first: Tuple[int, int] = (0, 0)
    last: Tuple[int, int] = (999, 0)
    cells: str = ".*"
    condition: str = ""
    beside: str = ""
    table: str = "properties/harness/defects/known.py"
    program: str = ""
