"""Known defects of torch.jit, which is deprecated."""

from typing import Sequence

from frostproof.properties.harness.programs.conditions import (
    COMPLEX,
    FOREACH,
    SET_DATA,
    VIEWS,
    both,
    has,
    input_kinds,
)
from frostproof.properties.harness.programs.defect_row import (
    GRAPH,
    MEASURED,
    Row,
    do,
    program,
)

ROWS: Sequence[Row] = (
    Row(
        "scripted-view-as-a-dtype",
        "x.view(torch.int64) is taken for a view of a shape in a scripted function (torch.jit is "
        "deprecated)",
        ("jit-script",),
        ("error", "shape", "dtype", "value"),
        has("detached_integers"),
        program("frozen", do("detached_integers")),
        head="RuntimeError: RuntimeError: ",
        shown=("2.0", *MEASURED),
        issue="pytorch/pytorch#47964",
        apart="documented: TorchScript does not support this overload of view",
    ),
    Row(
        "scripted-gradient-of-complex",
        "from its second call on, a scripted or traced product of complex numbers has the conjugate "
        "of its gradient (torch.jit is deprecated)",
        ("jit-script", "jit-trace"),
        ("gradient",),
        both(has("multiply", "square"), input_kinds(*COMPLEX)),
        program("live", do("double"), do("multiply", "ax", "b"), returns="b", dtype="complex128"),
        scene="again",
        subject="x",
        shown=("2.0", *MEASURED),
        issue="pytorch/pytorch#154324, pytorch/pytorch#140101",
    ),
    Row(
        "traced-write-by-a-mask",
        "x[x == 1] = 4 of a tensor without dimensions goes by the mask of when it was traced "
        "(torch.jit is deprecated)",
        ("jit-trace",),
        ("value", "input value"),
        has("set_masked"),
        program("frozen", do("set_masked", "x", ""), returns="x", shape=()),
        scene="changed",
        issue="no upstream report was found",
    ),
    Row(
        "traced-detach_-after-a-write",
        "after a write to its base and detach_ of that, a view passes on a gradient in a traced "
        "program (torch.jit is deprecated)",
        ("jit-trace",),
        ("gradient", *GRAPH),
        has("detach_"),
        program("result", do("flat"), do("mul_", "x", ""), do("detach_", "x", "")),
        shown=("2.0", *MEASURED),
        issue="nearest: pytorch/pytorch#85568",
    ),
    Row(
        "scripted-foreach",
        "torch._foreach_add_ is left out of a scripted function (torch.jit is deprecated)",
        ("jit-script",),
        ("value", "input value", *GRAPH),
        has(*FOREACH),
        program("frozen", do("foreach_add_", "x", ""), returns="x"),
        shown=("1.13", "2.0", *MEASURED),
        issue="nearest: pytorch/pytorch#36031, of named tuples",
    ),
    Row(
        "scripted-write-to-a-view-again",
        "from its second call on, a write to a view of what was made is refused in a scripted "
        "function, as if to a view of a leaf (torch.jit is deprecated)",
        ("jit-script",),
        ("error",),
        both(has(*VIEWS), has("write")),
        program(
            "result", do("double"), do("add_axis", "a", "b", "0"), do("mul_", "b", ""), returns="b"
        ),
        head="RuntimeError: RuntimeError: a view of a leaf",
        scene="again",
        shown=("2.0", *MEASURED),
        issue="no upstream report was found",
    ),
    Row(
        "scripted-assignment",
        "x[..., 0] = y of one number, or x[x == 1] = 4 of a tensor without dimensions, is refused in "
        "a scripted function (torch.jit is deprecated)",
        ("jit-script",),
        ("error",),
        has("set_item_other", "set_masked"),
        program("frozen", do("set_masked", "x", ""), returns="x", shape=()),
        head=(
            "RuntimeError: RuntimeError: too many indices",
            "RuntimeError: RuntimeError: output with shape",
        ),
        shown=("2.0", *MEASURED),
        issue="no upstream report was found",
    ),
    Row(
        "scripted-gradient-of-a-chunk",
        "from its second call on, the gradient of a chunk that is added to something longer is of "
        "another shape: backward raises (torch.jit is deprecated)",
        ("jit-script", "jit-trace"),
        ("backward", "gradient"),
        has("views", "one_chunk"),
        program("live live", do("chunk", "y", "bc"), do("add", "xb")),
        scene="again",
        shown=("2.0", *MEASURED),
        issue="no upstream report was found",
    ),
    Row(
        "traced-set-data",
        "x.data = ... and writes to x.data are lost in a traced program (torch.jit is deprecated)",
        ("jit-trace",),
        ("value", "input value", "gradient"),
        has(*SET_DATA, "data", "data_mul_", "data_copy_"),
        program("frozen", do("set_data_clone", "x", ""), returns="x"),
        shown=("2.0", *MEASURED),
        issue="pytorch/pytorch#48477",
    ),
)
