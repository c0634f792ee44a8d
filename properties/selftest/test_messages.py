"""The message of a broken law: what it says, and what it says where no program can be written."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from frostproof.properties.harness.core.bits import describe_difference, read_bits
from frostproof.properties.selftest import PACKAGE, ROOT
from frostproof.properties.selftest.test_reproducer import PLUGIN, broken, pytest_on


def test_the_message_says_what_is_needed(tmp_path: Path) -> None:
    result = broken("asgd_moves_frozen", tmp_path)
    output = result.stdout
    assert "F1: after every step a frozen parameter has its bits" in output
    assert re.search(
        r"frozen layers\.0\.linear\.\w+ after step 1 of ASGD: element \(.*\): \S+ became", output
    )
    assert str(torch.__version__) in output and "cpu, float32" in output
    for hidden in ("checks.py", "evidence.py", "hypothesis/core.py", "Traceback"):
        assert hidden not in output
    assert len(output.splitlines()) < 60, output
    # the one command shows the same again, without what the first run may have stored
    (command,) = [line for line in output.splitlines() if line.startswith("rerun  ")]
    words = shlex.split(command)
    assert words[1] == "pytest" and len(words) < 14
    (test,) = (word for word in words if "::" in word)
    options = words[words.index(test) + 1 :]
    again = pytest_on(
        test.partition("properties/")[2],
        tmp_path / "again",
        PLUGIN,
        *options,
        fault="asgd_moves_frozen",
    )
    (seen,) = [line for line in output.splitlines() if line.startswith("seen  ")]
    assert seen in again.stdout


def test_a_tiny_difference_is_told_in_bits() -> None:
    one = torch.tensor([1.0, 2.0])
    other = torch.tensor([1.0, 2.0000002])
    text = describe_difference(read_bits(one), read_bits(other), one)
    assert "element (1,): 2.0 became 2.000000238418579 (bits 0x40000000 and 0x40000001)" in text


def test_the_whole_traceback_on_request(tmp_path: Path) -> None:
    output = broken("asgd_moves_frozen", tmp_path, "-vv").stdout
    assert "def test_frozen_stay" in output and "expected  F1" in output


def test_programs_that_cannot_be_written_are_no_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file where the folder should be")
    result = broken("detach_copies", tmp_path)
    assert result.returncode == 1
    assert "not written to" in result.stdout and "sys.exit(" in result.stdout


STEP = "torch.optim:SGD.step"
# What raises once collection is over; words that the output has; whether there is a program.
UNEXPECTED = {
    "while an example is drawn": (
        ["frostproof.strategies.training:read_optimizer"],
        "none: the error came while the example was drawn, before the law's first line",
        False,
    ),
    "where the net is built": (["torch.nn:Linear.__init__"], "none: RuntimeError was raised", False),
    "in a step": ([STEP], "raised at ", True),
    "in what writes the program": ([STEP, "torch:Tensor.tolist"], "none: RuntimeError was", False),
    "in what tells of it": (
        [STEP, "frostproof.properties.harness.session.message:described"],
        "no message could be made of this: RuntimeError: torch fell over",
        True,
    ),
}


@pytest.mark.parametrize("where", sorted(UNEXPECTED))
def test_an_error_in_an_unexpected_place_is_told_honestly(where: str, tmp_path: Path) -> None:
    targets, words, has_program = UNEXPECTED[where]
    (tmp_path / "fall.py").write_text(
        "import pkgutil\n"
        "def fall(*arguments, **options):\n"
        "    raise RuntimeError('torch fell over')\n"
        "def pytest_collection_finish():\n"
        f"    for target in {targets}:\n"
        "        owner, _, name = target.rpartition('.' if '.' in target.split(':')[1] else ':')\n"
        "        setattr(pkgutil.resolve_name(owner), name, fall)\n"
    )
    result = pytest_on(
        "test_freeze.py::test_frozen_stay", tmp_path, "fall", "--hypothesis-profile=quick"
    )
    assert result.returncode == 1, result.stdout + result.stderr
    assert "INTERNALERROR" not in result.stdout and "torch fell over" in result.stdout
    assert words in result.stdout, result.stdout
    programs = list((tmp_path / "out").glob("*.py"))
    assert bool(programs) == has_program, result.stdout
    for program in programs:
        assert "line " in subprocess_error(program, tmp_path), program.read_text()


def subprocess_error(path: Path, folder: Path) -> str:
    """What a program says on stderr where torch falls over from the start."""
    code = (
        "import fall; fall.pytest_collection_finish(); "
        f"import runpy; runpy.run_path({str(path)!r}, run_name='__main__')"
    )
    search = os.pathsep.join((str(folder), PACKAGE))
    environment = {**os.environ, "PYTHONPATH": search, "PYTHONWARNINGS": "ignore"}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 1 and len(found.stderr.strip().splitlines()) == 1, found.stderr
    return found.stderr


STRANGER = """
import torch
from hypothesis import given

from frostproof.properties.harness.core.bits import read_bits
from frostproof.properties.harness.core.checks import check, check_same_bits
from frostproof.properties.harness.core.law import law
from frostproof.strategies import MLP, mlps


@law("N1", "where the promise is written", "float32")
@given(network=mlps(max_depth=3))
def test_eval_keeps_parameters(device: str, dtype: torch.dtype, network: MLP) -> None:
    \"\"\"N1: switching to eval mode changes no parameter.\"\"\"
    net = network.build(device, dtype)
    before = {name: read_bits(value) for name, value in net.named_parameters()}
    net.eval()
    for name, value in net.named_parameters():
        check_same_bits(value, before[name], f"{name} after eval()")


class Scaled(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(size))

    def forward(self, x):
        return x * self.scale


@law("N2", "where the promise is written", "float32")
def test_eval_trains(device: str, dtype: torch.dtype) -> None:
    \"\"\"N2: in eval mode what is live gets a gradient.\"\"\"
    net = Scaled(3).to(device).eval()
    net(torch.arange(3.0, device=device)).sum().backward()
    check(net.scale.grad.tolist() == [0.0, 1.0, 2.0], "the gradient in eval mode")
"""
ZEROING = """
import torch

def zeroing(self):
    for parameter in self.parameters():
        parameter.data.zero_()
    for parameter in self.parameters():
        parameter.requires_grad_(False).requires_grad_()
        parameter.register_hook(lambda gradient: gradient * 2)
    return self.train(False)

def pytest_collection_finish():
    torch.nn.Module.eval = zeroing
"""


@pytest.mark.parametrize("test", ["test_eval_keeps_parameters", "test_eval_trains"])
def test_a_strangers_law_has_a_program(test: str, tmp_path: Path) -> None:
    (tmp_path / "zeroing.py").write_text(ZEROING)
    (tmp_path / "test_stranger.py").write_text(STRANGER)
    settings_file, law_file = str(ROOT / "pyproject.toml"), tmp_path / "test_stranger.py"
    more = ("--hypothesis-profile=quick", "-p", "conftest", "-c", settings_file)
    result = pytest_on(f"{law_file}::{test}", tmp_path, "zeroing", *more)
    (path,) = (tmp_path / "out").glob("*.py")
    text = path.read_text()
    assert "frostproof" not in text and "eval()" in text, text
    code = "import zeroing; zeroing.pytest_collection_finish(); "
    run = f"import runpy; runpy.run_path({str(path)!r}, run_name='__main__')"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONWARNINGS": "ignore"}
    ends = [
        subprocess.run([sys.executable, "-c", each], env=environment, capture_output=True).returncode
        for each in (code + run, run)
    ]
    assert ends == [1, 0], f"{text}\n{result.stdout}"
