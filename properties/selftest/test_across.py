"""The laws across devices and ways, where this machine has only one device."""

from typing import Any

import pytest
import torch

from frostproof.properties import test_across
from frostproof.properties.harness.core.checks import LawBroken
from frostproof.properties.harness.running.call_modes import (
    COMPILES,
    can_compile,
    can_transform,
    way_of,
    ways,
)
from frostproof.properties.harness.running.trainer import Trainer
from frostproof.strategies import TrainingRun
from frostproof.strategies.capabilities import NotOffered


class Drawn:
    """Stands in for ``st.DataObject``: always the same run."""

    def __init__(self, run: TrainingRun) -> None:
        self.run = run

    def draw(self, strategy: Any, label: Any = None) -> TrainingRun:
        return self.run


def compare_devices(run: TrainingRun) -> None:
    """The law of devices on one run, the CPU by two names."""
    law = test_across.test_devices_train_alike.hypothesis.inner_test  # type: ignore[attr-defined]
    law(device="cpu:0", dtype=torch.float64, data=Drawn(run))


RUNS = test_across.varied_runs(5)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.network.layers[0].activation)
def test_one_device_agrees_with_itself(run: TrainingRun) -> None:
    compare_devices(run)


def _on_the_other(monkeypatch: pytest.MonkeyPatch, method: str, action: Any) -> None:
    """After ``method`` of a trainer on "cpu:0", ``action(trainer)``."""
    make, original = Trainer.__init__, getattr(Trainer, method)
    others = []

    def init(self: Trainer, run: TrainingRun, device: str, dtype: torch.dtype, **named: Any) -> None:
        make(self, run, device, dtype, **named)
        if device == "cpu:0":
            others.append(self)

    def changed(self: Trainer) -> None:
        original(self)
        if any(self is other for other in others):
            with torch.no_grad():
                action(self)

    monkeypatch.setattr(Trainer, "__init__", init)
    monkeypatch.setattr(Trainer, method, changed)


def _bend_a_gradient(trainer: Trainer) -> None:
    live = [p for p in trainer.named.values() if p.grad is not None]
    live[-1].grad.mul_(1 + 1e-6)  # type: ignore[union-attr]


def _lose_a_gradient(trainer: Trainer) -> None:
    live = [p for p in trainer.named.values() if p.grad is not None]
    live[-1].grad = None


def _move_a_frozen_one(trainer: Trainer) -> None:
    trainer.named[trainer.run.frozen[0]].mul_(1 + 1e-9)


def _step_too_far(trainer: Trainer) -> None:
    live = [p for p in trainer.named.values() if p.grad is not None]
    live[-1].sub_(1e-6 * live[-1].grad)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("method", "action", "said"),
    [
        ("backward", _bend_a_gradient, "gradient of"),
        ("backward", _lose_a_gradient, "on one device only"),
        ("apply", _move_a_frozen_one, "after step 1"),
        ("apply", _step_too_far, "after step 1"),
    ],
)
def test_a_device_that_differs_is_seen(
    monkeypatch: pytest.MonkeyPatch, method: str, action: Any, said: str
) -> None:
    run = next(run for run in RUNS if run.frozen and run.network.layers[0].activation == "tanh")
    _on_the_other(monkeypatch, method, action)
    with pytest.raises(LawBroken, match=said):
        compare_devices(run)


def test_ways_are_those_of_the_installed_torch() -> None:
    for name, way in ways().items():
        try:
            assert way_of(name) is way
        except NotOffered:
            assert name == "functional_call" and not can_transform()
    assert can_compile() <= hasattr(torch, "compile")
    assert list(COMPILES) == sorted(COMPILES) and list(COMPILES.values()) == sorted(COMPILES.values())
