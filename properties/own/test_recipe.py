"""A user's own training recipe (--recipe): what is frozen stays, what trains trains."""

import pytest

from frostproof.properties.harness.core.checks import check
from frostproof.properties.harness.core.law import law
from frostproof.properties.harness.core.options import value
from frostproof.properties.harness.own.examination import Examination, examine
from frostproof.properties.harness.own.findings import told
from frostproof.properties.harness.own.recipe import Recipe
from frostproof.properties.harness.session.state import of

SOURCE = "the recipe's own steps"


@pytest.fixture(scope="session")
def examination(request: pytest.FixtureRequest) -> Examination:
    """The recipe's steps, run once for all laws."""
    recipe: Recipe = of(request.config).own.of("recipe", request)
    return examine(recipe, value(request.config, "steps"))


def judge(examination: Examination, ident: str) -> None:
    """Fail with everything that was found against one law; of a step that raised, R7 tells all."""
    __tracebackhide__ = True
    findings = [finding for finding in examination.findings if finding.law == ident]
    if examination.failed and ident != "R7":
        pytest.skip("not judged: the step raised, see R7")
    if examination.failed:
        others = [finding for finding in examination.findings if finding.law != ident]
        before = f"\nfound before that:\n{told(others)}" if others else ""
        check(False, f"{told(findings)}{before}\n{examination.frames}")
    check(not findings, told(findings))


@law("R7", SOURCE)
def test_step_runs(examination: Examination) -> None:
    """R7: the recipe's step runs."""
    judge(examination, "R7")


@law("R5", SOURCE)
def test_frozen_as_it_seems(examination: Examination) -> None:
    """R5: the model is frozen as it seems to be."""
    judge(examination, "R5")


@law("R1", SOURCE)
def test_frozen_parameters_stay(examination: Examination) -> None:
    """R1: a frozen parameter keeps its bits through the recipe's own steps."""
    judge(examination, "R1")


@law("R2", SOURCE)
def test_buffers_of_frozen_modules_stay(examination: Examination) -> None:
    """R2: the buffers of a frozen module keep their bits."""
    judge(examination, "R2")


@law("R3", SOURCE)
def test_trainable_parameters_train(examination: Examination) -> None:
    """R3: every trainable parameter gets a gradient and moves."""
    judge(examination, "R3")


@law("R4", SOURCE)
def test_kept_tensors_stay(examination: Examination) -> None:
    """R4: what is to be kept neither moves nor gets gradients."""
    judge(examination, "R4")


@law("R6", SOURCE)
def test_all_stays_finite(examination: Examination) -> None:
    """R6: parameters, gradients and loss stay finite."""
    judge(examination, "R6")


@law("R8", SOURCE)
def test_followers_follow(examination: Examination) -> None:
    """R8: what follows as an average or a copy follows whole."""
    judge(examination, "R8")
