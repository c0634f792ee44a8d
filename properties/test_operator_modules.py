"""Every module: a frozen parameter or input changes nothing else, in train and in eval mode.

Torch's own list of modules is read where it is there: each module once in every run, with a
sample and masks by seed, and all samples with many masks in nightly runs.
"""

from typing import Any, List

import pytest
import torch

from frostproof.properties.harness.core.checks import check, count_cases
from frostproof.properties.harness.core.law import DIFFERENTIABLE, law
from frostproof.properties.harness.operators.coverage import DTYPES, MODULES, noted
from frostproof.properties.harness.operators.passes import Found, try_modules
from frostproof.properties.harness.operators.verdict import judge
from frostproof.properties.harness.session.evidence import Current
from frostproof.strategies import operator_modules
from frostproof.strategies.capabilities import NotOffered

SAMPLES, MASKS, FEW = 12, 16, 4  # of a module, and of a sample, in nightly runs; of a sample else
SAMPLED = ("float64", "float32")  # of which a run takes one by seed


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The whole database in each dtype, or a sample of each module."""
    nightly = metafunc.config.getoption("--hypothesis-profile") == "nightly"
    asked = metafunc.config.getoption("--dtype") or DTYPES
    kinds: List[str] = [dtype for dtype in DTYPES if dtype in asked] if nightly else [""]
    metafunc.parametrize("kind", kinds, ids=[kind or "sample" for kind in kinds])


@law("O1 O2 O4 G1 G2", "torch.testing._internal: torch's own list of its modules", DIFFERENTIABLE)
def test_modules_of_the_database(device: str, kind: str, record_property: Any) -> None:
    """O1 O2 O4 G1 G2: of all modules that torch lists for its own tests, whatever is frozen."""
    if operator_modules.problem():
        raise NotOffered(operator_modules.problem())
    name = kind or SAMPLED[Current.seed % len(SAMPLED)]
    dtype = getattr(torch, name)
    names = operator_modules.modules(device, dtype)
    found = Found()
    if kind:
        try_modules(found, names, device, dtype, most=SAMPLES, masks=MASKS)
    else:
        try_modules(found, names, device, dtype, most=1, masks=FEW, seed=Current.seed)
    where = f"{kind}-{MODULES}" if kind else ""
    for key, said in noted(found.operators, len(names), name, where, MODULES).items():
        record_property(key, said)
    count_cases(found.calls)
    check(found.calls > 0, f"no module of the database ran in {name}")
    judge(found)
