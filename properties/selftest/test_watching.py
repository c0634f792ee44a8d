"""In one's own tests: watch, the fixture, the checks as functions, and blocks without with."""

import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Tuple

import pytest
import torch
from torch import nn

from frostproof import (
    assert_frozen,
    assert_only_trains,
    check_model,
    check_optimizer,
    check_recipe,
    watch,
)

pytestmark = pytest.mark.filterwarnings("default")


def net() -> nn.Sequential:
    """A frozen backbone with BatchNorm, and a head."""
    made = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    made[:2].requires_grad_(False)
    made[1].eval()
    return made


def train(module: nn.Module, steps: int = 3, **options: Any) -> None:
    optimizer = torch.optim.SGD(module.parameters(), **{"lr": 0.1, **options})
    for _ in range(steps):
        optimizer.zero_grad()
        module(torch.randn(16, 4)).square().mean().backward()
        optimizer.step()


def in_train_mode(module: nn.Module) -> None:
    module.train()
    train(module)


def unfrozen_first(module: Any) -> None:
    module[0].weight.requires_grad_(True)
    train(module)


def without_the_head(module: Any) -> None:
    optimizer = torch.optim.SGD(module[:2].parameters(), lr=0.1)
    module(torch.randn(16, 4)).square().mean().backward()
    optimizer.step()


def writes(module: Any) -> None:
    train(module)
    with torch.no_grad():
        module[0].bias.add_(1)


def to_nan(module: nn.Module) -> None:
    train(module, lr=float("nan"))


def nothing(module: nn.Module) -> None:
    pass


WRONG = {
    "R1": (writes, "0.bias", "an in-place write"),
    "R2": (in_train_mode, "1.running_mean", "train mode"),
    "R3": (without_the_head, "3.weight", "no optimizer holds it"),
    "R5": (unfrozen_first, "0.weight", "trainable again"),
    "R6": (to_nan, "3.weight", "NaN"),
    "R7": (nothing, "the code", "nothing trained under watch"),
}


@pytest.mark.parametrize("law", sorted(WRONG))
def test_watch_finds_each_kind(law: str) -> None:
    code, subject, words = WRONG[law]
    module = net()
    with pytest.raises(AssertionError) as broken, watch(module):
        code(module)
    text = str(broken.value)
    assert f"{law}: " in text and f"{subject}: " in text and words in text


def test_watch_passes_what_is_right() -> None:
    module, teacher = net(), net()
    with watch(module, keep=teacher, trains=["3"]) as seen:
        train(module)
    assert seen.examination.steps == 3
    with watch(module, frozen=[module[0], module[1].weight]):
        train(module)


def test_watch_keeps() -> None:
    module = net()
    kept = module.state_dict()
    with pytest.raises(AssertionError, match=r"R4: .*\n3.weight: is to be kept"):
        with watch(module, keep=kept):
            train(module)


def lora() -> nn.Module:
    """A frozen base with adapters, one of which a filter of names forgot."""
    module = nn.Module()
    module.base, module.lora_a, module.adapter_b = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 1)
    module.forward = lambda x: module.adapter_b(module.base(x) + module.lora_a(x))  # type: ignore
    for name, parameter in module.named_parameters():
        parameter.requires_grad_("lora_" in name)
    return module


def test_what_is_declared_is_checked_against_what_is_frozen() -> None:
    module = lora()
    with pytest.raises(AssertionError, match=r"adapter_b.weight: should train, but is frozen"):
        with watch(module, trains=["*lora_*", "adapter_*"]):
            train(module)
    module.base.bias.requires_grad_(True)  # type: ignore[union-attr]
    with pytest.raises(AssertionError, match=r"base.bias: should be frozen, but moved.*\n.*filter"):
        with watch(module, trains="*lora_*"):
            train(module)


def test_frozen_by_leaving_it_out_of_the_optimizer_is_no_alarm() -> None:
    module = net().requires_grad_(True)
    with watch(module, frozen=["0", "1"]):
        optimizer = torch.optim.SGD(module[3].parameters(), lr=0.1)
        module(torch.randn(16, 4)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("wanted", ["*lora_*", ["3", "head"], [nn.Linear(1, 1)]])
def test_a_name_that_matches_nothing_is_refused(wanted: Any) -> None:
    for use in (lambda: watch(net(), trains=wanted), lambda: assert_only_trains(net(), wanted)):
        with pytest.raises(ValueError, match="matches no parameter or submodule"):
            block = use()
            del block


def test_assertions_say_causes_and_take_patterns_and_lists() -> None:
    module = net()
    with assert_frozen(module, ["0.*", "1"]), assert_frozen([module[0].weight, module[0].bias]):
        with assert_only_trains(module, ["3.*"]):
            train(module)
    with pytest.raises(AssertionError, match=r"(?s)moved: 3.bias\n.*SGD trains it") as broken:
        with assert_frozen(module, ["*.bias"]):
            train(module)
    assert "3.weight" not in str(broken.value)
    with pytest.raises(AssertionError, match=r"did not move, but should: 0\.weight"):
        with assert_only_trains(module, ["0.weight", "3"]):
            train(module)


def test_a_bare_call_fails_at_once() -> None:
    for use in (assert_frozen, watch):
        with pytest.raises(TypeError, match="without with"):
            use(net())
    with pytest.raises(TypeError, match="without with"):
        assert_only_trains(net(), ["3"])


def right_recipe() -> Tuple[nn.Module, Callable[[], None]]:
    module = net()
    return module, lambda: train(module, 1)


def wrong_recipe() -> Tuple[nn.Module, Callable[[], None]]:
    module = net()
    return module, lambda: in_train_mode(module)


class Careless(torch.optim.SGD):
    """Moves what has no gradient."""

    def step(self, closure: Any = None) -> Any:
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.mul_(0.5)
        return super().step(closure)


def test_the_checks_as_functions() -> None:
    check_recipe(right_recipe)
    with pytest.raises(AssertionError, match=r"R2: .*\n1.running_mean"):
        check_recipe(wrong_recipe)
    with pytest.raises(ValueError, match="the factory must return"):
        check_recipe(net)  # type: ignore[arg-type]
    check_model(lambda: (net(), torch.randn(8, 4)), examples=5)
    check_optimizer(lambda params: torch.optim.Adam(params, lr=0.1), examples=5)
    with pytest.raises(AssertionError):
        check_optimizer(lambda params: Careless(params, lr=0.1), examples=5)


TESTS = """
import sys

sys.path.insert(0, {folder!r})
from frostproof import assert_frozen
from frostproof.properties.selftest.test_watching import in_train_mode, net, train

def test_forgets_with():
    block = assert_frozen(net())

def test_fixture_finds(frostproof_watch):
    module = net()
    frostproof_watch(module)
    in_train_mode(module)

def test_fixture_passes(frostproof_watch):
    module = net()
    frostproof_watch(module, trains=["3"])
    train(module)

def test_fixture_lets_the_first_error_speak(frostproof_watch):
    frostproof_watch(net())
    raise KeyError("the test's own")
"""


def test_the_fixture_and_a_forgotten_with(tmp_path: Path) -> None:
    package = Path(__file__).parents[1] / "package"
    (tmp_path / "test_mine.py").write_text(TESTS.format(folder=str(package)))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "frostproof.plugin", "--rootdir=."]
    environment = {"PYTHONPATH": str(package), "PATH": "", "COLUMNS": "200"}
    result = subprocess.run(
        command, cwd=str(tmp_path), env=environment, capture_output=True, text=True, timeout=300
    )
    text = result.stdout
    assert "3 failed, 1 passed" in text, text + result.stderr
    assert "Failed: assert_frozen(...) checks nothing without with" in text
    assert "1.running_mean: buffer of a frozen module" in text and "KeyError" in text
