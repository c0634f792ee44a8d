"""The program in plain torch that shows what a law on one operator has seen."""

from typing import List

import torch

from frostproof.properties.harness.hunting.source import Fact
from frostproof.properties.harness.operators.bodies import BODIES, ROUTE, ROUTES, VARIANTS
from frostproof.properties.harness.operators.comparison import bound
from frostproof.strategies.operator_code import function_code, literal
from frostproof.strategies.operators import OperatorCase

HEAD = """
import sys
import warnings
from math import inf, nan

import torch
import torch.nn.functional as F

warnings.simplefilter("ignore")
FROZEN = {frozen}
TOLERANCE = {tolerance}  # relative to the largest element; 0 where the bits must agree


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
    return one.numel() > 0 and float((one - two).abs().max()) > TOLERANCE * float(two.abs().max())


def check(what, one, two):
    if differ(one, two):
        sys.exit(f"{what}: {one}\\nnot: {two}")


x = leaves()
expected = call(x)
LEARNS = [place for place, one in enumerate(expected) if one.requires_grad]
WEIGHTS = weights([expected[place] for place in LEARNS])
slopes = gradients(expected, x)
"""


def script(case: OperatorCase, mode: str, fact: Fact, device: str, dtype: torch.dtype) -> str:
    """A program that exits with 1 where the difference shows, and with 0 where it does not."""
    call = case.build(device, dtype)
    tolerance = (
        0.0 if fact.subject.endswith("rounding") else max(bound(one.dtype) for one in call.values)
    )
    head = HEAD.format(
        frozen=case.frozen, tolerance=tolerance, values=", ".join(literal(one) for one in call.values)
    )
    if mode in ROUTES:
        cloned = "view_as(one)" if "viewed" in fact.subject + fact.sentence else "clone()"
        body = ROUTE.format(route=ROUTES[mode].replace("{cloned}", cloned))
    else:
        body = BODIES[mode]
    variant = VARIANTS.get(mode, "")
    lines: List[str] = [head.strip(), "", "", *function_code(case, device, dtype, variant)]
    if variant == "change":
        lines += [f"FIRST = {call.arguments[0].number}  # the input that is written to"]
    program = "\n".join(lines) + "\n" + COMMON
    if fact.aspect != "raised":
        return program + body.rstrip() + "\n"
    indented = "\n".join(f"    {line}".rstrip() for line in body.strip().splitlines())
    return (
        f"{program}try:\n{indented}\nexcept Exception as problem:\n"
        '    sys.exit(f"{type(problem).__name__}: {problem}")\n'
    )
