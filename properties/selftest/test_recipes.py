"""Recipes: every mistake is named with its cause, and no right one gives an alarm."""

import pytest
import torch

from frostproof.properties.harness.own.examination import examine
from frostproof.properties.harness.own.findings import told
from frostproof.properties.harness.own.recipe import build
from frostproof.properties.selftest.recipes import (  # noqa: F401, they register
    averages,
    machinery,
    reported_right,
    reported_wrong,
    schedules,
    storage,
)
from frostproof.properties.selftest.recipes.mistakes import MISTAKES
from frostproof.properties.selftest.recipes.right import RIGHT

pytestmark = pytest.mark.filterwarnings("default")  # as where a user's code runs


@pytest.mark.parametrize("name", sorted(MISTAKES))
def test_a_mistake_is_named_with_its_cause(name: str) -> None:
    factory, law, words = MISTAKES[name]
    found = examine(build("--recipe", name, factory)).findings
    assert any(words in told([finding]) for finding in found if finding.law == law), told(found)


@pytest.mark.parametrize("name", sorted(RIGHT))
def test_a_right_recipe_gives_no_alarm_and_is_not_changed(name: str) -> None:
    torch.manual_seed(1)
    watched = build("--recipe", name, RIGHT[name])
    examination = examine(watched)
    assert not examination.findings, told(examination.findings)
    torch.manual_seed(1)
    alone = build("--recipe", name, RIGHT[name])
    for _ in range(examination.calls):
        alone.step()
    for one, two in zip(watched.module.parameters(), alone.module.parameters()):
        a, b = (p.to_dense() if p.is_sparse else p for p in (one, two))
        same = torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
        assert same and len(one._backward_hooks or ()) == len(two._backward_hooks or ())
