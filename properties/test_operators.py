"""Every operator: a frozen neighbour changes nothing, and every route leads to one gradient.

Common operators are enumerated in every run, without anything but torch. Torch's own database of
operators is read where it is there: some of it in each run, by seed, and all of it in nightly runs.
"""

import sys
from typing import Any, Dict, List, Tuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from frostproof.properties.harness.core.checks import check, count_cases, fail
from frostproof.properties.harness.core.law import DIFFERENTIABLE, PRECISE, law, part
from frostproof.properties.harness.defects.operators import DEFECTS, OperatorDefect
from frostproof.properties.harness.operators.coverage import DTYPES, PARTS, noted
from frostproof.properties.harness.operators.passes import Found, try_call, try_database
from frostproof.properties.harness.operators.reasons import applying
from frostproof.properties.harness.operators.verdict import judge
from frostproof.properties.harness.session.evidence import Current
from frostproof.strategies import operator_database, operator_table
from frostproof.strategies.capabilities import NotOffered
from frostproof.strategies.operators import OperatorCase, names_of, operators

SAMPLED, MOST = 16, 4  # operators of a run that is not nightly, and samples of each
SAMPLES = 12  # of each operator in a nightly run


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The parts of the database: one small one by seed, or all of it in each dtype."""
    if "portion" not in metafunc.fixturenames:
        return
    profile = metafunc.config.getoption("--hypothesis-profile")
    asked = metafunc.config.getoption("--dtype") or DTYPES
    portions: List[Tuple[str, int]] = [("", 0)]
    if profile == "nightly":
        portions = [(dtype, number) for dtype in DTYPES if dtype in asked for number in range(PARTS)]
    metafunc.parametrize(
        "portion",
        portions,
        ids=[f"{dtype}-part{number + 1}of{PARTS}" if dtype else "sample" for dtype, number in portions],
    )


@law("O1 O2 O3 O4 G1 G2", "PyTorch notes, Autograd mechanics; torch.func; out=", PRECISE)
@pytest.mark.parametrize("transform", ["plain", "whole"])
def test_common_operators(device: str, dtype: torch.dtype, transform: str) -> None:
    """O1 O2 O3 O4 G1 G2: common operators, whatever is frozen, by every route."""
    found = Found()
    for name in names_of("table", device, dtype):
        call = operator_table.call(name, device, dtype, transform, seed=Current.seed % 997)
        try_call(found, name, call, dtype, device=device, transform=transform)
    count_cases(found.calls)
    judge(found)


@law("O1 O2 O3 O4 G1 G2", "PyTorch notes, Autograd mechanics; torch.func; out=", DIFFERENTIABLE)
@part(6, least=10)
@given(data=st.data())
def test_drawn_operators(device: str, dtype: torch.dtype, data: st.DataObject) -> None:
    """O1 O2 O3 O4 G1 G2: of one operator, with one mask, on values of all kinds."""
    case: OperatorCase = data.draw(operators(device=device, dtype=dtype))
    found = Found()
    try_call(
        found,
        case.operator,
        case.build(device, dtype),
        dtype,
        device=device,
        transform=case.transform,
        masks=[case.frozen] if case.frozen else (),
    )
    judge(found)


@law("O1 O2 O3 O4 G1 G2", "torch.testing._internal: torch's own list of its operators", DIFFERENTIABLE)
def test_database(device: str, portion: Tuple[str, int], record_property: Any) -> None:
    """O1 O2 O3 O4 G1 G2: of all operators that torch lists for its own tests."""
    if operator_database.problem():
        raise NotOffered(operator_database.problem())
    kind, number = portion
    dtype = getattr(torch, kind or DTYPES[Current.seed % len(DTYPES)])
    names = operator_database.operators(device, dtype)
    found = Found()
    if kind:
        chosen, most, ties = names[number::PARTS], SAMPLES, 1
    else:
        start = Current.seed % len(names)
        chosen, most, ties = [*names[start:], *names[:start]][:: max(1, len(names) // SAMPLED)], MOST, 1
        chosen = chosen[:SAMPLED]
    try_database(found, chosen, device, dtype, most, ties)
    where = f"{kind}-part{number + 1}of{PARTS}" if kind else ""
    name = str(dtype).rpartition(".")[2]
    for key, said in noted(found.operators, len(names), name, where).items():
        record_property(key, said)
    count_cases(found.calls)
    check(found.calls > 0, f"no operator of the database ran in {name}")
    judge(found)


@law("O1 O2 O3 O4 G1 G2", "see the row", "float32")
@pytest.mark.parametrize("row", DEFECTS, ids=lambda row: row.name)
def test_known_defects_of_operators(device: str, dtype: torch.dtype, row: OperatorDefect) -> None:
    """O1 O2 O3 O4 G1 G2: the program of each known defect."""
    scope: Dict[str, Any] = {"torch": torch, "sys": sys}
    with operator_database.quiet():
        try:
            exec(compile(row.program, row.name, "exec"), scope)
        except SystemExit as ended:
            if ended.code:
                fail(str(ended.code))
        except (AttributeError, TypeError, RuntimeError) as absent:
            if row in applying():
                raise
            raise NotOffered(f"what the program of {row.name} uses") from absent
    check(True, row.sentence)
