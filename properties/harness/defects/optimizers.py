"""Known defects of optimizers in old torches: what is off the published rule, and in which examples.

First and last versions were measured over the minor releases from 1.8.1 to 2.4.1.
"""

from typing import Iterator, Sequence, Tuple

from frostproof.properties.harness.defects.defect import Defect

FILE = "test_optimizers.py::test_"
BY_THE_RULE = (
    f"{FILE}values_follow_the_rule",
    f"{FILE}rule_on_given_gradients",
    f"{FILE}what_is_left_behind_moves_by_the_rule",
    f"{FILE}every_option",
)
IMPLEMENTATIONS = "test_equivalence.py::test_the_frozen_stay_in_every_implementation"

# (sentence, issue, first, last, condition): each breaks every law that follows the rule
OFF_THE_RULE: Sequence[Tuple[str, str, Tuple[int, int], Tuple[int, int], str]] = (
    (
        "NAdam's for-loop multiplies its product of momenta by the current one twice",
        "measured; mended by pytorch/pytorch#92699",
        (1, 10),
        (1, 13),
        "NAdam for-loop",
    ),
    (
        "foreach implementations add the weight decay to .grad itself",
        "measured; mended by pytorch/pytorch#92706",
        (1, 12),
        (1, 13),
        "foreach weight-decay",
    ),
    (
        "RAdam's foreach divides by the second moment without eps: 0/0 for a zero gradient",
        "measured; mended by pytorch/pytorch#92551",
        (1, 12),
        (1, 13),
        "RAdam foreach",
    ),
    (
        "ASGD's foreach takes the rate of the first parameter for all and, from 2.0, another formula",
        "measured; mended by pytorch/pytorch#125440",
        (1, 12),
        (2, 3),
        "ASGD foreach",
    ),
)


def rows() -> Iterator[Defect]:
    """A row for each law that meets the defect."""
    for sentence, issue, first, last, condition in OFF_THE_RULE:
        for test in BY_THE_RULE:
            yield Defect(
                test,
                sentence,
                issue,
                first,
                last,
                condition=condition,
            )
    # which tries every implementation of what is drawn
    for (sentence, issue, first, last, _), name in (
        (OFF_THE_RULE[0], "NAdam"),
        (OFF_THE_RULE[2], "RAdam"),
    ):
        yield Defect(IMPLEMENTATIONS, sentence, issue, first, last, condition=name)
    yield Defect(
        "test_differentiable.py::test_differentiable_steps",
        "a differentiable NAdam takes the gradient for its own first moment",
        "measured; mended by pytorch/pytorch#106615",
        (2, 0),
        (2, 0),
        condition="NAdam",
    )
