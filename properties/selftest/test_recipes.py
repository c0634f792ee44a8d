"""Recipes: every mistake is named with its cause, and no right one gives an alarm."""

import gc
from typing import Any, Callable

import pytest
import torch
from torch import nn

from frostproof.properties.harness.own import model, recipe
from frostproof.properties.harness.own.cancelled import MODE
from frostproof.properties.harness.own.examination import examine
from frostproof.properties.harness.own.findings import told
from frostproof.properties.selftest.recipes import (  # noqa: F401, they register
    averages,
    functions,
    machinery,
    neighbours_right,
    neighbours_wrong,
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
    if "cancelled in place" in words and MODE is None:
        pytest.skip("this torch has no mode that sees how .grad is set")
    found = examine(recipe.build("--recipe", name, factory)).findings
    assert any(words in told([finding]) for finding in found if finding.law == law), told(found)


@pytest.mark.parametrize("name", sorted(n for n, (_, law, _) in MISTAKES.items() if law == "R8"))
def test_what_does_not_follow_is_seen_by_one_law_alone(name: str) -> None:
    examination = examine(recipe.build("--recipe", name, MISTAKES[name][0]))
    assert {finding.law for finding in examination.findings} == {"R8"}


@pytest.mark.parametrize(
    "name", ["target_bound_to_the_online_network", "average_whose_statistics_stay_at_birth"]
)
def test_what_is_wrong_is_not_taken_to_be_meant_so(name: str) -> None:
    assert not [
        n for n in examine(recipe.build("--recipe", name, MISTAKES[name][0])).notes if "meant so" in n
    ]


@pytest.mark.parametrize("name", sorted(RIGHT))
def test_a_right_recipe_gives_no_alarm_and_is_not_changed(name: str) -> None:
    torch.manual_seed(1)
    watched = recipe.build("--recipe", name, RIGHT[name])
    examination = examine(watched)
    assert not examination.findings, told(examination.findings)
    torch.manual_seed(1)
    alone = recipe.build("--recipe", name, RIGHT[name])
    for _ in range(examination.calls):
        alone.step()
    for one, two in zip(watched.module.parameters(), alone.module.parameters()):
        a, b = (p.to_dense() if p.is_sparse else p for p in (one, two))
        same = torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
        assert same and len(one._backward_hooks or ()) == len(two._backward_hooks or ())


@pytest.mark.skipif("compiled" not in RIGHT or MODE is None, reason="this torch has no torch.compile")
def test_what_was_compiled_before_hides_nothing() -> None:
    gc.disable()  # what it left is still there
    try:
        examine(recipe.build("--recipe", "compiled", RIGHT["compiled"]))
        test_a_mistake_is_named_with_its_cause("gradients_of_the_copy_cancelled")
    finally:
        gc.enable()


class Heads(nn.Module):
    """Heads whose weights are views of one row of values."""

    def __init__(self, made: Callable[[torch.Tensor], torch.Tensor], frozen: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(made(torch.linspace(-1, 1, 16).reshape(4, 4)), not frozen)
        self.out = nn.Linear(4, 1)

    def forward(self, inputs: torch.Tensor) -> Any:
        return self.out(torch.tanh(torch.einsum("bi,hij->bj", inputs, self.weight)))


def views(kind: str) -> Callable[[torch.Tensor], torch.Tensor]:
    return {
        "expanded": lambda values: values.expand(3, 4, 4),
        "windows": lambda values: values.as_strided((3, 2, 2), (1, 1, 1)),
        "copied": lambda values: values.expand(3, 4, 4).clone(),
        "expanded by 1": lambda values: values.expand(1, 4, 4),
        "columns": lambda values: values[:, :2].expand(1, 4, 2),  # gaps, but nothing twice
    }[kind]


def never() -> None:
    raise AssertionError("it stepped")


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("kind", ["expanded", "windows"])
def test_elements_that_share_memory_are_refused_by_name(kind: str, frozen: bool) -> None:
    said = r"several elements of a parameter share one memory.*weight \(shape \(3, .*clone\(\)"
    with pytest.raises(pytest.UsageError, match=said):
        recipe.build("--recipe", kind, lambda: (Heads(views(kind), frozen), never))
    with pytest.raises(pytest.UsageError, match=said):
        model.build("--model", kind, lambda: (Heads(views(kind), frozen), torch.ones(5, 4)))


@pytest.mark.parametrize("kind", ["copied", "expanded by 1", "columns"])
def test_elements_that_lie_apart_are_not_refused(kind: str) -> None:
    assert recipe.build("--recipe", kind, lambda: (Heads(views(kind), False), never))
