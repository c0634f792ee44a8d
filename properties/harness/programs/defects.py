"""Known defects of the modes, as data: each with the condition on the programs that it covers.

A row keeps the smallest program that shows it. Where the mode is there, the law that tries the
rows runs it: on a version named in ``shown`` it must show, on one named in ``absent`` it must not.
"""

from typing import Sequence

from frostproof.properties.harness.defects.known import release
from frostproof.properties.harness.hunting.source import Fact
from frostproof.properties.harness.programs import (
    alias_defects,
    break_defects,
    compiled_defects,
    functionalized_defects,
    inductor_defects,
    jit_defects,
)
from frostproof.properties.harness.programs.conditions import (
    FOREACH,
    OFF,
    SET_DATA,
    VIEWS,
    both,
    either,
    has,
    input_kinds,
    inside,
    reads_what_it_writes,
)
from frostproof.properties.harness.programs.defect_row import (
    GRAPH,
    MEASURED,
    SEEN,
    Row,
    block,
    do,
    program,
)
from frostproof.properties.harness.programs.script import SCENES
from frostproof.strategies.programs import Program

ROWS: Sequence[Row] = (
    *compiled_defects.ROWS,
    *functionalized_defects.ROWS,
    *inductor_defects.ROWS,
    *alias_defects.ROWS,
    *break_defects.ROWS,
    *jit_defects.ROWS,
    Row(
        "foreach-does-not-count",
        "under a TorchDispatchMode that changes nothing, _foreach_add_ does not move the version",
        ("dispatch-mode",),
        ("version", *GRAPH, "accepts", "error"),
        has(*FOREACH),
        program("frozen", do("foreach_add_", "x", ""), returns="x"),
        shown=("2.0", *MEASURED),
        issue="pytorch/pytorch#191154 (open, of subclasses)",
    ),
    Row(
        "functionalized-leaf-under-no-grad",
        "functionalize writes back outside of the no_grad block: a leaf that requires grad cannot be "
        "written to",
        ("functionalize",),
        ("error",),
        has("write", "metadata", "detach_"),
        program("live", block("no_grad", do("mul_", "x", "")), returns="x"),
        head="RuntimeError: a",
        shown=("2.0", *MEASURED),
        issue="nearest: pytorch/pytorch#90844",
    ),
    Row(
        "functionalized-set-data",
        "x.data = ... after a view of x, functionalized: the view is of the new values; what requires "
        "grad cannot get another shape",
        ("functionalize",),
        ("value", "input value", "shape", "input shape", "error"),
        has(*SET_DATA),
        program("frozen", do("flat"), do("set_data_clone", "x", "")),
        head="RuntimeError: cannot resize variables",
        issue="nearest: pytorch/pytorch#139152",
    ),
    Row(
        "exported-write-in-inference-mode",
        "a write to a leaf in a block of inference_mode is refused in an exported program",
        ("export",),
        ("error",),
        inside(("inference_mode",), "write", "metadata", "detach_"),
        program("live", block("inference_mode", do("mul_", "x", "")), returns="x"),
        head="RuntimeError: a leaf Variable",
        shown=("2.8", "2.13", "2.14"),
        issue="nearest: pytorch/pytorch#159623",
    ),
    Row(
        "functionalized-resized-out",
        "an out= that has to be resized, or that is a view of another size, is refused when "
        "functionalized",
        ("functionalize",),
        ("error",),
        has("mul_out", "add_out"),
        program("frozen frozen", do("one_chunk", "x", "a", "0"), do("mul_out", "ay", ""), returns="x"),
        head=("RuntimeError: expected src", "RuntimeError: cannot resize", "RuntimeError: shape"),
        apart="eager warns that it is deprecated",
    ),
    Row(
        "functionalized-transpose",
        "transpose_ of an input cannot be functionalized: writing back refers to one memory twice",
        ("functionalize",),
        ("error",),
        has("transpose_", "t_"),
        program("frozen", do("transpose_", "x", ""), returns="x", shape=(2, 2)),
        head="RuntimeError: unsupported operation",
        shown=("2.0", *MEASURED),
        issue="nearest: pytorch/torchdynamo#964",
    ),
    Row(
        "vmap-view-under-no-grad",
        "a view made under no_grad inside vmap comes out with requires_grad True and no grad_fn that "
        "backward finds",
        ("func-vmap",),
        ("error", "value"),
        inside((*OFF, "inference_mode"), *VIEWS),
        program("live", block("no_grad", do("flat"))),
        head="RuntimeError: element",
        shown=("2.0", *MEASURED),
        issue="nearest: pytorch/pytorch#173926",
    ),
    Row(
        "exported-set-data",
        "x.data = ... is lost in an exported program: neither result nor input has the new values",
        ("export",),
        ("value", "input value", "error"),
        has(*SET_DATA),
        program("frozen", do("set_data_clone", "x", ""), returns="x"),
        head="AssertionError: Guard failed",
        issue="nearest: pytorch/pytorch#184978",
    ),
    Row(
        "exported-data-write",
        "x.data.mul_(2) is lost in a program that was exported with strict=True",
        ("export-strict",),
        ("value", "input value"),
        has("data", "data_mul_", "data_copy_"),
        program("frozen", do("data_mul_", "x", ""), returns="x"),
        shown=("2.8", "2.13", "2.14"),
        absent=("2.4",),
        issue="nearest: pytorch/pytorch#184978",
    ),
    Row(
        "decomposed-leaf-under-no-grad",
        "run_decompositions lets go of no_grad and of detach: an exported program that writes to a "
        "leaf there cannot be decomposed",
        ("export-decomposed",),
        ("error",),
        either(inside(OFF, "write", "metadata", "detach_"), both(has("detach"), has("write"))),
        program("live", block("no_grad", do("mul_", "x", "")), returns="x"),
        head="RuntimeError: a leaf Variable",
        shown=("2.13", "2.14"),
        issue="nearest: pytorch/pytorch#159623, of export itself",
    ),
    Row(
        "fake-traced-set-data",
        "a.data = ... is lost in what make_fx traces, and what follows is of other shapes or refused",
        ("make_fx-fake", "make_fx"),
        ("value", "error", "internal", "input value", "shape", "dtype"),
        has(*SET_DATA),
        program("live", do("double"), do("set_data_clone", "a", "")),
        shown=("2.0", *MEASURED),
        issue="no upstream report was found",
    ),
    Row(
        "make_fx-counts-data-writes",
        "make_fx records .data as a detach, which counts writes: one to one of many views is refused "
        "where that view is used next",
        ("make_fx",),
        ("error",),
        has("data_mul_", "data_copy_", "data"),
        program(
            "live",
            do("one_chunk", "x", "a", "0"),
            do("data_mul_", "a", ""),
            do("double", "a", "b"),
            returns="b",
        ),
        head="RuntimeError: Output N of ",
        shown=("2.0", *MEASURED),
        issue="nearest: pytorch/pytorch#131403, pytorch/pytorch#195359",
    ),
    Row(
        "make_fx-drops-detach",
        "make_fx records a detach as an alias: what it cut off requires grad, and a write is refused",
        ("make_fx",),
        ("error", "input value"),
        both(
            has("detach", "clone_detach", "detached_add_", "data_mul_", "data_copy_"),
            has("write", "metadata"),
        ),
        program("live", do("detach"), do("mul_", "a", "")),
        head=(
            *("RuntimeError: a ", "RuntimeError: Output N of "),
            *("RuntimeError: mul(): functions with out=", "RuntimeError: add(): functions with out="),
        ),
        shown=("2.14",),
        absent=("2.0", "2.4", "2.8", "2.13"),
        issue="made so by pytorch/pytorch#186845, for gradients of gradients",
    ),
    Row(
        "dispatch-mode-in-inference-mode",
        "under a TorchDispatchMode that changes nothing, a view of an ordinary tensor that is made in "
        "inference_mode is taken for no view: eager refuses a later write to it",
        ("dispatch-mode",),
        ("accepts", "version", "requires_grad", "write version", "inference", "write", *GRAPH),
        has("view", "views", "same", "detach", "function"),
        program("live", block("inference_mode", do("view_as", "xx")), do("mul_", "a", ""), returns="x"),
        shown=("2.0", *MEASURED),
        issue="no upstream report was found",
    ),
    Row(
        "functionalized-write-of-complex",
        "a write to what requires grad, or to part of it, cannot be functionalized: select_scatter, "
        "slice_scatter and zero do not support automatic differentiation",
        ("functionalize",),
        ("error",),
        has("write"),
        program("result", do("set_item", "x", "", "0"), returns="x", dtype="complex128"),
        head=("RuntimeError: select_scatter", "RuntimeError: slice_scatter", "RuntimeError: zero does"),
        shown=("2.0", *MEASURED),
        issue="no upstream report was found",
    ),
    Row(
        "gradient-of-view-in-inference-mode",
        "a view made in inference_mode inside torch.func.vjp or grad raises: cannot set "
        "version_counter for inference tensor (2.0 refuses the next write to it)",
        ("func-vjp", "func-grad"),
        ("error",),
        inside(("inference_mode",)),
        program("live", block("inference_mode", do("flat")), returns="x"),
        head=("RuntimeError: Cannot set version_counter", "RuntimeError: Inplace update to inference"),
        shown=("2.0", *MEASURED),
        issue="nearest: pytorch/pytorch#170419",
    ),
    Row(
        "func-foreach-on-a-view",
        "torch._foreach_mul_ of a view is lost on the gradient inside torch.func.vjp or grad",
        ("func-vjp", "func-grad"),
        ("value",),
        both(has("view", "views", "same_view"), has("foreach_add_", "foreach_copy_")),
        program("live", do("double"), do("flat", "a", "b"), do("foreach_copy_", "b", ""), returns="b"),
        absent=("2.0",),
        issue="nearest: pytorch/pytorch#85374, which mended other writes",
    ),
    Row(
        "hook-on-a-changed-view",
        "eager itself ends the process: register_hook on a view after a write to its memory",
        ("",),
        ("internal",),
        both(
            has("register_hook", "scaling_hook"), has("write"), either(has(*VIEWS), input_kinds(*SEEN))
        ),
        program("result", do("flat"), do("mul_", "x", ""), do("register_hook", "a", "")),
        shown=("2.0", *MEASURED),
        absent=("1.13",),
        issue="pytorch/pytorch#196459",
        ends=True,
    ),
    Row(
        "exported-unsqueeze_",
        "unsqueeze_ of an input cannot be exported: IndexError",
        ("export",),
        ("internal",),
        has("metadata"),
        program("frozen", do("unsqueeze_", "x", ""), returns="x"),
        shown=("2.8", "2.13", "2.14"),
        issue="nearest: pytorch/pytorch#198100, of torch.compile",
    ),
    Row(
        "exported-alias-of-what-is-written",
        "run_decompositions of a program whose inputs share memory, one of which is written to: "
        "AssertionError: expected compiled_fn to be GraphModule",
        ("export-decomposed",),
        ("internal",),
        both(has("write"), input_kinds(*SEEN, "detached_of")),
        program("frozen view_of", do("mul_", "y", ""), returns="x"),
        shown=("2.13", "2.14"),
        issue="nearest: pytorch/pytorch#166572, of one input twice",
    ),
    Row(
        "linearized-detached-write",
        "x.detach().add_(1) is lost in what torch.func.linearize computes",
        ("func-linearize",),
        ("value",),
        both(has("write"), has("detach", "detached_add_", "data_mul_", "data_copy_")),
        program("live", do("detached_add_", "x", ""), do("square")),
        shown=("2.8", "2.13", "2.14"),
        absent=("2.0", "2.4"),
        issue="no upstream report was found",
        subject="out1",
    ),
    Row(
        "linearized-write-to-a-part",
        "torch.func.linearize gives a wrong value where every second element was written to",
        ("func-linearize",),
        ("value", "error"),
        both(has("write"), has("set_item", "set_item_other", "slice", "views", "one_chunk")),
        program(
            "live",
            *(do("double"), do("set_item", "a", "", "::2"), do("multiply", "xa", "b")),
            returns="b",
        ),
        head="RuntimeError: setStorage",
        absent=("2.0",),
        issue="no upstream report was found",
        subject="out1",
    ),
    Row(
        "vmapped-copy-onto-itself",
        "inside vmap, a tensor is copied onto a view of all of it, which eager does: unsupported "
        "operation",
        ("func-vmap",),
        ("error",),
        reads_what_it_writes(True),
        program(
            "live",
            *(do("slice", "x", "b", "1:"), do("flat", "b", "c")),
            do("set_all_other", "cb", ""),
            returns="x",
        ),
        head="RuntimeError: unsupported operation: some elements",
        shown=("2.0", *MEASURED),
        issue="no upstream report was found",
    ),
)


# Aspects that may be refusals, the mode's or eager's, which a row's head is compared with.
HEADED = (
    *("error", "internal", "accepts", "backward accepts"),
    *("requires_grad", "is_leaf", "grad_fn", "input flags"),
)


def ends(program: Program, mode: str) -> bool:
    """Whether a known defect would end or spoil the process."""
    return any(row.ends and mode.startswith(row.modes) and row.condition(program) for row in ROWS)


def covered(program: Program, mode: str, fact: Fact) -> str:
    """The id of the first row that covers a difference; "" where none does.

    A row covers nothing on a torch where it was measured not to show, and where it shows in a
    call under no_grad or inference_mode, or in a later write, nothing in other calls.
    """
    now = release()
    for row in ROWS:
        if fact.aspect not in row.aspects or not mode.startswith(row.modes) or now in row.absent:
            continue
        if row.scene in (*SCENES, "written") and fact.scene != row.scene:
            continue
        if fact.aspect in HEADED and not fact.head.startswith(row.head):
            continue
        if row.condition(program):
            return row.ident
    return ""
