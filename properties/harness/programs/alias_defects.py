"""Known defects of torch.compile where inputs or what is made of them share memory."""

from typing import Sequence

from frostproof.properties.harness.programs.conditions import (
    OFF,
    VIEWS,
    both,
    either,
    has,
    input_kinds,
    inside,
    two_inputs_written,
)
from frostproof.properties.harness.programs.defect_row import (
    ALIASES,
    DYNAMIC,
    FUNCTIONALIZED,
    GRAPH,
    SHARING,
    Row,
    block,
    do,
    program,
)

ROWS: Sequence[Row] = (
    Row(
        "detached-alias-after-a-flag",
        "x.detach(), x made to require grad or detached in place, and a write to the detached: x does "
        "not count it, and is not returned itself",
        FUNCTIONALIZED,
        ("version", *SHARING),
        both(has("detach"), has("flag", "detach_"), has("write")),
        program(
            "frozen",
            *(do("detach"), do("requires_grad_", "x", ""), do("mul_", "a", "")),
            returns="x",
        ),
        shown=("2.8", "2.13", "2.14"),
        issue="nearest: pytorch/pytorch#195359",
    ),
    Row(
        "returned-beside-a-written-alias",
        "an input is returned that shares its memory with one that is written to: it is another object",
        FUNCTIONALIZED,
        ("identity", "version", "write version"),
        both(has("write", "metadata"), input_kinds(*ALIASES)),
        program("frozen view_of", do("mul_", "y", ""), returns="x"),
        issue="nearest: pytorch/pytorch#198095, of its values",
    ),
    Row(
        "view-beside-a-written-alias",
        "a view or a chunk of an input whose alias is written to: AssertionError: incorrect out shape",
        FUNCTIONALIZED,
        ("error",),
        both(has("write"), has(*VIEWS), input_kinds(*ALIASES)),
        program("frozen view_of", do("mul_", "x", ""), do("flat", "y", "a"), layout="slice"),
        head="AssertionError: incorrect out shape",
        issue="pytorch/pytorch#198095",
    ),
    Row(
        "written-with-another-input's-values",
        "two inputs are written to, one of which requires grad, and the other is returned: the one "
        "that requires grad gets the other's values",
        FUNCTIONALIZED,
        ("input value", "value"),
        two_inputs_written(),
        program("frozen result", do("add_", "x", ""), do("mul_", "y", ""), returns="x"),
        subject="y",
        issue="no upstream report was found",
    ),
    Row(
        "leaf-beside-a-written-alias",
        "of a leaf and its view, one is written to where nothing forbids it: an assertion fails "
        "(any_leaf, or the number of tangents)",
        FUNCTIONALIZED,
        ("error",),
        both(has("write", "metadata"), either(input_kinds(*ALIASES), has(*VIEWS))),
        program("live view_of", block("no_grad", do("mul_", "y", "")), returns="x"),
        head=(
            "BackendCompilerFailed: AssertionError: any_leaf",
            "BackendCompilerFailed: AssertionError: outs_to_grad",
            "BackendCompilerFailed: AssertionError: Set TORCH",  # it says nothing before torch 2.13
        ),
        issue="no upstream report was found",
    ),
    Row(
        "view-beside-a-written-detached-alias",
        "an input and its detached alias, which is written to: a view of the one that requires grad "
        "has no grad_fn, and its gradient is lost",
        FUNCTIONALIZED,
        ("gradient", *GRAPH),
        both(has("write"), input_kinds("detached_of")),
        program("live detached_of", do("mul_", "y", ""), do("flat")),
        shown=("2.8", "2.13", "2.14"),
        issue="no upstream report was found",
        subject="x",
    ),
    Row(
        "returned-beside-an-alias-written-under-no-grad",
        "called under no_grad, a write to a view of an input, which is returned: it comes without its "
        "grad_fn, and its gradient is lost",
        FUNCTIONALIZED,
        ("gradient", *GRAPH),
        both(has("write"), input_kinds("view_of")),
        program("result view_of", do("mul_", "y", ""), returns="x"),
        scene="no_grad",
        issue="no upstream report was found",
    ),
    Row(
        "alias-written-in-a-block-of-no-grad",
        "a write, in a block of no_grad, to a view of an input replaces the grad_fn of the input: its "
        "gradient is zero",
        FUNCTIONALIZED,
        ("gradient", *GRAPH),
        both(inside(OFF, "write"), input_kinds("view_of")),
        program("result view_of", block("no_grad", do("mul_", "y", "")), returns="x"),
        shown=("2.8", "2.13", "2.14"),
        absent=("2.4",),
        issue="nearest: pytorch/pytorch#90844, which was mended",
    ),
    Row(
        "copy-between-aliases-with-dynamic-shapes",
        "with dynamic shapes, a write of an input's detached alias to the input cannot be compiled: "
        "Expected !size_bytes_is_heap_allocated_",
        DYNAMIC,
        ("error",),
        both(either(input_kinds("detached_of"), has("detach")), has("write")),
        program("frozen detached_of", do("copy_", "xy", ""), returns="x"),
        head="BackendCompilerFailed: RuntimeError: Expected !size_bytes",
        issue="no upstream report was found",
    ),
)
