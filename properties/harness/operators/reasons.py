"""What operators do otherwise by design: each row with its reason, and tried like a law.

A row that nothing needed in a whole pass over the database is a warning.
"""

import re
from dataclasses import dataclass
from typing import List, Optional, Sequence, Set, Union

import torch

from frostproof.properties.harness.defects.known import version_tuple
from frostproof.properties.harness.defects.operators import DEFECTS, OperatorDefect
from frostproof.properties.harness.operators.trial import Problem


@dataclass(frozen=True)
class Reason:
    """Regular expressions on operator, law and route (whole names), and why they are excused.

    transforms: of the values, such as "whole"; dtypes: of the inputs; devices: their types.
    """

    operators: str
    laws: str
    routes: str
    why: str
    transforms: str = ".*"
    dtypes: str = ".*"
    devices: str = ".*"


# Left out: nothing can be said of them.
UNDEFINED = {
    "as_strided.partial_views": "reads memory outside of its input",
    "chalf": "torch has no arithmetic on complex32 on the CPU",
    "pca_lowrank": "draws random numbers, and its basis is free to turn",
    "svd_lowrank": "draws random numbers, and its basis is free to turn",
    "empty_like": "is not initialized",
    "new_empty": "is not initialized",
    "new_empty_strided": "is not initialized",
}
ROUNDING = r".*, rounding"
REASONS: Sequence[Reason] = (
    Reason(
        r"(__rmatmul__|matmul.*|linear.*|nn\.functional\.linear)",
        "O1|O3|O4|G1",
        ROUNDING,
        "folds batches only where nothing requires grad, or where memory lies so",
    ),
    Reason(
        r"linalg\.(cond|eigvalsh|norm|matrix_norm|svdvals|matrix_rank.*)|norm\.nuc|norm.*",
        "O1",
        ROUNDING,
        "computes no vectors where nothing requires grad: another LAPACK routine",
    ),
    Reason(
        r"linalg\.lstsq.*",
        "O1|O3",
        ".*",
        "gelsy depends on the alignment of its memory, and picks a rank near singular ones",
    ),
    Reason(
        r"nn\.Transformer(Encoder|Decoder)?(Layer)?",
        "O1",
        ROUNDING,
        "made of linear and scaled_dot_product_attention, which choose kernels: see there",
    ),
    Reason(
        r"nn\.LSTM",
        "O1",
        "output, rounding",
        "oneDNN runs it where nothing requires grad",
        dtypes="float32|bfloat16|float16",
    ),
    Reason(
        r"grid_sampler_2d|nn\.functional\.grid_sample",
        "O1",
        ROUNDING,
        "sums in another order where the image requires no grad",
    ),
    Reason(
        r"(nn\.functional\.)?scaled_dot_product_attention",
        "O1|O3",
        ROUNDING,
        "chooses the fused kernel by what requires grad",
    ),
    Reason(
        r"nn\.functional\.linear_cross_entropy.*",
        "O1|O3",
        ROUNDING,
        "chunks by what requires grad",
    ),
    Reason(
        r"linalg\.svd|svd|linalg\.solve_triangular|linalg\.eigh?",
        "O[134]|G1",
        ROUNDING,
        "LAPACK's order of sums depends on the alignment and layout of memory",
    ),
    Reason(
        r"unsafe_(chunk|split.*)",
        "O4",
        "sharing|outputs",
        "its documentation: like chunk, but the outputs are not tracked as views",
    ),
    Reason(
        r"as_strided.*",
        "O1",
        "with gaps|output.*",
        "its meaning is the layout of the memory",
    ),
    Reason(
        r"(nn\.functional\.)?dropout",
        "O1",
        "with gaps|output",
        "off the CPU random numbers are drawn in the order of memory (seen on CUDA, torch 2.11)",
        devices="(?!cpu).*",
    ),
    Reason(r"view_as_complex", "raised", "layouts", "needs a last stride of 1, as documented"),
    Reason(
        r"native_group_norm", "raised", "layouts", "internal: group_norm makes its input contiguous"
    ),
    Reason(r"normal", "O4", ".*output.*", "draws in the order of memory, which out= has of its own"),
    Reason(
        r"nn\.functional\.max_unpool[123]d",
        "O3",
        "forward mode|no effect",
        "documented: with repeated indices the result is not determined",
    ),
    Reason(
        r".*",
        "O1",
        "no_grad of a view",
        "a view made under no_grad says what its base says: decided in pytorch/pytorch#11390",
    ),
    Reason(
        r"nn\.functional\.linear_cross_entropy.*",
        "raised",
        "functional",
        "an autograd.Function without setup_context, which torch.func says",
    ),
    Reason(
        r"nn\.functional\.linear_cross_entropy.*",
        "O3",
        "double backward",
        "its documentation names no second derivative (2.14)",
    ),
    Reason(
        r"(linalg\.)?(slogdet|logdet|solve_ex|lu_solve|inv_ex|householder_product)",
        ".*",
        ".*",
        "near singular matrices: errors grow without bound",
    ),
    Reason(
        r"logsumexp|masked\.logsumexp",
        "O3",
        "forward mode",
        "of 1e4, where digits are lost",
        dtypes="complex.*",
    ),
    Reason(
        r"triangular_solve|.*quantile|.*median|cov|corrcoef",
        "O3",
        "no effect",
        "ties, or nothing finite",
        "whole",
    ),
    Reason(
        r"nn\.functional\.(elu|celu|selu)",
        "O4",
        "in place",
        "in place its gradient comes from the rounded result",
        dtypes="float32|bfloat16|float16",
    ),
    Reason(
        r"nn\.functional\.multi_head_attention_forward",
        "O1",
        "with gaps",
        "the rounded weights of a softmax in its tails",
        dtypes="bfloat16|float16",
    ),
    Reason(
        r"(nn\.functional\.)?(layer_norm|group_norm|instance_norm)",
        "O3",
        "create_graph",
        "differentiable formulas of their own: over equal numbers large terms cancel",
        "whole",
        "float32|bfloat16|float16",
    ),
    Reason(
        r"_?native_batch_norm.*|_batch_norm_with_update|nn\.functional\.batch_norm",
        "O1|O3",
        ".*",
        "differences that cancel: a few roundings of large terms",
        dtypes="float32|bfloat16|float16",
    ),
)
USED: Set[str] = set()


def name_of(row: Union[Reason, OperatorDefect]) -> str:
    """What a row is called in a warning."""
    return row.name if isinstance(row, OperatorDefect) else f"{row.operators}: {row.why}"


def _fits(row: Union[Reason, OperatorDefect], problem: Problem, operator: str, dtype: str) -> bool:
    return bool(
        re.fullmatch(row.operators, operator)
        and re.fullmatch(row.laws, problem.law)
        and re.fullmatch(row.routes, problem.route)
        and re.fullmatch(row.dtypes, dtype)
    )


def excuse(
    problem: Problem, operator: str, dtype: torch.dtype, transform: str = "plain", device: str = "cpu"
) -> Optional[str]:
    """Why a problem is no alarm here: a known defect of this torch, a reason; None where it is one."""
    kind = str(dtype).rpartition(".")[2]
    for row in applying():
        if row.operators and _fits(row, problem, operator, kind):
            USED.add(name_of(row))
            return f"known defect: {row.sentence} ({row.issue})"
    near = torch.device(device).type
    for reason in REASONS:
        if not (re.fullmatch(reason.transforms, transform) and re.fullmatch(reason.devices, near)):
            continue
        if _fits(reason, problem, operator, kind):
            USED.add(name_of(reason))
            return reason.why
    if near != "cpu" and problem.route.endswith(", rounding"):
        return "an accelerator adds in the order in which threads arrive"
    return None


def applying() -> List[OperatorDefect]:
    """The defects of this torch version."""
    now = version_tuple(str(torch.__version__))
    return [row for row in DEFECTS if row.first <= now <= row.last]


def needless() -> List[str]:
    """The rows that nothing has needed so far in this process."""
    names = [name_of(row) for row in applying()] + [name_of(row) for row in REASONS]
    return [name for name in names if name not in USED]
