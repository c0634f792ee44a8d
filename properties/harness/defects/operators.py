"""What torch gets wrong of operators, accumulation and ownership, as data.

A row is a program in plain torch, which ends with a sentence where the defect shows, and the
laws and operators that it excuses. Programs run as tests of their own, strictly: one that no
longer shows is reported, and so is a row that nothing needed in a whole pass.
"""

from typing import List, Sequence, Tuple

from frostproof.properties.harness.defects.defect import Defect
from frostproof.properties.harness.defects.derivatives import DERIVATIVES
from frostproof.properties.harness.defects.operator_row import OperatorDefect

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
        first=(0, 0),
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
        first=(0, 0),
        program="""
a = torch.zeros(4, requires_grad=True)
mine = torch.ones(2, 2)
for _ in range(2):
    a.view(2, 2).backward(mine)
mine.tolist() == [[1.0] * 2] * 2 or sys.exit(f"the caller's gradient of ones became {mine.tolist()}")
""",
    ),
    OperatorDefect(
        name="gradient_of_sgn_cannot_be_written",
        sentence="sgn leaves a tensor without memory in .grad: a second pass, clipping, momentum raise",
        issue="no upstream report was found",
        when="sgn of real numbers, two passes",
        operators="sgn",
        laws="G1|O1|O3|raised",
        program="""
x = torch.ones(2, requires_grad=True)
try:
    for _ in range(2):
        torch.sgn(x).sum().backward()
except RuntimeError as problem:
    sys.exit(f"the second pass through sgn raises: {problem}")
""",
    ),
    OperatorDefect(
        name="rrelu_saves_its_noise_before_it_is_drawn",
        sentence="rrelu's gradient is uninitialized memory under checkpoint and hooks that copy",
        issue="pytorch/pytorch#193671",
        when="training=True, and what is saved for backward is copied when it is saved",
        operators=r"nn\.functional\.rrelu",
        laws="O3",
        routes="(checkpointed|saved as copies).*",
        program="""
def slope(hooks):
    torch.manual_seed(0)
    x = torch.full((64,), -1.0, requires_grad=True)
    with hooks:
        torch.nn.functional.rrelu(x, training=True).sum().backward()
    return x.grad

copying = torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t)
found, expected = slope(copying), slope(torch.enable_grad())
torch.equal(found, expected) or sys.exit(f"saved as copies: {found[:3]}, else {expected[:3]}")
""",
    ),
    OperatorDefect(
        name="as_strided_scatter_keeps_the_wrong_gradient",
        sentence="as_strided_scatter gives its input the gradient of what it overwrites, not the rest",
        issue="pytorch/pytorch#88105 (closed) is of the same mask; no report of this was found",
        when="the input requires grad",
        operators="as_strided_scatter",
        laws="O3",
        program="""
x, y = torch.zeros(4, requires_grad=True), torch.ones(2)
torch.as_strided_scatter(x, y, (2,), (2,), 0).backward(torch.tensor([1.0, 2.0, 3.0, 4.0]))
x.grad.tolist() == [0.0, 2.0, 0.0, 4.0] or sys.exit(f"the gradient of x is {x.grad.tolist()}")
""",
    ),
    OperatorDefect(
        name="as_strided_scatter_fails_an_internal_assert",
        sentence="as_strided_scatter of what is not contiguous, but requires grad: INTERNAL ASSERT",
        issue="pytorch/pytorch#90992",
        when="the input is not contiguous and requires grad",
        operators="as_strided_scatter",
        laws="raised",
        program="""
x = torch.zeros(4, 2).select(1, 0).requires_grad_()
try:
    torch.as_strided_scatter(x, torch.ones(2), (2,), (2,), 0)
except RuntimeError as problem:
    "INTERNAL ASSERT" not in str(problem) or sys.exit(f"a user's call: {str(problem)[:90]}")
""",
    ),
    OperatorDefect(
        name="ihfftn_ignores_out",
        sentence="ihfftn and ihfft2 over one dimension leave what out= names unwritten",
        issue="no upstream report was found",
        when="one dimension is transformed",
        operators=r"fft\.ihfft[2n]",
        laws="O4",
        program="""
x, out = torch.arange(4.0), torch.zeros(3, dtype=torch.complex64)
torch.fft.ihfftn(x, out=out)
torch.equal(out, torch.fft.ihfftn(x)) or sys.exit(f"out is {out}, the result is {torch.fft.ihfftn(x)}")
""",
    ),
    OperatorDefect(
        name="matrix_power_of_zero_cuts_the_graph_into_out",
        sentence="matrix_power(x, 0, out=) and (x, 1, out=) take what requires grad without a word",
        issue="no upstream report was found",
        when="n is 0 or 1 and x requires grad; other powers refuse",
        operators=r"linalg\.matrix_power",
        laws="O4",
        routes="out= refuses",
        program="""
x = torch.ones(2, 2, requires_grad=True)
try:
    out = torch.linalg.matrix_power(x, 0, out=torch.empty(2, 2))
except RuntimeError:
    sys.exit(0)
out.requires_grad or sys.exit("out= was not refused, and the output requires no grad")
""",
    ),
    OperatorDefect(
        name="narrow_copy_writes_beside_out",
        sentence="narrow_copy writes out= as if it were contiguous: to the wrong elements",
        issue="pytorch/pytorch#84577 (closed, still there)",
        when="what out= names is not contiguous",
        operators="narrow_copy",
        laws="O4",
        routes=".*output",
        first=(0, 0),
        program="""
memory = torch.zeros(2, 2, 2)
torch.narrow_copy(torch.ones(2, 3), 1, 0, 2, out=memory[..., 0])
memory[..., 1].any() and sys.exit(f"it wrote to elements that out= does not name: {memory.tolist()}")
""",
    ),
    OperatorDefect(
        name="avg_pool3d_writes_beside_out",
        sentence="avg_pool3d writes out= as if it were contiguous: to the wrong elements",
        issue="pytorch/pytorch#84577 (closed, still there)",
        when="what out= names is not contiguous",
        operators=r"nn\.functional\.avg_pool3d",
        laws="O4",
        routes=".*output",
        first=(0, 0),
        program="""
memory = torch.zeros(1, 2, 1, 1, 1, 2)
torch.nn.functional.avg_pool3d(torch.ones(1, 2, 2, 2, 2), 2, out=memory[..., 0])
memory[..., 1].any() and sys.exit(f"it wrote to elements that out= does not name: {memory.tolist()}")
""",
    ),
    OperatorDefect(
        name="gelu_leaves_out_unwritten",
        sentence="gelu leaves what out= names unwritten",
        issue="no upstream report was found",
        when="float32 or bfloat16 on the CPU (oneDNN), and what out= names is not contiguous",
        operators=r"nn\.functional\.gelu",
        laws="O4",
        routes=".*output",
        program="""
out = torch.zeros(2, 2)[:, 0]
torch.nn.functional.gelu(torch.ones(2), out=out)
expected = torch.nn.functional.gelu(torch.ones(2))
out.any() or sys.exit(f"out is {out.tolist()}, gelu(1) is {expected.tolist()}")
""",
    ),
    OperatorDefect(
        name="matmul_moves_out",
        sentence="matmul of a vector and a matrix changes the strides of out=, and writes beside it",
        issue="nearest: pytorch/pytorch#48281",
        when="the first is a vector, and what out= names is not contiguous",
        operators=r"matmul|nn\.functional\.linear|__rmatmul__",
        laws="O4",
        routes="out= with gaps",
        first=(0, 0),
        program="""
memory = torch.zeros(2, 2)
torch.matmul(torch.ones(2), torch.eye(2), out=memory[:, 0])
memory[:, 0].all() or sys.exit(f"out= names the first column, ones were written to {memory.tolist()}")
""",
    ),
    OperatorDefect(
        name="batch_norm_hides_its_writes",
        sentence="batch_norm writes running statistics without a new version of them",
        issue="pytorch/pytorch#13402, pytorch/pytorch#120622",
        when="training, with running statistics",
        operators=r"(nn\.functional\.|_?native_|_)?batch_norm.*|_native_batch_norm_legit",
        laws="O2",
        routes="hidden write",
        first=(0, 0),
        program="""
mean, var = torch.zeros(2), torch.ones(2)
torch.nn.functional.batch_norm(torch.arange(8.0).view(4, 2), mean, var, training=True)
mean._version > 0 or not mean.any() or sys.exit("running_mean was written, its version is still 0")
""",
    ),
    OperatorDefect(
        name="tensor_split_by_a_tensor_has_no_vjp",
        sentence="tensor_split by a tensor of indices fails inside torch.func: no storage",
        issue="no upstream report was found",
        when="the indices are a tensor, made inside or outside of the function",
        operators="tensor_split",
        laws="raised",
        first=(2, 0),
        program="""
x, places = torch.arange(6.0), torch.tensor([2, 4])
try:
    torch.func.vjp(lambda x: torch.tensor_split(x, places), x)
except RuntimeError as problem:
    sys.exit(f"vjp of tensor_split: {problem}")
""",
    ),
    *DERIVATIVES,
    OperatorDefect(
        name="square_in_place_has_no_gradient",
        sentence="square_ of what requires grad raises an error about out=",
        issue="measured on 1.8.1; nearest: pytorch/pytorch#68966",
        when="in place, with a gradient",
        operators="square",
        laws="raised",
        routes="in_place|given_out",
        first=(0, 0),
        last=(1, 8),
        program="""
x = torch.ones(2, requires_grad=True)
try:
    x.clone().square_()
except RuntimeError as problem:
    sys.exit(f"square_ raises: {problem}")
""",
    ),
    OperatorDefect(
        name="cdist_of_what_has_gaps_has_no_gradient",
        sentence="backward through cdist of what is not contiguous raises an error",
        issue="pytorch/pytorch#69997; measured on 1.8.1",
        when="the input is not contiguous",
        operators="cdist",
        laws="raised",
        routes="layouts",
        first=(0, 0),
        last=(1, 8),
        program="""
x, y = torch.rand(2, 3, 2)[..., 0].requires_grad_(), torch.rand(2, 3)
try:
    torch.cdist(x, y).sum().backward()
except RuntimeError as problem:
    sys.exit(f"backward raises: {problem}")
""",
    ),
)
# Laws on nets that the same defects break: (test, cells, sentence, first version). CUDA scales many
# tensors in one kernel, which reads the shared memory before either write (held on torch 2.11).
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
        "(?!cuda).*-meet",
        "clip_grad_norm_ scales twice what two parameters share",
        (0, 0),
    ),
    (
        "test_unscaling_undoes_the_scale_once",
        "(?!cuda).*-meet",
        "unscale_ divides twice what two parameters share",
        (2, 3),
    ),
)


def rows() -> List[Defect]:
    """The rows for the table of known defects: of the laws on nets, and of each program."""
    nets = [
        Defect(f"test_accumulation.py::{test}", sentence, ALIASED, first, cells=cells)
        for test, cells, sentence, first in ON_NETS
    ]
    programs = [
        Defect(PROGRAMS, row.sentence, row.issue, row.first, row.last, f".*-{row.name}")
        for row in DEFECTS
    ]
    return nets + programs


PROGRAMS = "test_operators.py::test_known_defects_of_operators"
