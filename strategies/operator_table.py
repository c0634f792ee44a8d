"""Common operators as code, with the shapes of what may be frozen: no database is needed for them."""

from dataclasses import dataclass
from functools import cache
from typing import Any, Dict, List, Tuple

import torch

from frostproof.strategies.operator_calls import Call, Place, tensors_in, whole

Shape = Tuple[int, ...]
ANY, POSITIVE, UNIT = "any", "positive", "unit"
RANGES = {ANY: (-2.0, 2.0), POSITIVE: (0.5, 2.0), UNIT: (-0.9, 0.9)}


@dataclass(frozen=True)
class Operator:
    """A call as code, of x0, x1, ... with these shapes; ``torch`` and ``F`` are in its scope.

    domain: where the values lie; out: it takes ``out=`` as its last argument; inplace: the code of
    its in-place variant on x0.
    """

    code: str
    shapes: Tuple[Shape, ...]
    domain: str = ANY
    out: bool = False
    inplace: str = ""


A, V, M = (2, 3), (3,), (3, 3)
IMAGE = (2, 3, 4, 4)
INDEX = "torch.tensor([[0, 1, 1], [1, 0, 1]], device=x0.device)"
ROWS = "torch.tensor([1, 0, 1], device=x0.device)"
MASK = "torch.tensor([[True, False, True], [False, True, True]], device=x0.device)"


def _unary(names: str, domain: str, out: bool = True) -> Dict[str, Operator]:
    return {
        name: Operator(f"torch.{name}(x0)", (A,), domain, out, f"x0.{name}_()" if out else "")
        for name in names.split()
    }


def _binary(names: str, domain: str = ANY) -> Dict[str, Operator]:
    found = {}
    for name in names.split():
        code = f"torch.{name}(x0, x1)"
        found[name] = Operator(code, (A, A), domain, True, f"x0.{name}_(x1)")
        found[f"{name}.row"] = Operator(code, (A, V), domain, True, f"x0.{name}_(x1)")
    return found


def _shaped(codes: Dict[str, str], *shapes: Shape, domain: str = ANY) -> Dict[str, Operator]:
    return {name: Operator(code, shapes, domain) for name, code in codes.items()}


OPERATORS: Dict[str, Operator] = {
    **_unary("neg abs exp sin cos tanh sigmoid erf square floor round sign", ANY),
    **_unary("log sqrt rsqrt reciprocal log1p", POSITIVE),
    **_unary("asin atanh expm1", UNIT),
    **_binary("add sub mul atan2"),
    **_binary("div pow hypot", POSITIVE),
    **_shaped(
        {
            "add.alpha": "torch.add(x0, x1, alpha=2)",
            "rsub": "torch.rsub(x0, x1)",
            "maximum": "torch.maximum(x0, x1)",
            "minimum": "torch.minimum(x0, x1)",
            "logaddexp": "torch.logaddexp(x0, x1)",
            "where": f"torch.where({MASK}, x0, x1)",
            "mse_loss": "F.mse_loss(x0, x1)",
            "l1_loss": "F.l1_loss(x0, x1, reduction='none')",
            "smooth_l1_loss": "F.smooth_l1_loss(x0, x1)",
            "huber_loss": "F.huber_loss(x0, x1)",
            "binary_cross_entropy_with_logits": "F.binary_cross_entropy_with_logits(x0, x1)",
            "kl_div": "F.kl_div(x0, x1, reduction='sum', log_target=True)",
            "cosine_similarity": "F.cosine_similarity(x0, x1)",
            "pairwise_distance": "F.pairwise_distance(x0, x1)",
            "cdist": "torch.cdist(x0, x1)",
            "cat": "torch.cat((x0, x1))",
            "stack": "torch.stack((x0, x1), 1)",
            "cross": "torch.cross(x0, x1, dim=1)",
            "masked_scatter": f"torch.masked_scatter(x0, {MASK}, x1)",
            "scatter": f"torch.scatter(x0, 1, {INDEX}[:, :1], x1)",
            "scatter_add": f"torch.scatter_add(x0, 1, {INDEX}, x1)",
            "index_copy": "torch.index_copy(x0, 0, torch.tensor([1, 0], device=x0.device), x1)",
            "index_put": "torch.index_put(x0, (torch.tensor([1, 0], device=x0.device),), x1)",
            "kron": "torch.kron(x0, x1)",
            "linear": "F.linear(x0, x1)",
            "inner": "torch.inner(x0, x1)",
            "tensordot": "torch.tensordot(x0, x1)",
        },
        A,
        A,
    ),
    **_shaped(
        {
            "lerp": "torch.lerp(x0, x1, x2)",
            "addcmul": "torch.addcmul(x0, x1, x2, value=0.5)",
            "addcdiv": "torch.addcdiv(x0, x1, x2, value=0.5)",
        },
        A,
        A,
        A,
        domain=POSITIVE,
    ),
    **_shaped(
        {
            "sum": "torch.sum(x0)",
            "sum.dim": "torch.sum(x0, 1, keepdim=True)",
            "mean": "torch.mean(x0, 0)",
            "amax": "torch.amax(x0, 1)",
            "max.dim": "torch.max(x0, 1)[0]",
            "min": "torch.min(x0)",
            "var": "torch.var(x0, 1)",
            "std": "torch.std(x0)",
            "prod": "torch.prod(x0, 1)",
            "logsumexp": "torch.logsumexp(x0, 1)",
            "cumsum": "torch.cumsum(x0, 1)",
            "cumprod": "torch.cumprod(x0, 1)",
            "norm": "torch.norm(x0)",
            "softmax": "F.softmax(x0, 1)",
            "log_softmax": "F.log_softmax(x0, 1)",
            "sort": "torch.sort(x0, 1)[0]",
            "topk": "torch.topk(x0, 2, 1)[0]",
            "relu": "F.relu(x0)",
            "gelu": "F.gelu(x0)",
            "silu": "F.silu(x0)",
            "elu": "F.elu(x0)",
            "softplus": "F.softplus(x0)",
            "leaky_relu": "F.leaky_relu(x0, 0.1)",
            "hardtanh": "F.hardtanh(x0)",
            "logsigmoid": "F.logsigmoid(x0)",
            "normalize": "F.normalize(x0)",
            "dropout": "F.dropout(x0, 0.5)",
            "clamp": "torch.clamp(x0, -1.0, 0.7)",
            "pow.scalar": "torch.pow(x0, 3)",
            "view": "x0.view(3, 2)",
            "reshape": "x0.reshape(-1)",
            "t": "x0.t()",
            "transpose": "torch.transpose(x0, 0, 1)",
            "permute": "x0.permute(1, 0)",
            "unsqueeze": "x0.unsqueeze(1)",
            "expand": "x0.expand(2, 2, 3)",
            "narrow": "x0.narrow(1, 1, 2)",
            "select": "x0.select(1, 2)",
            "index": "x0[:, ::2]",
            "chunk": "x0.chunk(2, 1)",
            "split": "x0.split(2, 1)",
            "unbind": "x0.unbind(1)",
            "diagonal": "torch.diagonal(x0)",
            "flatten": "torch.flatten(x0)",
            "unfold": "x0.unfold(1, 2, 1)",
            "clone": "x0.clone()",
            "flip": "torch.flip(x0, (1,))",
            "roll": "torch.roll(x0, 1, 1)",
            "tril": "torch.tril(x0)",
            "repeat": "x0.repeat(2, 1)",
            "pad": "F.pad(x0, (1, 1))",
            "gather": f"torch.gather(x0, 1, {INDEX})",
            "index_select": f"torch.index_select(x0, 0, {ROWS})",
            "masked_fill": f"torch.masked_fill(x0, {MASK}, 2.0)",
            "masked_select": f"torch.masked_select(x0, {MASK})",
            "embedding": f"F.embedding({ROWS}, x0)",
            "cross_entropy": "F.cross_entropy(x0, torch.tensor([2, 0], device=x0.device))",
            "nll_loss": "F.nll_loss(x0, torch.tensor([2, 0], device=x0.device))",
            "diff": "torch.diff(x0)",
            "trace": "torch.trace(x0)",
        },
        A,
    ),
    "mm": Operator("torch.mm(x0, x1)", (A, M), out=True),
    "matmul": Operator("torch.matmul(x0, x1)", (A, M), out=True),
    "matmul.vector": Operator("torch.matmul(x0, x1)", (A, V)),
    "mv": Operator("torch.mv(x0, x1)", (A, V), out=True),
    "dot": Operator("torch.dot(x0, x1)", (V, V)),
    "outer": Operator("torch.outer(x0, x1)", (V, V)),
    "bmm": Operator("torch.bmm(x0, x1)", ((2, 2, 3), (2, 3, 2)), out=True),
    "addmm": Operator("torch.addmm(x0, x1, x2)", (A, A, M), out=True),
    "addmm.row": Operator("torch.addmm(x0, x1, x2, beta=0.5)", (V, A, M)),
    "baddbmm": Operator("torch.baddbmm(x0, x1, x2)", ((2, 2, 2), (2, 2, 3), (2, 3, 2))),
    "linear.bias": Operator("F.linear(x0, x1, x2)", (A, M, V)),
    "bilinear": Operator("F.bilinear(x0, x1, x2)", (A, A, (2, 3, 3))),
    "einsum": Operator("torch.einsum('ij,jk->ik', x0, x1)", (A, M)),
    "conv1d": Operator("F.conv1d(x0, x1, x2)", ((2, 3, 5), (2, 3, 2), (2,))),
    "conv2d": Operator("F.conv2d(x0, x1, x2)", (IMAGE, (2, 3, 2, 2), (2,))),
    "conv_transpose2d": Operator("F.conv_transpose2d(x0, x1, x2)", (IMAGE, (3, 2, 2, 2), (2,))),
    "layer_norm": Operator("F.layer_norm(x0, (3,), x1, x2)", (A, V, V)),
    "group_norm": Operator("F.group_norm(x0, 3, x1, x2)", ((2, 3, 4), V, V)),
    "batch_norm": Operator("F.batch_norm(x0, None, None, x1, x2, training=True)", ((4, 3), V, V)),
    "prelu": Operator("F.prelu(x0, x1)", (A, V)),
    "max_pool2d": Operator("F.max_pool2d(x0, 2)", (IMAGE,)),
    "avg_pool2d": Operator("F.avg_pool2d(x0, 2)", (IMAGE,)),
    "interpolate": Operator("F.interpolate(x0, scale_factor=2.0)", (IMAGE,)),
    "glu": Operator("F.glu(x0)", ((2, 4),)),
    "scaled_dot_product_attention": Operator(
        "F.scaled_dot_product_attention(x0, x1, x2)", ((2, 3, 4), (2, 3, 4), (2, 3, 4))
    ),
    "det": Operator("torch.det(x0 + 3 * torch.eye(3, dtype=x0.dtype, device=x0.device))", (M,)),
    "inverse": Operator("torch.inverse(x0 + 5 * torch.eye(3, dtype=x0.dtype, device=x0.device))", (M,)),
    "cholesky": Operator(
        "torch.linalg.cholesky(x0 @ x0.mH + 9 * torch.eye(3, dtype=x0.dtype, device=x0.device))", (M,)
    ),
}
ABSENT = (
    "not implemented for",
    "has no attribute",
    "not support",
    "only supports",
    "expected floating",
    "expected common dtype",
    "not intended to support",
    "unsupported",
)


def call(name: str, device: str, dtype: torch.dtype, transform: str = "plain", seed: int = 0) -> Call:
    """The call of one operator; its values are drawn on the CPU from the seed alone."""
    operator = OPERATORS[name]
    low, high = RANGES[operator.domain]
    generator = torch.Generator()
    generator.manual_seed(seed)
    values = []
    for shape in operator.shapes:
        parts = [
            torch.rand(shape, generator=generator, dtype=torch.float64) * (high - low) + low
            for _ in range(2 if dtype.is_complex else 1)
        ]
        drawn = torch.complex(*parts) if dtype.is_complex else parts[0]
        values.append(drawn.to(device, dtype))
    names = [f"x{number}" for number in range(len(values))]

    def function(code: str) -> Any:
        compiled = _compiled(code)

        def run(*given: torch.Tensor, **named: Any) -> Any:
            scope = {"torch": torch, "F": torch.nn.functional, **dict(zip(names, given)), **named}
            return eval(compiled, scope)

        return run

    places = tuple(Place(number, True) for number in range(len(values)))
    made = Call(
        function(operator.code), places, {}, values, [], operator.code, source="table", sample=seed
    )
    if operator.out:
        plain, given = function(operator.code), function(f"{operator.code[:-1]}, out=out)")
        made.out = lambda *leaves, **named: (given if named else plain)(*leaves, **named)
    made.inplace = function(operator.inplace) if operator.inplace else None
    if transform == "whole":
        low, high = {ANY: (-2, 2), POSITIVE: (1, 3), UNIT: (0, 0)}[operator.domain]
        made = whole(made, low, high)
    return made


@cache
def _compiled(code: str) -> Any:
    return compile(code, "<operator>", "eval")


@cache
def offered(device: str, dtype: torch.dtype) -> Tuple[Tuple[str, ...], Dict[str, str]]:
    """(names that this torch runs forward and backward in a dtype, what it says of the others)."""
    names: List[str] = []
    absent: Dict[str, str] = {}
    for name in OPERATORS:
        made = call(name, device, dtype)
        try:
            outputs = [one for one in tensors_in(made(made.leaves())) if one.requires_grad]
            sum(one.abs().sum() for one in outputs).backward()  # type: ignore[union-attr]
        except (RuntimeError, AttributeError, TypeError, ValueError) as problem:
            said = str(problem)
            if isinstance(problem, (AttributeError, NotImplementedError)) or any(
                word in said.lower() for word in ABSENT
            ):
                absent[name] = said.split("\n")[0][:100]
                continue
        names.append(name)
    return tuple(names), absent
