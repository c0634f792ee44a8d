"""Single operators broken, only where an input is frozen, a view, strided, whole, or met before."""

import functools
from typing import Any, Callable, Dict, List, Sequence, Tuple

import torch

from frostproof.properties.selftest.faults.fault import fault
from frostproof.properties.selftest.faults.patching import altered, wrap
from frostproof.strategies.operator_calls import replaced, strided, tensors_in

F = torch.nn.functional
Shape = Tuple[int, ...]


def _frozen(tensors: Sequence[torch.Tensor], victim: int) -> bool:
    rest = [one for place, one in enumerate(tensors) if place != victim]
    return any(one.is_floating_point() and not one.requires_grad for one in rest)


def _view(tensors: Sequence[torch.Tensor], victim: int) -> bool:
    node = tensors[victim].grad_fn
    return node is not None and node.name().startswith(("View", "Alias"))


def _gaps(tensors: Sequence[torch.Tensor], victim: int) -> bool:
    return not tensors[victim].is_contiguous()


def _whole(tensors: Sequence[torch.Tensor], victim: int) -> bool:
    one = tensors[victim].data
    return one.is_floating_point() and one.numel() > 2 and bool((one == one.round()).all())


def _again(tensors: Sequence[torch.Tensor], victim: int) -> bool:
    return tensors[victim].is_leaf and tensors[victim].grad is not None


WHEN: Dict[str, Tuple[Callable[[Sequence[torch.Tensor], int], bool], str]] = {
    "frozen": (_frozen, "another input is frozen"),
    "view": (_view, "it comes through a view"),
    "gaps": (_gaps, "it is not contiguous"),
    "whole": (_whole, "its values are whole numbers"),
    "again": (_again, "it has a gradient from an earlier pass"),
}


def _values(shapes: Sequence[Shape], whole: bool) -> List[torch.Tensor]:
    made = []
    for number, shape in enumerate(shapes):
        count = int(torch.Size(shape).numel())
        waves = torch.arange(1 + number, count + 1 + number, dtype=torch.float64).mul(1.7).sin()
        made.append(((waves * 3).round() if whole else waves * 0.7 + 1.2).view(shape))
    return made


def _slope(
    call: Callable[..., Any], leaves: Sequence[torch.Tensor], given: Sequence[torch.Tensor]
) -> Any:
    torch.autograd.backward([one.sum() for one in tensors_in(call(*given))])
    return leaves


def _healthy(kind: str, call: Callable[..., Any], shapes: Sequence[Shape], victim: int) -> bool:
    """Whether the victim's gradient is the same where the condition holds as where it does not."""

    def gradient(changed: bool) -> torch.Tensor:
        values = _values(shapes, kind == "whole")
        if kind == "gaps" and changed:
            values[victim] = strided(values[victim])
        leaves = [value.requires_grad_() for value in values]
        if kind == "frozen" and changed:
            for place, leaf in enumerate(leaves):
                leaf.requires_grad_(place == victim)
        given = list(leaves)
        if kind == "view" and changed:
            given[victim] = leaves[victim].view_as(leaves[victim])
        _slope(call, leaves, given)
        if kind == "again" and changed:
            _slope(call, leaves, given)
        found = leaves[victim].grad
        assert found is not None
        return found / 2 if kind == "again" and changed else found

    if kind != "whole":
        return torch.allclose(gradient(True), gradient(False), 1e-9, 1e-12)
    values = _values(shapes, True)
    ahead = torch.func.jvp(
        lambda one: sum(
            out.sum() for out in tensors_in(call(*values[:victim], one, *values[victim + 1 :]))
        ),
        (values[victim],),
        (torch.ones_like(values[victim]),),
    )[1]
    return abs(float(gradient(True).sum()) - float(ahead)) < 1e-9


def seed(
    name: str,
    kind: str,
    owner: Any,
    function: str,
    call: Callable[..., Any],
    shapes: Sequence[Shape],
    victim: int = 0,
    smoke: bool = False,
    leaf: int = -1,
) -> None:
    """Register a fault: ``function`` doubles one input's gradient where the condition holds."""
    holds, words = WHEN[kind]

    def around(original: Any, *args: Any, **kwargs: Any) -> Any:
        tensors = tensors_in([args, kwargs])
        if len(tensors) <= victim or not tensors[victim].requires_grad or not holds(tensors, victim):
            return original(*args, **kwargs)
        chosen = tensors[victim]
        seen = altered(chosen, lambda gradient: gradient * 2)
        args, kwargs = replaced((args, kwargs), lambda one: seen if one is chosen else one)
        return original(*args, **kwargs)

    def apply() -> None:
        wrap(owner, function, around)

    apply.__name__ = name
    apply.__doc__ = f"{function} doubles the gradient of its input {victim} where {words}."
    laws = ("G1", "G2", "O1", "O3") if kind == "again" else ("O1", "O3", "F2", "F3")
    witness = functools.partial(_healthy, kind, call, shapes, victim if leaf < 0 else leaf)
    fault(*laws, witness=witness, smoke=smoke, since=(2, 1))(apply)


A, V, M = (2, 3), (3,), (3, 3)
EVEN = torch.tensor([[True, False, True], [False, True, True]])
# Those of the operators that every run tries.
seed("add_beside_a_frozen_term", "frozen", torch, "add", lambda a, b: torch.add(a, b), (A, A), 1, True)
seed("hypot_beside_a_frozen_side", "frozen", torch, "hypot", lambda a, b: torch.hypot(a, b), (A, A))
seed("mm_beside_a_frozen_factor", "frozen", torch, "mm", lambda a, b: torch.mm(a, b), (A, M), 1)
seed(
    "layer_norm_beside_a_frozen_weight",
    "frozen",
    F,
    "layer_norm",
    lambda x, w, b: F.layer_norm(x, (3,), w, b),
    (A, V, V),
    2,
)
seed(
    "masked_scatter_beside_a_frozen_side",
    "frozen",
    torch,
    "masked_scatter",
    lambda a, b: torch.masked_scatter(a, EVEN, b),
    (A, A),
    2,
    leaf=1,
)
seed(
    "lerp_beside_a_frozen_start",
    "frozen",
    torch,
    "lerp",
    lambda a, b, c: torch.lerp(a, b, c),
    (A, A, A),
    2,
)
seed("cat_beside_a_frozen_part", "frozen", torch, "cat", lambda a, b: torch.cat((a, b)), (A, A), 1)
seed(
    "cosine_beside_a_frozen_side",
    "frozen",
    F,
    "cosine_similarity",
    lambda a, b: F.cosine_similarity(a, b),
    (A, A),
)
seed(
    "addmm_beside_a_frozen_matrix",
    "frozen",
    torch,
    "addmm",
    lambda a, b, c: torch.addmm(a, b, c),
    (A, A, M),
)
seed("prelu_beside_a_frozen_weight", "frozen", F, "prelu", lambda x, w: F.prelu(x, w), (A, V))
seed("tanh_of_a_view", "view", torch, "tanh", lambda x: torch.tanh(x), (A,))
seed("softplus_of_a_view", "view", F, "softplus", lambda x: F.softplus(x), (A,))
seed("cumsum_of_a_view", "view", torch, "cumsum", lambda x: torch.cumsum(x, 1), (A,))
seed("amax_of_what_has_gaps", "gaps", torch, "amax", lambda x: torch.amax(x, 1), (A,))
seed("gelu_of_what_has_gaps", "gaps", F, "gelu", lambda x: F.gelu(x), (A,))
seed(
    "bmm_of_what_has_gaps",
    "gaps",
    torch,
    "bmm",
    lambda a, b: torch.bmm(a, b),
    ((2, 2, 3), (2, 3, 2)),
    1,
)
seed("sin_of_whole_numbers", "whole", torch, "sin", lambda x: torch.sin(x), (A,), 0, True)
seed("logsumexp_of_whole_numbers", "whole", torch, "logsumexp", lambda x: torch.logsumexp(x, 1), (A,))
seed("outer_met_again", "again", torch, "outer", lambda a, b: torch.outer(a, b), (V, V), 1)
seed("mse_loss_met_again", "again", F, "mse_loss", lambda a, b: F.mse_loss(a, b), (A, A), 0, True)
# Those of operators that only torch's database lists.
seed(
    "addr_beside_a_frozen_vector",
    "frozen",
    torch,
    "addr",
    lambda a, b, c: torch.addr(a, b, c),
    (M, V, V),
    2,
)
seed(
    "addmv_beside_a_frozen_matrix",
    "frozen",
    torch,
    "addmv",
    lambda a, b, c: torch.addmv(a, b, c),
    (V, M, V),
)
seed(
    "xlogy_beside_a_frozen_factor", "frozen", torch, "xlogy", lambda a, b: torch.xlogy(a, b), (A, A), 1
)
seed("vdot_beside_a_frozen_vector", "frozen", torch, "vdot", lambda a, b: torch.vdot(a, b), (V, V))
seed("sinc_of_a_view", "view", torch, "sinc", lambda x: torch.sinc(x), (A,))
seed("frac_of_a_view", "view", torch, "frac", lambda x: torch.frac(x), (A,))
seed("cosh_of_what_has_gaps", "gaps", torch, "cosh", lambda x: torch.cosh(x), (A,))
seed("atan_of_whole_numbers", "whole", torch, "atan", lambda x: torch.atan(x), (A,))
seed("tan_met_again", "again", torch, "tan", lambda x: torch.tan(x), (A,))
seed("log2_met_again", "again", torch, "log2", lambda x: torch.log2(x), (A,))
