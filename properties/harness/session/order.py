"""The order of the laws: what is seen soon, and by the law that names it, comes first.

The modes that all laws use, single operations, then what pins every value, so that a broken
torch is seen soon; then what sees a fault of one dtype; what is dear, and seldom the first
to see, last.
"""

import re

import pytest
import torch

from frostproof.properties.harness.core.law import law_of

# by the beginnings of "ID NAME", and whether they run in float32 (or without a dtype)
ORDER = (
    ("A|K1 test_(modes|no_grad)", True),
    ("D", True),
    ("C[124]", True),
    ("F3 test", True),
    ("O.* test_common", True),
    ("F3", True),
    ("F8", True),
    ("F2 F3 test_layers", True),
    (r"D1.* test_(shares|writes)|C1.* test_(copies|layout)", False),
    (r"F3( F\d)? test|.* test_rule_on_given", False),
    ("C|F1|F2|K", True),
    ("F[5679]|L", True),
    ("F5", False),
    ("X2|W8", True),  # what compiles: in one process, as it imports the compiler
    ("D|C", False),
    ("X", True),
    ("F3", False),
    # what starts processes: by one process, as each has a server of its own
    (r"W2|W7|M1 test_fused_step_keeps", True),
    ("", True),
    ("", False),
)


def place(item: pytest.Item) -> int:
    """The item's place in ORDER."""
    dtype = getattr(getattr(item, "callspec", None), "params", {}).get("dtype")
    first, name = dtype in (None, torch.float32), f"{law_of(item)[0]} {item.name}"
    return next(
        place
        for place, (beginning, float32) in enumerate(ORDER)
        if float32 is first and re.match(beginning, name)
    )
