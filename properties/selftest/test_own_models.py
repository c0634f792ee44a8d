"""A user's own model and optimizer: no alarm on healthy ones, the right law on broken ones."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator

import pytest
import torch
from hypothesis import settings
from torch import nn

from frostproof.properties.assertions import assert_frozen, assert_only_trains
from frostproof.properties.harness.core.checks import LawBroken, Tally
from frostproof.properties.harness.own.factory import load
from frostproof.properties.harness.own.model import build
from frostproof.properties.harness.own.optimizer import build as build_optimizer
from frostproof.properties.harness.own.recipe import build as build_recipe
from frostproof.properties.own import test_model, test_optimizer
from frostproof.properties.selftest import (
    ROOT,
    own_models_refused,  # noqa: F401  (registers them)
    own_optimizers,
)
from frostproof.properties.selftest.own_models import BROKEN, HEALTHY, REFUSED

MODELS = ROOT / "properties" / "selftest" / "own_models.py"


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """pytest in a process of its own, on a user's code."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    return subprocess.run(
        command, cwd=str(ROOT), env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.fixture
def quick() -> Iterator[None]:
    """Few examples, as with --hypothesis-profile quick."""
    before = settings.default
    settings.load_profile("quick")
    yield
    settings.register_profile("before", before)
    settings.load_profile("before")


LAWS = {name: law for name, law in vars(test_model).items() if name.startswith("test_")}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", sorted(HEALTHY))
def test_no_alarm_on_a_healthy_model(name: str, quick: None) -> None:
    model = build("--model", name, HEALTHY[name])
    for law in LAWS.values():
        model.restore()
        before = Tally.assertions
        law(model)
        assert Tally.assertions > before


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", sorted(BROKEN))
def test_the_right_law_fails_on_a_broken_model(name: str, quick: None) -> None:
    factory, law = BROKEN[name]
    model = build("--model", name, factory)
    model.restore()
    with pytest.raises(LawBroken):
        LAWS[law](model)


def test_a_model_from_the_command_line() -> None:
    healthy = run(f"--model={MODELS}:residual_net_with_batchnorm", "--hypothesis-profile=quick")
    assert healthy.returncode == 0, healthy.stdout + healthy.stderr
    broken = run(f"--model={MODELS}:forward_writes_into_its_weight")
    assert broken.returncode == 1, broken.stdout + broken.stderr
    assert "FAILED properties/own/test_model.py::test_frozen_stay" in broken.stdout, broken.stdout
    assert "Traceback" not in broken.stdout


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_be_verified_is_refused_in_one_sentence(name: str) -> None:
    factory, words = REFUSED[name]
    with pytest.raises(pytest.UsageError) as refusal:
        build("--model", name, factory)
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model=absent.py:factory",), "there is no file"),
        ((f"--recipe={MODELS}:residual_net_with_batchnorm",), "function without arguments"),
        ((f"--optimizer={MODELS}:rows",), "the factory raised"),
        ((f"--model={MODELS}:sparse_embedding", "--steps=0"), "at least 1"),
    ],
)
def test_a_wrong_option_is_a_usage_error(arguments: "tuple[str, ...]", words: str) -> None:
    result = run(*arguments)
    text = result.stdout + result.stderr
    assert result.returncode == 4, text
    assert words in text and "Traceback" not in text


FILES = {
    "broken syntax.py": "def factory(:\n",
    "raises.py": "import absent_package\n",
    "leaves.py": "raise SystemExit('bye')\n",
    "empty.py": "",
    "value.py": "factory = 3\n",
    "notes.txt": "hello\n",
}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("factory", "write FILE.py:factory"),
        ("mine.py", "write FILE.py:factory"),
        ("C:\\models\\mine.py", "write FILE.py:factory"),
        (":factory", "write FILE.py:factory"),
        ("mine.py:", "write FILE.py:factory"),
        ("absent.py:factory", "there is no file"),
        ("./notes.txt:factory", "is not a Python file"),
        ("absent.module:factory", "importing absent.module failed: ModuleNotFoundError"),
        ("broken syntax.py:factory", "SyntaxError"),
        ("raises.py:factory", "No module named 'absent_package'"),
        ("leaves.py:factory", "SystemExit: bye"),
        ("empty.py:factory", "has no factory"),
        ("value.py:factory", "is not callable, but int"),
    ],
)
def test_a_factory_that_cannot_be_found_is_a_usage_error(text: str, words: str, tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(pytest.UsageError) as refusal:
        load("--model", text, tmp_path)
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_factory_in_a_folder_with_spaces(tmp_path: Path) -> None:
    folder = tmp_path / "my models"
    folder.mkdir()
    (folder / "beside_it.py").write_text("answer = 42\n")
    (folder / "the net.py").write_text("import beside_it\ndef factory(): return beside_it.answer\n")
    assert load("--model", "my models/the net.py:factory", tmp_path)() == 42


def lazily() -> Any:
    yield 1


NET = nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (NET, "must return (module, step) or (module, step, keep), but returned Linear"),
        ([NET, lazily], "but returned list"),
        ((NET,), "a tuple of 1"),
        ((NET, 3), "the second must be a function"),
        ((NET, lambda batch: batch), "function without arguments"),
        ((NET, lazily), "generator or coroutine"),
        ((NET, print, 3), "the third must be a mapping"),
        ((print, NET), "must be an nn.Module"),
        ((nn.ReLU(), print), "no parameters"),
    ],
)
def test_what_is_no_recipe_is_refused_in_one_sentence(result: Any, words: str) -> None:
    with pytest.raises(pytest.UsageError) as refusal:
        build_recipe("--recipe", "mine", lambda: result)
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        (lambda: None, "the factory is called with 1 argument"),
        (lambda params: None, "NoneType has no step"),
        (lambda params: torch.optim.SGD([], 0.1), "let it add what else the optimizer wants"),
        (lambda params: torch.optim.SGD(params, -1.0), "raised ValueError"),
        (lambda params: torch.optim.SparseAdam(params), "one step over a 2x2 parameter raised"),
    ],
)
def test_what_is_no_optimizer_is_refused_in_one_sentence(factory: Any, words: str) -> None:
    with pytest.raises(pytest.UsageError) as refusal:
        build_optimizer("--optimizer", "mine", factory)
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


OPTIMIZERS = ROOT / "properties" / "selftest" / "own_optimizers.py"
OPTIMIZER_LAWS = {n: law for n, law in vars(test_optimizer).items() if n.startswith("test_")}


@pytest.mark.parametrize("name", sorted(own_optimizers.RIGHT))
def test_no_alarm_on_a_right_optimizer(name: str, quick: None) -> None:
    own = build_optimizer("--optimizer", name, own_optimizers.RIGHT[name])
    for law in OPTIMIZER_LAWS.values():
        try:
            law(device="cpu", dtype=torch.float32, own=own)
        except pytest.skip.Exception as skipped:
            if "float64 is judged" in str(skipped):
                law(device="cpu", dtype=torch.float64, own=own)


@pytest.mark.parametrize("name", sorted(own_optimizers.BROKEN))
def test_the_right_law_fails_on_a_broken_optimizer(name: str, quick: None) -> None:
    factory, law = own_optimizers.BROKEN[name]
    own = build_optimizer("--optimizer", name, factory)
    dtype = torch.float32 if name.endswith("Float32") else torch.float64
    with pytest.raises(LawBroken):
        OPTIMIZER_LAWS[law](device="cpu", dtype=dtype, own=own)


def test_a_dtype_that_an_optimizer_cannot_train_is_left_out(quick: None) -> None:
    own = build_optimizer("--optimizer", "mine", own_optimizers.RIGHT["Float32Only"])
    for law in OPTIMIZER_LAWS.values():
        with pytest.raises(pytest.skip.Exception, match=r"parameters of torch\.float64 raised"):
            law(device="cpu", dtype=torch.float64, own=own)


def test_an_optimizer_from_the_command_line() -> None:
    quick = "--hypothesis-profile=quick"
    right = run(f"--optimizer={OPTIMIZERS}:sharpness_aware", "-n", "2", quick)
    assert right.returncode == 0, right.stdout
    broken = run(f"--optimizer={OPTIMIZERS}:decays_what_is_frozen", quick)
    assert broken.returncode == 1 and "test_frozen_stay" in broken.stdout, broken.stdout


def test_a_recipe_from_the_command_line() -> None:
    folder = ROOT / "properties" / "selftest" / "recipes"
    right = run(f"--recipe={folder / 'right.py'}:low_rank_adapter", "-n", "2")
    assert right.returncode == 0, right.stdout
    wrong = run(f"--recipe={folder / 'mistakes.py'}:stale_gradients", "--steps=2")
    assert wrong.returncode == 1, wrong.stdout
    for words in ("0.weight: is frozen, but moved in steps 1 and 2", "likely cause: a stale gradient"):
        assert words in wrong.stdout


def trained(net: nn.Module, *, decay: float = 0.0) -> None:
    optimizer = torch.optim.SGD(net.parameters(), 0.1, weight_decay=decay)
    net(torch.linspace(-1, 1, 12).reshape(3, 4) ** 2).square().mean().backward()
    optimizer.step()


def test_assert_frozen_and_assert_only_trains() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    net[0].requires_grad_(False)
    with assert_frozen(net[0]), assert_only_trains(net, ["1", "2.weight", "2.bias"]):
        trained(net)
    with pytest.raises(AssertionError, match="running_mean: should be frozen, but moved, by"):
        with assert_frozen(net[1]):
            net(torch.randn(5, 4))
    with pytest.raises(AssertionError, match="weight"), assert_frozen({"net": net}):
        trained(net)
    with pytest.raises(AssertionError, match=r"did not move, but should: 0\.weight"):
        with assert_only_trains(net, ["0.weight", "1", "2"]):
            trained(net)
    with pytest.raises(AssertionError, match=r"moved, but should not: 2\.bias"):
        with assert_only_trains(net, ["1", "2.weight"]):
            trained(net)
    with pytest.raises(ValueError, match="'head' matches no parameter or submodule"):
        with assert_only_trains(net, ["head"]):
            pass
    with pytest.raises(ValueError, match="nothing to watch"), assert_frozen(nn.ReLU()):
        pass
