"""What torch gets wrong of operators, accumulation and ownership, as data.

A row is a program in plain torch, which ends with a sentence where the defect shows, and the
laws and operators that it excuses. Programs run as tests of their own, strictly: one that no
longer shows is reported, and so is a row that nothing needed in a whole pass.
"""

from dataclasses import dataclass
from typing import List, Sequence, Tuple

from frostproof.properties.harness.running.defect import Defect


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
    first: Tuple[int, int] = (2, 0)
    last: Tuple[int, int] = (999, 0)


ALIASED = "pytorch/pytorch#34082, which speaks of the aliasing, not of the wrong values"
DEFECTS: Sequence[OperatorDefect] = (
    OperatorDefect(
        name="gradients_of_views_share_memory",
        sentence="two leaves that meet as views get one memory for both gradients; passes add twice",
        issue=ALIASED,
        when="one gradient reaches two live leaves through views (or calls that pass it on as it is)",
        operators=".*",
        laws="G1|G2",
        routes="beside a partner",
        program="""
a = torch.zeros(4, requires_grad=True)
b = torch.zeros(4, requires_grad=True)
for _ in range(3):
    (a.view(2, 2) + b.view(2, 2)).mul(2.0).sum().backward()
a.grad.tolist() == [6.0] * 4 or sys.exit(f"three passes of gradient 2 leave {a.grad.tolist()}")
""",
    ),
    OperatorDefect(
        name="the_given_gradient_becomes_grad",
        sentence="backward(gradient) through a view keeps the caller's tensor as .grad, and adds to it",
        issue=ALIASED,
        when="the gradient that the caller gave reaches a leaf through views alone",
        operators=".*",
        laws="G2",
        routes="accumulated, given",
        program="""
a = torch.zeros(4, requires_grad=True)
mine = torch.ones(2, 2)
for _ in range(2):
    a.view(2, 2).backward(mine)
mine.tolist() == [[1.0] * 2] * 2 or sys.exit(f"the caller's gradient of ones became {mine.tolist()}")
""",
    ),
)
# Laws on nets that the same defects break: (test, cells, sentence, first version).
ON_NETS: Sequence[Tuple[str, str, str, Tuple[int, int]]] = (
    (
        "test_passes_add_up",
        ".*-meet",
        "parameters that meet as views get one memory for both gradients, and each pass adds twice",
        (0, 0),
    ),
    (
        "test_gradients_own_their_memory",
        ".*-meet",
        "the gradients of parameters that meet as views share memory",
        (0, 0),
    ),
    (
        "test_given_gradient_stays",
        ".*-view",
        "backward through a view keeps the caller's gradient as .grad, and adds to it",
        (0, 0),
    ),
    (
        "test_clipping_leaves_the_norm_asked_for",
        ".*-meet",
        "clip_grad_norm_ scales twice what two parameters share",
        (0, 0),
    ),
    (
        "test_unscaling_undoes_the_scale_once",
        ".*-meet",
        "unscale_ divides twice what two parameters share",
        (2, 3),
    ),
)


def rows() -> List[Defect]:
    """The rows of the laws on nets, for the table of known defects."""
    return [
        Defect(f"test_accumulation.py::{test}", sentence, ALIASED, first, cells=cells)
        for test, cells, sentence, first in ON_NETS
    ]
