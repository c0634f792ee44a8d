"""The program in plain torch that shows what a law on one operator has seen."""

from typing import Dict, List

import torch

from frostproof.properties.harness.hunting.source import Fact
from frostproof.properties.harness.operators.comparison import bound
from frostproof.strategies.operator_code import function_code, literal
from frostproof.strategies.operators import OperatorCase

HEAD = """
import sys
import warnings
from math import inf, nan

import torch

warnings.simplefilter("ignore")
FROZEN = {frozen}
ROOM = {room}  # what is rounding, relative to the largest element; 0 where the bits must agree


def tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    value = list(value.values()) if isinstance(value, dict) else value
    parts = value if isinstance(value, (tuple, list)) else ()
    return [one for part in parts for one in tensors(part)]


def leaves(frozen=()):
    made = [{values}]
    return [one.requires_grad_(number not in frozen) for number, one in enumerate(made)]


"""
COMMON = """
def weights(outputs):
    made = []
    for place, one in enumerate(outputs):
        values = torch.arange(one.numel(), dtype=torch.float64)
        values = (values * 7 + 3 + place).remainder(11).sub(5.5).div(4).reshape(one.shape)
        if one.is_complex():
            values = torch.complex(values, values.flip(0) if values.dim() else values)
        made.append(values.to(one.dtype))
    return made


def gradients(outputs, x, **options):
    pairs = [(outputs[place], weight) for place, weight in zip(LEARNS, WEIGHTS)]
    pairs = [(one, weight) for one, weight in pairs if one.requires_grad]
    live = [one for one in x if one.requires_grad]
    if not pairs or not live:
        return [None] * len(x)
    torch.manual_seed(1)
    ends, given = zip(*pairs)
    found = iter(torch.autograd.grad(ends, live, given, allow_unused=True, **options))
    return [next(found) if one.requires_grad else None for one in x]


def wide(one):
    one = one.detach().to_dense() if one.layout is not torch.strided else one.detach().clone()
    one = torch.view_as_real(one.resolve_conj()) if one.is_complex() else one
    return one.to(torch.float64)


def differ(one, two):
    if one is None or two is None:
        return any(each is not None and bool((wide(each) != 0).any()) for each in (one, two))
    if one.shape != two.shape or one.dtype != two.dtype:
        return True
    one, two = wide(one), wide(two)
    good = torch.isfinite(two)
    if not torch.equal(torch.isfinite(one), good):
        return True
    if not torch.equal(torch.nan_to_num(one[~good]), torch.nan_to_num(two[~good])):
        return True
    one, two = one[good], two[good]
    return one.numel() > 0 and float((one - two).abs().max()) > ROOM * float(two.abs().max())


def check(what, one, two):
    if differ(one, two):
        sys.exit(f"{what}: {one}\\nnot: {two}")


x = leaves()
expected = call(x)
LEARNS = [place for place, one in enumerate(expected) if one.requires_grad]
WEIGHTS = weights([expected[place] for place in LEARNS])
slopes = gradients(expected, x)
"""
ROUTE = """
{route}
for number, (one, two) in enumerate(zip(outputs, expected)):
    check(f"output {{number}}", one, two)
for number, (one, two) in enumerate(zip(found, slopes)):
    if number not in FROZEN:
        check(f"gradient of x{{number}}", one, two)
"""
AGAIN = """
for scale in (1, 2):
    x, partner = leaves(), {partner}
    for _ in range(2):
        outputs = call(x)
        {beside}
        ends = [outputs[place] * scale if scale > 1 else outputs[place] for place in LEARNS]
        torch.manual_seed(1)
        torch.autograd.backward(ends, [one / scale for one in WEIGHTS])
    for number, (leaf, slope) in enumerate(zip(x, slopes)):
        check(f"gradient of x{{number}} after two passes", leaf.grad, slope and slope + slope)
""".replace("slope and slope + slope", "None if slope is None else slope + slope")
# The gradients by another route, which must be those of the plain one.
ROUTES: Dict[str, str] = {
    "frozen_neighbours": "x = leaves(FROZEN)\noutputs = call(x)\nfound = gradients(outputs, x)",
    "detached": "x = leaves()\n"
    "outputs = call([one.detach() if number in FROZEN else one for number, one in enumerate(x)])\n"
    "found = gradients(outputs, x)",
    "cloned": "x = leaves()\noutputs = call([one.{cloned} for one in x])\n"
    "found = gradients(outputs, x)",
    "layouts": "x = []\nfor one in leaves():\n"
    "    with_gaps = torch.zeros((*one.shape, 2), dtype=one.dtype)\n"
    "    with_gaps[..., 0] = one.detach()\n    x.append(with_gaps[..., 0].requires_grad_())\n"
    "outputs = call(x)\nfound = gradients(outputs, x)",
    "without_grad": "with torch.no_grad():\n    outputs = call(leaves())\nfound = slopes",
    "copying_hooks": "x = leaves()\n"
    "with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach().clone(), lambda t: t):\n"
    "    outputs = call(x)\nfound = gradients(outputs, x)",
    "checkpointed": "from torch.utils.checkpoint import checkpoint\n\nx = leaves()\n"
    "outputs = checkpoint(lambda *x: tuple(call(list(x))), *x, use_reentrant=False)\n"
    "found = gradients(outputs, x)",
    "graph_of_gradients": "x = leaves()\noutputs = call(x)\n"
    "found = gradients(outputs, x, create_graph=True)",
    "functional": "live = [one.requires_grad for one in expected]\n"
    "learning = lambda *x: tuple(one for one, each in zip(call(list(x)), live) if each)\n"
    "outputs, pull = torch.func.vjp(learning, *[one.detach() for one in leaves()])\n"
    "torch.manual_seed(1)\nfound = pull(tuple(WEIGHTS))\n"
    "outputs, expected = [], []",
}
BODIES: Dict[str, str] = {
    "accumulation": AGAIN.format(partner="None", beside="pass"),
    "partners": AGAIN.format(
        partner="leaves(FROZEN)",
        beside="outputs = [one + two for one, two in zip(outputs, call(partner))]",
    ),
    "inputs_stay": """
x = leaves()
before = [(one.detach().clone(), one._version) for one in x]
gradients(call(x), x)
for number, (one, (was, version)) in enumerate(zip(x, before)):
    check(f"x{number} after the call", one, was)
    one._version == version or sys.exit(f"x{number} has version {one._version}, not {version}")
""",
    "forward_mode": """
x = [one.detach() for one in leaves()]
tangents = [one.flip(0) if one.dim() else one for one in weights(x)]
learning = lambda *x: tuple(call(list(x))[place] for place in LEARNS)
for chosen in [range(len(x)), *[[number] for number in range(len(x))]]:
    def along(*some):
        given = list(x)
        for number, one in zip(chosen, some):
            given[number] = one
        return learning(*given)

    some = tuple(x[number] for number in chosen)
    outputs, ahead = torch.func.jvp(along, some, tuple(tangents[number] for number in chosen))
    terms = [wide(a) * wide(b) for a, b in zip(ahead, WEIGHTS)]
    back = [wide(slopes[n]) * wide(tangents[n]) for n in chosen if slopes[n] is not None]
    one, two = (float(sum(each.sum() for each in side)) for side in (terms, back))
    size = float(sum(each.abs().sum() for each in terms + back))
    if abs(one - two) > 4 * ROOM * max(size, 1.0):
        sys.exit(f"along a tangent of x{[*chosen]} forward mode says {one}, the gradients {two}")
""",
}


def script(case: OperatorCase, mode: str, fact: Fact, device: str, dtype: torch.dtype) -> str:
    """A program that exits with 1 where the difference shows, and with 0 where it does not."""
    call = case.build(device, dtype)
    room = 0.0 if fact.subject.endswith("rounding") else max(bound(one.dtype) for one in call.values)
    head = HEAD.format(
        frozen=case.frozen, room=room, values=", ".join(literal(one) for one in call.values)
    )
    if mode in ROUTES:
        cloned = "view_as(one)" if "viewed" in fact.subject + fact.sentence else "clone()"
        body = ROUTE.format(route=ROUTES[mode].replace("{cloned}", cloned))
    else:
        body = BODIES[mode]
    lines: List[str] = [head.strip(), "", "", *function_code(case, device, dtype)]
    program = "\n".join(lines) + "\n" + COMMON
    if fact.aspect != "raised":
        return program + body.rstrip() + "\n"
    indented = "\n".join(f"    {line}".rstrip() for line in body.strip().splitlines())
    return (
        f"{program}try:\n{indented}\nexcept Exception as problem:\n"
        '    sys.exit(f"{type(problem).__name__}: {problem}")\n'
    )
