"""The command line: ids, options, and what is said when they are wrong."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from frostproof.properties.selftest import ROOT


def run(*arguments: str, cwd: Any = ROOT, **more: str) -> "subprocess.CompletedProcess[str]":
    """pytest in a process of its own, on this project; ``more`` for its environment."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    environment = {**os.environ, **more}
    return subprocess.run(
        command, cwd=str(cwd), env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--device", "cuda:99"), "--device cuda:99"),
        (("--device", "warp"), "not a device that torch knows"),
        (("--dtype", "float31"), "no such dtype"),
        (("--hypothesis-profile", "lazy"), "lazy"),
    ],
)
def test_a_wrong_option_is_a_usage_error(option: Any, message: str) -> None:
    result = run(*option, "--collect-only", "-q")
    text = result.stdout + result.stderr
    assert result.returncode == 4, text
    assert message in text
    assert "Traceback" not in text


def test_ids_hold_device_and_dtype_and_selftests_stay_out() -> None:
    result = run("--collect-only", "-q", "--device", "cpu", "--dtype", "float32")
    assert "test_detach.py::test_shares_storage[cpu-float32]" in result.stdout
    assert "float64" not in result.stdout and "selftest" not in result.stdout


@pytest.mark.parametrize("profile", ["default", "nightly"])
def test_a_ci_job_has_a_seed_of_its_own(profile: str) -> None:
    options = ("--collect-only", "-q", "--device", "cpu", "--hypothesis-profile", profile)
    headers = [run("properties/test_article.py", "-v", *options, CI="true").stdout for _ in range(2)]
    seeds = [re.findall(r"--hypothesis-seed=(\d+)", header) for header in headers]
    assert seeds[0] and seeds[0] != seeds[1]


def test_runs_from_another_folder(tmp_path: Path) -> None:
    path = ROOT / "properties" / "test_article.py"
    result = run(
        str(path), "--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml"), "-q", cwd=tmp_path
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_same_ids_with_workers() -> None:
    one = run("properties/test_article.py", "-n", "0", "-q", "--hypothesis-profile", "quick")
    two = run("properties/test_article.py", "-n", "2", "-q", "--hypothesis-profile", "quick")
    assert one.returncode == two.returncode == 0, one.stdout + two.stdout
    counted = re.findall(r"\d+ examples checked", one.stdout + two.stdout)
    assert len(counted) == 2 and counted[0] == counted[1] != "0 examples checked"


NOISY = """
import warnings

def pytest_configure(config):
    warnings.warn("a plugin of somebody else")

def pytest_sessionstart(session):
    warnings.warn("a plugin of somebody else")
"""


def test_another_plugins_warning_ends_no_run(tmp_path: Path) -> None:
    (tmp_path / "noisy_plugin.py").write_text(NOISY)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    options = ("-p", "noisy_plugin", "-n", "2", "-q", "--hypothesis-profile", "quick")
    result = run("properties/test_article.py", *options, PYTHONPATH=path)
    assert result.returncode == 0 and "INTERNALERROR" not in result.stdout, result.stdout


WARNING = """
import warnings
import torch

plain = torch.Tensor.detach

def detach(self):
    warnings.warn("of a torch that warns")
    return plain(self)

torch.Tensor.detach = detach
"""


def test_a_warning_inside_a_law_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "warning_torch.py").write_text(WARNING)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    test = "properties/test_detach.py::test_shares_storage[cpu-float32]"
    result = run(test, "-p", "warning_torch", "-q", PYTHONPATH=path)
    assert result.returncode == 1 and "UserWarning: of a torch" in result.stdout, result.stdout


FAULTS = {
    "detach copies": (
        "torch.Tensor.detach = lambda self, old=torch.Tensor.detach: old(self).clone()",
        "test_detach.py",
    ),
    "clone aliases": (
        "torch.Tensor.clone = lambda self, memory_format=None: self.view_as(self)",
        "test_clone.py",
    ),
    "SGD decays frozen parameters": (
        "old = torch.optim.SGD.step\n"
        "def step(self, closure=None):\n"
        "    with torch.no_grad():\n"
        "        [p.mul_(0.999) for g in self.param_groups for p in g['params']"
        " if not p.requires_grad]\n"
        "    return old(self, closure)\n"
        "torch.optim.SGD.step = step",
        "test_freeze.py",
    ),
    "detach does not cut": (
        "torch.Tensor.detach = lambda self: self.view_as(self)",
        "test_cut.py",
    ),
}


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_a_broken_torch_is_caught(name: str, tmp_path: Path) -> None:
    code, file = FAULTS[name]
    (tmp_path / "fault_plugin.py").write_text(f"import torch\n{code}\n")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "fault_plugin"]
    command += ["-p", "no:cacheprovider", "--hypothesis-profile", "quick", f"properties/{file}"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run(
        command, cwd=str(ROOT), env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 1, result.stdout
    for part in ("expected ", "seen ", "rerun "):
        assert part in result.stdout
