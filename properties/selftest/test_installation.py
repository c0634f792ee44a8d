"""Installed beside a stranger's code: wheel, sdist, editable and bare checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from typing import Any, Dict, List

import pytest

from frostproof.properties.selftest import ROOT

pytestmark = pytest.mark.filterwarnings("default")

CONFTEST = """
import properties
import pytest
import strategies


def pytest_addoption(parser):
    parser.addoption("--device", default="mine")
    parser.addoption("--progress", action="store_true")


@pytest.fixture(autouse=True)
def every_test_has_this():
    yield
"""
SETTINGS = """
[tool.pytest.ini_options]
addopts = "--strict-markers --strict-config"
python_functions = ["check_*"]
python_files = ["checks_*.py"]
filterwarnings = ["error"]
testpaths = ["tests"]
"""
CHECKS = """
import properties
import strategies


def check_device(request):
    assert request.config.getoption("--device") == "mine"
    assert strategies.WHOSE == properties.WHOSE == "the stranger's"
"""
TRAINING = """
import warnings

import strategies
import torch
from torch import nn


def build():
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
    net[:2].requires_grad_(False)
    return net, torch.optim.SGD(net.parameters(), lr=0.1)


def wrong():
    assert strategies.WHOSE == "the stranger's"
    net, optimizer = build()

    def step():
        warnings.warn("the stranger's own warning")
        optimizer.zero_grad()
        net(torch.randn(16, 4)).pow(2).mean().backward()
        optimizer.step()

    return net, step


def right():
    net, step = wrong()

    def careful():
        net[1].eval()
        step()

    return net, careful


def model():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)), torch.ones(3, 4)


def sgd(params):
    return torch.optim.SGD(params, lr=0.1)
"""


def _run(*command: Any, cwd: Path, **more: str) -> "subprocess.CompletedProcess[str]":
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "PYTHON"))}
    environment.update({"PYTHONDONTWRITEBYTECODE": "", "COLUMNS": "200", **more})
    words = [str(word) for word in command]
    return subprocess.run(
        words, cwd=str(cwd), env=environment, capture_output=True, text=True, timeout=600
    )


def _done(result: "subprocess.CompletedProcess[str]") -> None:
    assert result.returncode == 0, result.stdout + result.stderr


def stranger(folder: Path) -> Path:
    """A repository with packages, settings and options of its own."""
    for package in ("strategies", "properties"):
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").write_text('WHOSE = "the stranger\'s"\n')
    (folder / "tests").mkdir()
    (folder / "tests" / "checks_mine.py").write_text(CHECKS)
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "pyproject.toml").write_text(SETTINGS)
    (folder / "training.py").write_text(TRAINING)
    return folder


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this checkout, without what running it has left."""
    copy = tmp_path_factory.mktemp("bare") / "frostproof"
    left = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info")
    shutil.copytree(str(ROOT), str(copy), ignore=left)
    return copy


@pytest.fixture(scope="module")
def built(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Dict[str, Path]:
    """The wheel and the sdist, built by this environment's setuptools."""
    pytest.importorskip("setuptools", minversion="77")
    folder, source = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("source") / "frostproof"
    shutil.copytree(str(checkout), str(source))
    made = {}
    for kind in ("wheel", "sdist"):
        build = f"from setuptools.build_meta import *; print(build_{kind}({str(folder)!r}))"
        result = _run(sys.executable, "-c", build, cwd=source)
        _done(result)
        made[kind] = folder / result.stdout.split()[-1]
    return made


class Environment:
    """A fresh virtual environment that sees this one's torch, pytest and Hypothesis."""

    def __init__(self, folder: Path) -> None:
        _done(_run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent))
        self.python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
        script = "import sysconfig; print(sysconfig.get_path('purelib'))"
        self.site = Path(_run(self.python, "-c", script, cwd=folder).stdout.strip())
        # one folder in a .pth: what is installed there in turn as editable stays out
        (self.site / "torch_of_this_run.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def install(self, *what: Any) -> "Environment":
        """``pip install`` without the dependencies, which are there."""
        pip = (sys.executable, "-m", "pip", "--python", self.python, "install", "--quiet")
        # frostproof of this run is seen in the other folder, and must not count as installed here
        options = ("--ignore-installed", "--no-deps", "--no-build-isolation", "--no-index")
        _done(_run(*pip, *options, *what, cwd=self.site))
        return self

    def pytest(self, *arguments: str, cwd: Path, **more: str) -> "subprocess.CompletedProcess[str]":
        return _run(self.python, "-m", "pytest", *arguments, cwd=cwd, **more)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stranger(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(scope="module")
def installed(repository: Path, built: Dict[str, Path]) -> Environment:
    """The wheel in a virtual environment inside the stranger's repository."""
    return Environment(repository / ".venv").install(built["wheel"])


def test_the_wheel_has_one_name_and_no_self_tests(built: Dict[str, Path]) -> None:
    names = zipfile.ZipFile(built["wheel"]).namelist()
    tops = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"frostproof"}
    assert not [name for name in names if "selftest" in name or name.endswith("conftest.py")]
    for needed in ("py.typed", "verify.ini", "plugin.py", "properties/harness/report/page.html.j2"):
        assert f"frostproof/{needed}" in names
    laws = {path.name for path in (ROOT / "properties").glob("test_*.py")}
    assert laws <= {name.rpartition("/")[2] for name in names}
    packages = {path.parent for path in (ROOT / "properties").rglob("*.py")}
    for folder in packages:
        inside = folder.relative_to(ROOT).as_posix()
        if "selftest" not in inside and "/package" not in inside:
            assert [name for name in names if name.startswith(f"frostproof/{inside}/")], inside
    with tarfile.open(str(built["sdist"])) as archive:
        assert any(name.endswith("frostproof/plugin.py") for name in archive.getnames())


def _judged(result: "subprocess.CompletedProcess[str]") -> None:
    text = result.stdout + result.stderr
    assert result.returncode == 1, text
    assert "1.running_mean: buffer of a frozen module" in text and "BatchNorm1d is in train" in text
    assert "1 failed" in text and "INTERNALERROR" not in text


@pytest.mark.parametrize("kind", ["wheel", "sdist", "editable"])
def test_a_recipe_in_a_strangers_repository(
    kind: str, built: Dict[str, Path], checkout: Path, tmp_path: Path
) -> None:
    repository = stranger(tmp_path / "repository")
    environment = Environment(tmp_path / "environment")
    environment.install(*(["-e", checkout] if kind == "editable" else [built[kind]]))
    _judged(environment.pytest("--recipe=training.py:wrong", cwd=repository))
    _done(environment.pytest("--recipe", "training.py:right", "tests", cwd=repository))
    own = environment.pytest("-q", cwd=repository)
    assert own.returncode == 0 and "1 passed" in own.stdout, own.stdout + own.stderr


def test_a_recipe_with_a_bare_checkout(checkout: Path, repository: Path, tmp_path: Path) -> None:
    path = str(checkout / "properties" / "package")
    command = (sys.executable, "-m", "pytest", "-p", "frostproof.plugin")
    _judged(_run(*command, "--recipe=training.py:wrong", cwd=repository, PYTHONPATH=path))
    # there the checkout's own folders of these names are found first
    plain = "\n".join(line for line in TRAINING.split("\n") if "strategies" not in line)
    (tmp_path / "plain.py").write_text(plain)
    asked = (sys.executable, "-m", "pytest", f"--recipe={tmp_path}/plain.py:wrong")
    # the environment of this run may have another checkout installed, which would be refused
    _judged(_run(*asked, cwd=checkout, PYTHONPATH=path))


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["-n", "2"],
        ["-p", "no:hypothesispytest", "-p", "no:faulthandler"],
        ["--import-mode=importlib"],
    ],
    ids=lambda options: " ".join(options) or "plain",
)
def test_all_three_beside_the_strangers_settings(
    options: List[str], installed: Environment, repository: Path
) -> None:
    asked = ["--model=training.py:model", "--optimizer=training.py:sgd", "--recipe=training.py:right"]
    result = installed.pytest(*options, *asked, cwd=repository)
    text = result.stdout + result.stderr
    assert result.returncode == 0, text
    for law in ("test_model.py", "test_optimizer.py", "test_recipe.py"):
        assert law in text
    assert "checks_mine" not in text


def test_without_assert_statements(installed: Environment, repository: Path) -> None:
    # pytest's own warning of -O would be an error in this repository
    command = (installed.python, "-O", "-m", "pytest", "-W", "default")
    _judged(_run(*command, "--recipe=training.py:wrong", cwd=repository))


def test_two_recipes_both_run(installed: Environment, repository: Path) -> None:
    asked = ["--recipe=training.py:right", "--recipe=training.py:wrong", "--recipe=training.py:right"]
    result = installed.pytest("-v", *asked, cwd=repository)
    _judged(result)
    assert "test_step_runs[training.py:right]" in result.stdout
    assert "test_step_runs[training.py:wrong]" in result.stdout
    assert "rerun     pytest --recipe=training.py:wrong\n" in result.stdout


def test_a_strangers_option_of_the_same_name_stays_his(
    installed: Environment, repository: Path
) -> None:
    result = installed.pytest("--recipe=training.py:right", "--progress", "tests", cwd=repository)
    _done(result)
    asked = "--frostproof-device=warp"
    refused = installed.pytest("--optimizer=training.py:sgd", asked, cwd=repository)
    assert refused.returncode == 4 and "--device warp: not a device" in refused.stderr


def test_verify_from_any_folder(installed: Environment, tmp_path: Path) -> None:
    laws = "properties/test_article.py"
    result = _run(installed.python, "-m", "frostproof", "-n", "2", laws, cwd=tmp_path)
    _done(result)
    assert "test_article.py" in result.stdout and "examples checked" in result.stdout
    command = installed.python.with_name("frostproof")
    listed = _run(command, "--collect-only", "-q", "-k", "article", cwd=tmp_path)
    _done(listed)
    assert "properties/test_article.py::" in listed.stdout


IMPORTED = """
import sys
import pytest
pytest.main(["--help"])
print([name for name in ("torch", "hypothesis", "numpy") if name in sys.modules])
"""


def test_nothing_heavy_is_imported_unasked(installed: Environment, tmp_path: Path) -> None:
    result = _run(installed.python, "-c", IMPORTED, cwd=tmp_path)
    assert result.stdout.rstrip().endswith("[]") and "--recipe=FILE.py:FACTORY" in result.stdout
