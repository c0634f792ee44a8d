"""Known defects of torch.compile that a graph break brings out."""

from typing import Sequence

from frostproof.properties.harness.programs.compare import ZEROS
from frostproof.properties.harness.programs.conditions import (
    OFF,
    VIEWS,
    both,
    either,
    has,
    input_kinds,
    inside,
)
from frostproof.properties.harness.programs.defect_row import (
    BROKEN,
    FUNCTIONALIZED,
    GRAPH,
    SEEN,
    Row,
    block,
    do,
    program,
)

ROWS: Sequence[Row] = (
    Row(
        "returned-after-a-break-beside-a-written-alias",
        "after a graph break the same of what was made before it, and x.detach() written to does not "
        "count in x",
        BROKEN,
        ("identity", "version", "write version", "inference", "write", "error"),
        either(
            both(has("write", "metadata"), has("detach", *VIEWS)),
            both(inside(OFF, "write"), input_kinds(*SEEN)),
        ),
        program("live", do("detach"), do("mul_", "a", ""), returns="x"),
        head=("AssertionError: ", "RuntimeError: a view of a leaf Variable"),
        shown=("2.8", "2.13", "2.14"),
        issue="no upstream report was found",
    ),
    Row(
        "view-of-a-parameter-after-a-break",
        "a view of a transposed parameter that reaches a second graph and is written to under "
        "no_grad: an internal assertion fails",
        BROKEN,
        ("error",),
        both(has("leak_no_grad", *OFF), has(*VIEWS), has("write")),
        program(
            "parameter",
            *(do("view_same"), do("view_same", "x", "b"), do("leak_no_grad", "", "")),
            do("mul_", "a", ""),
            returns="b",
            shape=(2, 2),
            layout="transposed",
            dtype="float32",
        ),
        head="RuntimeError: !self.requires_grad()",
        shown=("2.8", "2.13", "2.14"),
        issue="no upstream report was found",
    ),
    Row(
        "made-before-a-break-is-a-view",
        "what a compiled function made, with decompositions, before a graph break is a view, and "
        "cannot be written to after it",
        ("compile-aot_eager_decomp_partition-break", *FUNCTIONALIZED),
        ("error",),
        has("write", "metadata"),
        program("live", do("stack", "xx"), do("mul_", "a", "")),
        head=(
            "TorchRuntimeError: RuntimeError: Output N of AsStrided",
            "TorchRuntimeError: RuntimeError: A view was created in no_grad",
            "TorchRuntimeError: Output N of AsStrided",
            "TorchRuntimeError: A view was created in no_grad",
        ),
        issue="nearest: pytorch/pytorch#111417",
    ),
    Row(
        "detach_-after-a-break",
        "t_ of what is made before a graph break, and detach_ after it: Can't detach views in-place",
        BROKEN,
        ("error",),
        has("detach_"),
        program("live", do("double"), do("t_", "a", ""), do("detach_", "a", "")),
        head="RuntimeError: Can't detach views",
        issue="nearest: pytorch/pytorch#111417",
    ),
    Row(
        "view-is-none-after-a-break",
        "a view that was made before a graph break is none after it: what eager refuses to write to, "
        "to detach in place or to tell the grad_fn of is accepted",
        (*BROKEN, "compile-eager-break", "compile-eager-dynamic-break"),
        ("accepts", "requires_grad", "is_leaf", "grad_fn", "input flags", "backward accepts"),
        both(has(*VIEWS, "detach_view", "function"), has("write", "metadata", "detach_", "dirty")),
        program("result", block("no_grad", do("flat")), do("mul_", "a", ""), returns="x"),
        head=(
            *("RuntimeError: A view was created", "RuntimeError: Output N of"),
            *("RuntimeError: Can't detach views", "refused"),
        ),
        issue="nearest: pytorch/pytorch#90507",
    ),
    Row(
        "zeros-after-a-break",
        "an input that is used before a graph break, and by a view after it that nothing needs, has a "
        "gradient of zeros, in eager none",
        BROKEN,
        (ZEROS,),
        has(*VIEWS),
        program("live live", do("double"), do("double", "y", "b"), do("flat", "b", "c")),
        issue="nearest: pytorch/pytorch#131794",
        subject="y",
    ),
    Row(
        "view-written-under-no-grad-after-a-break",
        "a write, in a block of no_grad after a graph break, to a view made before it replaces the "
        "grad_fn of the input: its gradient is zero",
        BROKEN,
        ("gradient", *GRAPH),
        both(inside(OFF, "write"), has(*VIEWS)),
        program("result", do("flat"), block("no_grad", do("mul_", "a", "")), returns="x"),
        shown=("2.8", "2.13", "2.14"),
        absent=("2.4",),
        issue="nearest: pytorch/pytorch#90844, which was mended",
    ),
)
