"""Where forward mode and backward of an operator disagree: rows of its table of defects."""

from typing import Sequence

from frostproof.properties.harness.defects.operator_row import OperatorDefect

DERIVATIVES: Sequence[OperatorDefect] = (
    OperatorDefect(
        name="forward_mode_of_logcumsumexp_loses_small_terms",
        sentence="the tangent of logcumsumexp is 1e-10 where it is 1, before a larger element",
        issue="pytorch/pytorch#196705",
        when="forward mode, a later element is larger by some 20",
        operators="logcumsumexp|masked.logcumsumexp",
        laws="O3",
        routes="forward mode",
        first=(2, 1),
        program="""
x = torch.tensor([0.0, 50.0])
_, ahead = torch.func.jvp(lambda x: torch.logcumsumexp(x, 0), (x,), (torch.ones(2),))
abs(float(ahead[0]) - 1) < 1e-3 or sys.exit(f"the tangent of x[0] itself is {float(ahead[0])}, not 1")
""",
    ),
    OperatorDefect(
        name="forward_mode_of_cholesky_inverse_is_double",
        sentence="the tangent of cholesky_inverse is twice what its gradient and its slope are",
        issue="pytorch/pytorch#196682",
        when="forward mode, a triangular factor along a triangular tangent",
        operators="cholesky_inverse",
        laws="O3",
        routes="forward mode",
        first=(2, 0),
        program="""
x = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
t = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
_, ahead = torch.func.jvp(torch.cholesky_inverse, (x,), (t,))
_, pull = torch.func.vjp(torch.cholesky_inverse, x)
weights = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
one, two = float((ahead * weights).sum()), float((pull(weights)[0] * t).sum())
abs(one - two) < 1e-5 or sys.exit(f"forward mode says {one}, backward {two}")
""",
    ),
    OperatorDefect(
        name="gradient_of_polar_at_zero",
        sentence="the gradient of polar by a radius of 0 is 0, by a negative one it has the wrong sign",
        issue="nearest: pytorch/pytorch#52919",
        when="a radius of 0, or a negative one (which forward and forward mode take as it is)",
        operators="polar",
        laws="O3",
        routes="forward mode.*|no effect",
        program="""
r = torch.zeros(1, requires_grad=True)
torch.polar(r, torch.zeros(1)).real.sum().backward()
float(r.grad) == 1 or sys.exit(f"r cos 0 has the slope 1 at r = 0, but gradient {float(r.grad)}")
""",
    ),
    OperatorDefect(
        name="gaussian_nll_loss_below_eps",
        sentence="the gradient of gaussian_nll_loss by a variance below eps is not that of the loss",
        issue="no upstream report was found",
        when="a variance below eps, which is clamped: the loss does not depend on it",
        operators=r"nn\.functional\.gaussian_nll_loss",
        laws="O3",
        routes="forward mode.*|no effect",
        first=(2, 0),
        program="""
def loss(var):
    return torch.nn.functional.gaussian_nll_loss(torch.ones(1), torch.zeros(1), var)

var = torch.zeros(1)
_, ahead = torch.func.jvp(loss, (var,), (torch.ones(1),))
_, pull = torch.func.vjp(loss, var)
back = float(pull(torch.ones(()))[0])
abs(back - float(ahead)) < 1 or sys.exit(f"forward mode says {float(ahead)}, backward {back}")
""",
    ),
    OperatorDefect(
        name="prelu_at_zero",
        sentence="at 0 the tangent of prelu is 1, its gradient the weight",
        issue="no upstream report was found",
        when="an element is 0",
        operators=r"nn\.functional\.prelu|prelu",
        laws="O3",
        routes="forward mode.*",
        first=(2, 0),
        program="""
x, weight = torch.zeros(1), torch.full((1,), 0.25)
_, ahead = torch.func.jvp(lambda x: torch.nn.functional.prelu(x, weight), (x,), (torch.ones(1),))
_, pull = torch.func.vjp(lambda x: torch.nn.functional.prelu(x, weight), x)
back = float(pull(torch.ones(1))[0])
float(ahead) == back or sys.exit(f"forward mode says {float(ahead)}, backward {back}")
""",
    ),
    OperatorDefect(
        name="scatter_reduce_counts_what_is_left_out",
        sentence="scatter_reduce without self shares the gradient with an equal element of self",
        issue="nearest: pytorch/pytorch#169263",
        when="amax or amin, include_self=False, and an element of self equals the result",
        operators=r"scatter_reduce\.am(ax|in)|index_reduce\.am(ax|in)",
        laws="O3",
        routes="forward mode.*",
        program="""
x, y = torch.ones(1), torch.ones(1, requires_grad=True)
x.scatter_reduce(0, torch.tensor([0]), y, "amax", include_self=False).backward(torch.ones(1))
float(y.grad) == 1 or sys.exit(f"the output is y, and its gradient by y is {float(y.grad)}")
""",
    ),
    OperatorDefect(
        name="clamp_between_equal_bounds",
        sentence="clamp below two equal bounds gives nobody a gradient; forward mode gives it to min",
        issue="nearest: pytorch/pytorch#94204, pytorch/pytorch#191142; not in 2.14.1",
        when="tensor bounds, min equals max, and x is below",
        operators="clamp",
        laws="O3",
        routes="forward mode.*",
        last=(2, 13),
        program="""
x, low, high = torch.zeros(1), torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)
torch.clamp(x, low, high).backward(torch.ones(1))
total = float(low.grad) + float(high.grad)
total == 1 or sys.exit(f"the output is a bound, and the gradients of both bounds add up to {total}")
""",
    ),
    OperatorDefect(
        name="fmax_at_ties",
        sentence="where both are equal the tangent of fmax is the second's, its gradient the first's",
        issue="nearest: pytorch/pytorch#193035; not in 2.14.1",
        when="two elements are equal",
        operators="fmax",
        laws="O3",
        routes="forward mode.*",
        last=(2, 13),
        first=(2, 0),
        program="""
x, y = torch.ones(1), torch.ones(1)
_, ahead = torch.func.jvp(lambda x: torch.fmax(x, y), (x,), (torch.ones(1),))
_, pull = torch.func.vjp(lambda x: torch.fmax(x, y), x)
back = float(pull(torch.ones(1))[0])
float(ahead) == back or sys.exit(f"forward mode says {float(ahead)}, backward {back}")
""",
    ),
    OperatorDefect(
        name="gradient_of_det_of_a_singular_matrix",
        sentence="det of a singular matrix has gradient 0 in a plain backward, the right one in others",
        issue="pytorch/pytorch#104675",
        when="the matrix is singular (an exact zero among its pivots), and create_graph is off",
        operators=r"(linalg\.)?det",
        laws="O3",
        routes="create_graph|func.vjp|forward mode|saved as copies.*",
        program="""
x = torch.ones(2, 2, requires_grad=True)
torch.linalg.det(x).backward()
right = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
near = bool((x.grad - right).abs().max() < 0.001)
near or sys.exit(f"the gradient is {x.grad.tolist()}, the adjugate {right.tolist()}")
""",
    ),
)
