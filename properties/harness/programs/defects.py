"""Known defects of the modes, as data: each with the condition on the programs that it covers.

A row keeps the smallest program that shows it. Where the mode is there, the law that tries the
rows runs it: on a version named in ``shown`` it must show, on one named in ``absent`` it must not.
"""

from dataclasses import dataclass
from typing import Sequence, Tuple, Union

from frostproof.properties.harness.programs.conditions import (
    OFF,
    VIEWS,
    Condition,
    both,
    either,
    has,
    input_kinds,
    inside,
    read_before_write,
)
from frostproof.strategies.programs import Input, Program, Statement

# what follows from a wrong requires_grad or grad_fn
GRAPH = (
    "requires_grad",
    "is_leaf",
    "grad_fn",
    "gradient",
    "backward",
    "backward accepts",
    "input flags",
    "input grad_fn",
    "later write",
    "input value",
    "fired",
)
SHARING = ("identity", "storage", "write", "write version")
INFERENCE = ("inference", "write", "write version", "later write", "version", "accepts", *GRAPH)
MEASURED = ("2.4", "2.8", "2.13", "2.14")
SEEN = ("view_of", "neighbour", "transposed", "slice", "step", "expanded")  # inputs that are views
FUNCTIONALIZED = ("compile-aot_eager", "compile-inductor")


@dataclass(frozen=True)
class Row:
    """A defect of a mode.

    ident: a short name; sentence: what goes wrong; modes: beginnings of the modes' names, the
    first one the mode in which the program is tried; aspects: in what it shows, the first one
    the program's; condition: the programs that it covers; program: the smallest that shows it;
    head: the beginning of the error's kind and message, where it is one, or several; scene: when;
    shown, absent: "major.minor" of the torch versions on which it was measured to show, or not
    to; issue: upstream's number, or what a search found; ends: it ends or spoils the process,
    so that no law runs it.
    """

    ident: str
    sentence: str
    modes: Tuple[str, ...]
    aspects: Tuple[str, ...]
    condition: Condition
    program: Program
    head: Union[str, Tuple[str, ...]] = ""
    scene: str = "first"
    shown: Tuple[str, ...] = MEASURED
    absent: Tuple[str, ...] = ()
    issue: str = "not searched"
    ends: bool = False


def _do(operation: str, operands: str = "x", targets: str = "a") -> Statement:
    return Statement(operation, tuple(operands), tuple(targets))


def _in(block: str, *body: Statement) -> Statement:
    return Statement(block, (), (), "", body)


def _program(kinds: str, *statements: Statement, returns: str = "a", shape: int = 0) -> Program:
    """kinds: of the inputs x, y, z, with spaces; shape: 2 for matrices."""
    sizes = (2, 2) if shape == 2 else (2,)
    inputs = tuple(Input(name, kind, sizes) for name, kind in zip("xyz", kinds.split()))
    return Program(inputs, statements, tuple(returns), "one" if len(returns) == 1 else "tuple")


ROWS: Sequence[Row] = (
    Row(
        "view-under-no-grad",
        "a view made under no_grad inside the compiled function is returned with a grad_fn, and "
        "passes gradients to its base",
        FUNCTIONALIZED,
        ("gradient", *GRAPH),
        inside(OFF, *VIEWS),
        _program("result", _in("no_grad", _do("flat")), returns="ax"),
        issue="no report of wrong gradients was found; pytorch/pytorch#175673 made the crash this",
    ),
    Row(
        "dropout-of-nothing",
        "dropout(x, 0.0) returns x itself in eager, and a copy of it when compiled",
        FUNCTIONALIZED,
        ("identity", *SHARING, *GRAPH, "inference", "version", "value"),
        has("no_dropout"),
        _program("live", _do("no_dropout")),
        shown=("2.4", "2.8", "2.13"),
        absent=("2.14",),
        issue="pytorch/pytorch#115249",
    ),
    Row(
        "data-write-counts",
        "x.data.mul_(2) inside the compiled function moves x's version counter, as it must not",
        FUNCTIONALIZED,
        ("version",),
        has("data_mul_", "data_copy_", "data"),
        _program("frozen", _do("data_mul_", "x", ""), returns="x"),
        issue="nearest: pytorch/pytorch#131403, pytorch/pytorch#195359",
    ),
    Row(
        "detached-write-joins-the-graph",
        "x.detach().add_(1) inside the compiled function gives x another grad_fn",
        FUNCTIONALIZED,
        ("input grad_fn", *GRAPH),
        both(has("detach", "detached_add_", "data_mul_", "data_copy_"), has("write")),
        _program("result", _do("detached_add_", "x", ""), returns="x"),
        issue="nearest: pytorch/pytorch#95980, pytorch/pytorch#195359",
    ),
    Row(
        "product-in-place-cannot-go-back",
        "x.mul_(y) on an input: backward of the compiled function raises",
        FUNCTIONALIZED,
        ("backward", "gradient"),
        has("mul_other_", "multiply_operator"),
        _program("result result", _do("mul_other_", "xy", ""), returns="x"),
        issue="pytorch/pytorch#185497",
    ),
    Row(
        "set-data-counts",
        "x.data = ... inside the compiled function moves x's version counter, as it must not",
        FUNCTIONALIZED,
        ("version",),
        has("set_data", "set_data_clone"),
        _program("frozen", _do("set_data_clone", "x", ""), returns="x"),
        shown=("2.4", "2.8", "2.13"),
        absent=("2.14",),
        issue="pytorch/pytorch#139152",
    ),
    Row(
        "only-result-not-differentiable",
        "a Function that marks its only result as not differentiable cannot be compiled",
        ("compile-",),
        ("error",),
        has("not_differentiable"),
        _program("live", _do("not_differentiable")),
        head="AssertionError: Expected fwd_out",
        shown=("2.8", "2.13", "2.14"),
        issue="no upstream report was found",
    ),
    Row(
        "no-inference-tensors",
        "what is made in inference_mode inside the compiled function is an ordinary tensor",
        FUNCTIONALIZED,
        ("inference", *INFERENCE),
        inside(("inference_mode",)),
        _program("live", _in("inference_mode", _do("double"))),
        issue="no upstream report was found",
    ),
    Row(
        "write-in-inference-mode",
        "called under inference_mode, a function with a block of inference_mode and a write to "
        "what was made there cannot be compiled",
        FUNCTIONALIZED,
        ("error",),
        both(inside(("inference_mode",)), has("write")),
        _program("frozen", _in("inference_mode", _do("double")), _do("mul_", "a", ""), returns="x"),
        head="BackendCompilerFailed",
        scene="inference",
        shown=("2.8", "2.13", "2.14"),
        absent=("2.4",),
        issue="nearest: pytorch/pytorch#181106",
    ),
    Row(
        "view-in-inference-mode",
        "after a view made in inference_mode inside a compiled function, no tensor can be made in "
        "this process: PythonDispatcherTLS was not set",
        FUNCTIONALIZED,
        ("internal",),
        inside(("inference_mode",)),
        _program("live", _in("inference_mode", _do("flat")), returns="ax"),
        ends=True,
        shown=("2.13", "2.14"),
        issue="pytorch/pytorch#181106 is of its error; no report of what it leaves behind was found",
    ),
    Row(
        "saved-then-written",
        "what backward would need is written to: eager raises in backward, the compiled function "
        "when it is called, backward or not",
        FUNCTIONALIZED,
        ("error",),
        read_before_write(),
        _program("result", _do("square"), _do("mul_", "x", "")),
        head="BackendCompilerFailed",
        issue="pytorch/pytorch#104943, pytorch/pytorch#158561",
    ),
    Row(
        "result-read-for-its-grad",
        "the .grad of a result is taken for None inside the compiled function",
        (*FUNCTIONALIZED, "compile-eager"),
        ("structure", *GRAPH, "shape", "value"),
        has("read_grad"),
        _program("live", _do("double"), _do("read_grad", "a", "b"), returns="b"),
        issue="nearest: pytorch/pytorch#117184",
    ),
    Row(
        "version-baked-in",
        "_version after a write is a constant of the compiled function: a second call on the "
        "same tensor computes with the first one's",
        FUNCTIONALIZED,
        ("value", "gradient"),
        has("times_version", "if_new_version"),
        _program("result", _do("mul_", "x", ""), _do("times_version")),
        scene="again",
        issue="no upstream report was found",
    ),
    Row(
        "chunk-written-under-no-grad",
        "called under no_grad, a write to a chunk cannot be compiled",
        FUNCTIONALIZED,
        ("error",),
        both(has("view", "views", "same"), has("write")),
        _program("result", _do("chunk", "x", "ab"), _do("mul_", "a", "")),
        head="BackendCompilerFailed",
        scene="no_grad",
        issue="nearest: pytorch/pytorch#103153",
    ),
    Row(
        "chunks-can-be-written",
        "a compiled function's chunk takes a write that eager refuses, and the gradient is another",
        FUNCTIONALIZED,
        ("later write", "gradient", "input value", "input flags"),
        has("views"),
        _program("result", _do("double"), _do("chunk", "a", "bc"), returns="bc"),
        scene="written",
        issue="nearest: pytorch/pytorch#90507",
    ),
    Row(
        "foreach-does-not-count",
        "under a TorchDispatchMode that changes nothing, _foreach_add_ does not move the version",
        ("dispatch-mode",),
        ("version", *GRAPH, "accepts"),
        has("foreach_add_", "foreach_copy_", "foreach_both_"),
        _program("frozen", _do("foreach_add_", "x", ""), returns="x"),
        issue="pytorch/pytorch#191154 (open, of subclasses)",
    ),
    Row(
        "functionalized-leaf-under-no-grad",
        "functionalize writes back outside of the no_grad block: a leaf that requires grad "
        "cannot be written to",
        ("functionalize",),
        ("error",),
        has("write", "metadata", "detach_"),
        _program("live", _in("no_grad", _do("mul_", "x", "")), returns="x"),
        head="RuntimeError: a",
        issue="nearest: pytorch/pytorch#90844",
    ),
    Row(
        "functionalized-transpose",
        "transpose_ of an input cannot be functionalized: writing back refers to one memory twice",
        ("functionalize",),
        ("error",),
        has("transpose_", "t_"),
        _program("frozen", _do("transpose_", "x", ""), returns="x", shape=2),
        head="RuntimeError: unsupported operation",
        issue="nearest: pytorch/torchdynamo#964",
    ),
    Row(
        "vmap-view-under-no-grad",
        "a view made under no_grad inside vmap comes out with requires_grad True and no grad_fn "
        "that backward finds",
        ("func-vmap",),
        ("error", "value"),
        inside((*OFF, "inference_mode"), *VIEWS),
        _program("live", _in("no_grad", _do("flat"))),
        head="RuntimeError: element",
        issue="nearest: pytorch/pytorch#173926",
    ),
    Row(
        "exported-set-data",
        "x.data = ... is lost in an exported program: neither result nor input has the new values",
        ("export",),
        ("value", "input value"),
        has("set_data", "set_data_clone"),
        _program("frozen", _do("set_data_clone", "x", ""), returns="x"),
        issue="nearest: pytorch/pytorch#184978",
    ),
    Row(
        "fake-traced-set-data",
        "a.data = ... is lost in what make_fx traces, and what follows is of other shapes or refused",
        ("make_fx-fake", "make_fx"),
        ("value", "error", "internal", "input value", "shape", "dtype"),
        has("set_data", "set_data_clone"),
        _program("live", _do("double"), _do("set_data_clone", "a", "")),
        issue="no upstream report was found",
    ),
    Row(
        "make_fx-counts-data-writes",
        "make_fx records .data as a detach, which counts writes: one to one of many views is refused "
        "where that view is used next",
        ("make_fx",),
        ("error",),
        has("data_mul_", "data_copy_", "data"),
        _program(
            "live",
            Statement("one_chunk", ("x",), ("a",), "0"),
            _do("data_mul_", "a", ""),
            _do("double", "a", "b"),
            returns="b",
        ),
        head="RuntimeError: Output N of ",
        issue="nearest: pytorch/pytorch#131403, pytorch/pytorch#195359",
    ),
    Row(
        "make_fx-drops-detach",
        "make_fx records a detach as an alias: what it cut off requires grad, and a write is refused",
        ("make_fx",),
        ("error", *GRAPH),
        both(
            has("detach", "clone_detach", "detached_add_", "data_mul_", "data_copy_"),
            has("write", "metadata"),
        ),
        _program("live", _do("detach"), _do("mul_", "a", "")),
        head=(
            *("RuntimeError: a ", "RuntimeError: Output N of "),
            *("RuntimeError: mul(): functions with out=", "RuntimeError: add(): functions with out="),
        ),
        shown=("2.14",),
        absent=("2.4", "2.8", "2.13"),
        issue="made so by pytorch/pytorch#186845, for gradients of gradients",
    ),
    Row(
        "dispatch-mode-in-inference-mode",
        "called under inference_mode and a TorchDispatchMode that changes nothing, a view of an "
        "ordinary tensor has requires_grad False and a version counter of its own",
        ("dispatch-mode",),
        ("requires_grad", "write version", "inference", "write", *GRAPH),
        has("view", "views", "same", "detach", "function"),
        _program("result", _do("flat")),
        scene="inference",
        shown=(),
        issue="no upstream report was found",
    ),
    Row(
        "functionalized-write-of-complex",
        "a write to part of what requires grad cannot be functionalized: select_scatter does not "
        "support automatic differentiation",
        ("functionalize",),
        ("error",),
        has("write"),
        Program(
            (Input("x", "result", (2,), "contiguous", "complex128"),),
            (Statement("set_item", ("x",), (), "0"),),
            ("x",),
        ),
        head="RuntimeError: select_scatter",
        issue="no upstream report was found",
    ),
    Row(
        "gradient-of-view-in-inference-mode",
        "a view made in inference_mode inside torch.func.vjp or grad raises: cannot set "
        "version_counter for inference tensor (2.0 refuses the next write to it)",
        ("func-vjp", "func-grad"),
        ("error",),
        inside(("inference_mode",)),
        _program("live", _in("inference_mode", _do("flat")), returns="x"),
        head=("RuntimeError: Cannot set version_counter", "RuntimeError: Inplace update to inference"),
        issue="nearest: pytorch/pytorch#170419",
    ),
    Row(
        "func-foreach-on-a-view",
        "torch._foreach_mul_ of a view is lost on the gradient inside torch.func.vjp or grad",
        ("func-vjp", "func-grad"),
        ("value",),
        both(has("view", "views", "same_view"), has("foreach_add_", "foreach_copy_")),
        _program(
            "live", _do("double"), _do("flat", "a", "b"), _do("foreach_copy_", "b", ""), returns="b"
        ),
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
        _program("result", _do("flat"), _do("mul_", "x", ""), _do("register_hook", "a", "")),
        shown=("2.0", *MEASURED),
        absent=("1.13",),
        issue="pytorch/pytorch#196459",
        ends=True,
    ),
    Row(
        "scripted-foreach",
        "torch._foreach_add_ is left out of a scripted function (torch.jit is deprecated)",
        ("jit-script",),
        ("value", "input value", "gradient"),
        has("foreach_add_", "foreach_copy_", "foreach_both_"),
        _program("frozen", _do("foreach_add_", "x", ""), returns="x"),
        shown=("1.13", "2.0", *MEASURED),
        issue="nearest: pytorch/pytorch#36031, of named tuples",
    ),
    Row(
        "traced-set-data",
        "x.data = ... and writes to x.data are lost in a traced program (torch.jit is deprecated)",
        ("jit-trace",),
        ("value", "input value", "gradient"),
        has("set_data", "set_data_clone", "data", "data_mul_", "data_copy_"),
        _program("frozen", _do("set_data_clone", "x", ""), returns="x"),
        issue="pytorch/pytorch#48477",
    ),
)


def ends(program: Program, mode: str) -> bool:
    """Whether a known defect would end or spoil the process."""
    return any(row.ends and mode.startswith(row.modes) and row.condition(program) for row in ROWS)


def covered(program: Program, mode: str, aspect: str, head: str = "") -> str:
    """The id of the first row that covers a difference; "" where none does."""
    for row in ROWS:
        if aspect in row.aspects and mode.startswith(row.modes):
            if (aspect != "error" or head.startswith(row.head)) and row.condition(program):
                return row.ident
    return ""
