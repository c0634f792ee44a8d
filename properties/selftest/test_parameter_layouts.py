"""Layouts of parameters: all are drawn, they shrink, they fit, and what is written beside is seen."""

from typing import Set

import pytest
import torch
from hypothesis import find, given, settings

from frostproof.properties.harness.core.checks import LawBroken
from frostproof.properties.harness.core.layout import overlaps
from frostproof.properties.harness.running.parameter_memory import StorageRun
from frostproof.strategies import OptimizerSpec
from frostproof.strategies.parameter_layouts import (
    FAMILIES,
    FILLED,
    GRADIENTS,
    GUARD,
    OVERLAPPING,
    PARAMETER_LAYOUTS,
    WITH_GAPS,
    ParameterLayout,
    parameter_layouts,
    small_layouts,
)

ALL = settings(database=None, max_examples=2000)
SGD = OptimizerSpec("SGD", (("lr", 0.1),))


def elements(layout: ParameterLayout, frozen: bool) -> Set[int]:
    """Places in the guarded storage of the parameters that are frozen, or are not."""
    numbers = torch.arange(layout.elements() + 2 * GUARD)
    return {
        number
        for place in layout.places()
        if place.frozen == frozen
        for number in place.view(numbers, GUARD).flatten().tolist()
    }


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("kind", list(PARAMETER_LAYOUTS))
def test_every_layout_is_drawn(kind: str, gradient: str) -> None:
    found = find(
        parameter_layouts(), lambda made: (made.kind, made.gradient) == (kind, gradient), settings=ALL
    )
    assert (found.rows, found.columns, found.seed) == (1, 1, 0)


def test_a_layout_shrinks_to_one_dense_element() -> None:
    smallest = find(parameter_layouts(), lambda made: True, settings=ALL)
    assert smallest == ParameterLayout("dense", 1, 1, "like", 0)
    large = find(parameter_layouts(), lambda made: made.rows * made.columns >= 20, settings=ALL)
    assert (large.kind, large.gradient, large.seed) == ("dense", "like", 0)
    assert large.rows * large.columns <= 24


@given(layout=parameter_layouts())
def test_a_layout_evaluates_back_and_builds_the_same(layout: ParameterLayout) -> None:
    assert eval(repr(layout)) == layout
    one, two = (layout.storage("cpu", torch.float64) for _ in range(2))
    assert torch.equal(one, two)
    assert float(one.abs().min()) > 0.05  # a step that is left out is seen


@given(layout=parameter_layouts())
def test_places_lie_within_the_guards(layout: ParameterLayout) -> None:
    live, frozen = elements(layout, False), elements(layout, True)
    inside = range(GUARD, GUARD + layout.elements())
    assert live
    assert live | frozen <= {*inside}
    if layout.kind not in OVERLAPPING:
        assert not live & frozen
        assert not any(
            overlaps(each) for each in layout.parameters(layout.storage("cpu", torch.float32))
        )
    if layout.kind in FILLED:
        assert live | frozen == {*inside}


def test_kinds_are_what_they_are_called() -> None:
    assert {*FILLED, *WITH_GAPS, *OVERLAPPING} == {*PARAMETER_LAYOUTS}
    for layout in small_layouts(OVERLAPPING):
        assert any(overlaps(each) for each in layout.parameters(layout.storage("cpu", torch.float32)))
    for layout in small_layouts(WITH_GAPS):
        if min(layout.rows, layout.columns) > 1:
            assert not layout.parameters(layout.storage("cpu", torch.float32))[0].is_contiguous()
    assert all(
        {*kinds} <= {*PARAMETER_LAYOUTS} and {*gradients} <= {*GRADIENTS}
        for kinds, gradients in FAMILIES.values()
    )


@given(layout=parameter_layouts())
def test_the_code_of_a_layout_has_its_parameters(layout: ParameterLayout) -> None:
    space = {"torch": torch}
    exec(layout.code(), space)
    built = layout.parameters(layout.storage("cpu", torch.float32))
    for number, parameter in enumerate(built):
        written: torch.Tensor = space[f"p{number}"]  # type: ignore[assignment]
        facts = [(each.shape, each.stride(), each.requires_grad) for each in (written, parameter)]
        assert facts[0] == facts[1]
        assert written.storage_offset() + GUARD == parameter.storage_offset() or not parameter.numel()


@given(layout=parameter_layouts())
def test_gradients_are_laid_out_as_said(layout: ParameterLayout) -> None:
    parameter = layout.parameters(layout.storage("cpu", torch.float32))[0]
    made = layout.gradient_for(parameter, layout.generator())
    assert made.shape == parameter.shape
    if layout.gradient == "like" and layout.kind not in OVERLAPPING and made.numel() > 1:
        assert made.stride() == parameter.stride()
    if layout.gradient == "row-major":
        assert made.is_contiguous()
    if layout.gradient == "expanded" and made.dim() and made.shape[0] > 1:
        assert made.stride(0) == 0


class Writes:
    """An optimizer's step that writes one element of the storage as well."""

    def __init__(self, run: StorageRun, place: int) -> None:
        self.run, self.place, self.inner = run, place, run.optimizer.step

    def step(self) -> None:
        self.inner()
        with torch.no_grad():
            self.run.storage[self.place] += 1e-3


BESIDE = {
    "the first guard": lambda layout: 0,
    "before the first element": lambda layout: GUARD - 1,
    "after the last element": lambda layout: GUARD + layout.elements(),
    "the last guard": lambda layout: layout.elements() + 2 * GUARD - 1,
}


@pytest.mark.parametrize("where", list(BESIDE))
@pytest.mark.parametrize("kind", [kind for kind in PARAMETER_LAYOUTS if kind not in OVERLAPPING])
def test_a_write_outside_is_seen(kind: str, where: str) -> None:
    layout = ParameterLayout(kind, 3, 2)
    assert StorageRun(layout, SGD, "cpu", torch.float32).step() is None
    run = StorageRun(layout, SGD, "cpu", torch.float32)
    run.optimizer.step = Writes(run, BESIDE[where](layout)).step  # type: ignore[method-assign, assignment]
    with pytest.raises(LawBroken, match="beside the parameters"):
        run.step()


@pytest.mark.parametrize("kind", [kind for kind in PARAMETER_LAYOUTS if kind not in OVERLAPPING])
def test_a_write_to_what_is_frozen_or_between_is_seen(kind: str) -> None:
    layout = ParameterLayout(kind, 3, 2)
    live = elements(layout, False)
    beside = [each for each in range(GUARD, GUARD + layout.elements()) if each not in live]
    for place in beside:
        run = StorageRun(layout, SGD, "cpu", torch.float32)
        run.optimizer.step = Writes(run, place).step  # type: ignore[method-assign, assignment]
        with pytest.raises(LawBroken, match="beside the parameters"):
            run.step()
    assert beside or kind in (*FILLED, "two columns")


def test_what_is_refused_after_a_write_is_seen() -> None:
    run = StorageRun(ParameterLayout("expanded", 2, 2), SGD, "cpu", torch.float32)
    inner = run.optimizer.step

    def step() -> None:
        with torch.no_grad():
            run.storage[GUARD] += 1e-3
        inner()

    run.optimizer.step = step  # type: ignore[method-assign, assignment]
    with pytest.raises(LawBroken, match="refused"):
        run.step()


@pytest.mark.parametrize("kind", [kind for kind in PARAMETER_LAYOUTS if kind not in OVERLAPPING])
def test_an_element_left_out_is_seen(kind: str) -> None:
    layout = ParameterLayout(kind, 3, 2)
    for place in sorted(elements(layout, False)):
        run = StorageRun(layout, SGD, "cpu", torch.float32)
        kept, inner = float(run.storage[place]), run.optimizer.step

        def step(run: StorageRun = run, inner=inner, place: int = place, kept: float = kept) -> None:  # type: ignore[no-untyped-def]
            inner()
            with torch.no_grad():
                run.storage[place] = kept

        run.optimizer.step = step  # type: ignore[method-assign, assignment]
        with pytest.raises(LawBroken, match="parameter"):
            run.step()
