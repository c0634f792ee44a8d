"""Known defects of what inductor alone makes of a function."""

from typing import Sequence

from frostproof.properties.harness.programs.conditions import (
    COMPLEX,
    FOREACH,
    VIEWS,
    both,
    either,
    has,
    input_kinds,
    returns_several,
)
from frostproof.properties.harness.programs.defect_row import (
    GRAPH,
    SHARING,
    Row,
    do,
    program,
)

ROWS: Sequence[Row] = (
    Row(
        "inductor-drops-a-detach",
        "(x * 1).detach() compiled by inductor is x itself, which requires grad",
        ("compile-inductor",),
        ("requires_grad", "identity", "storage", "write", "write version", "value", *GRAPH),
        both(has("times_one", "plus_zero"), has("detach", "clone_detach")),
        program("live", do("times_one"), do("detach", "a", "b"), returns="b"),
        shown=("2.14",),
        absent=("2.4", "2.8", "2.13"),
        issue="nearest: pytorch/pytorch#197893, of memory and values; perhaps one cause",
    ),
    Row(
        "inductor-gives-the-input-itself",
        "x * 1 compiled by inductor is x itself, or shares its memory: a write to it reaches x",
        ("compile-inductor",),
        ("storage", "identity", "write", "write version"),
        has("times_one", "plus_zero"),
        program("live", do("times_one")),
        shown=("2.14",),
        absent=("2.4", "2.8", "2.13"),
        issue="pytorch/pytorch#197893",
    ),
    Row(
        "inductor-foreach-of-complex",
        "torch._foreach_mul_ of complex tensors: an assertion of inductor fails",
        ("compile-inductor",),
        ("error",),
        both(
            has(*FOREACH),
            input_kinds(*COMPLEX),
        ),
        program("frozen", do("foreach_copy_", "x", ""), returns="x", dtype="complex128"),
        head=("InductorError", "BackendCompilerFailed"),
        issue="pytorch/pytorch#197376, pytorch/pytorch#197094",
    ),
    Row(
        "inductor-detach-is-no-other",
        "a result and its detach, of which neither requires grad, are one object",
        ("compile-inductor",),
        ("identity",),
        both(returns_several(), has("detach", "clone_detach", *VIEWS)),
        program("frozen", do("double"), do("detach", "a", "b"), returns="ba"),
        issue="pytorch/pytorch#191449",
        subject="out0, out1",
    ),
    Row(
        "inductor-drops-a-clone",
        "x[0] = 5, then x.clone(), or what copies x, is x itself: a later write to x changes the clone",
        ("compile-inductor",),
        ("value", "input value", "later write", *SHARING),
        both(
            has("clone", "detach_clone", "times_one", "plus_zero"),
            either(
                both(has(*VIEWS), has("write")),
                has("set_item", "set_item_other", "set_masked", "masked_fill_"),
                has("index_fill_", "index_put_", "index_add_"),
            ),
        ),
        program("frozen", do("set_item", "x", "", "0"), do("clone"), do("mul_", "x", "")),
        shown=("2.8", "2.13", "2.14"),
        issue="pytorch/pytorch#198096, pytorch/pytorch#195484",
    ),
)
