"""What a torch lacks is told from what it breaks; its own warnings, and other plugins', end nothing."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from frostproof.properties.harness.core import own_warnings
from frostproof.properties.harness.report.record import read
from frostproof.properties.selftest import PACKAGE, ROOT
from frostproof.strategies.capabilities import byte_count, lack, of_bytes

REFUSES = """
import torch
old = {owner}.{name}
def refusing(value, *args, **named):
    if value.dtype is torch.bfloat16:
        raise NotImplementedError("\\"{name}_cpu\\" not implemented for 'BFloat16'")
    return old(value, *args, **named)
{owner}.{name} = refusing
"""


def run(folder: Path, code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """pytest on some laws, with a plugin of this code."""
    (folder / "seeded.py").write_text(code)
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "-p", "seeded"]
    command += ["--hypothesis-profile", "quick", "--device=cpu", f"--junit-xml={folder / 'r.xml'}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), PACKAGE))}
    return subprocess.run(
        [*command, *arguments],
        cwd=str(ROOT),
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("name", "law"),
    [
        ("detach", "test_detach.py::test_shares_storage"),
        ("clone", "test_clone.py::test_copies_every_bit"),
        ("requires_grad_", "test_detach.py::test_is_outside_the_graph"),
    ],
)
def test_what_a_law_is_about_refuses_and_is_broken(tmp_path: Path, name: str, law: str) -> None:
    code = REFUSES.format(owner="torch.Tensor", name=name)
    result = run(tmp_path, code, f"properties/{law}[cpu-bfloat16]")
    assert result.returncode == 1, result.stdout
    assert [entry.outcome for entry in read(tmp_path / "r.xml").entries] == ["broken"]


def test_a_cell_without_its_part_of_torch_is_not_offered(tmp_path: Path) -> None:
    law = "test_loading.py::test_lazy_modules_freeze"
    result = run(tmp_path, "import torch\ndel torch.nn.LazyConv1d\n", f"properties/{law}")
    assert result.returncode == 0, result.stdout
    found = {entry.cell: entry for entry in read(tmp_path / "r.xml").entries}
    assert len(found) == 3
    lacking = found["cpu-float32-LazyConv1d"]
    assert lacking.outcome == "not offered"
    assert "torch.nn.LazyConv1d: this torch has none" in lacking.message


def test_what_a_law_prepares_with_is_not_offered(tmp_path: Path) -> None:
    code = REFUSES.format(owner="torch.nn.functional", name="mse_loss")
    law = "properties/test_freeze.py::test_frozen_stay"
    result = run(tmp_path, code, f"{law}[cpu-bfloat16]", f"{law}[cpu-float32]")
    assert result.returncode == 0, result.stdout
    assert "not offered by this torch: mse_loss:" in result.stdout
    assert re.search(r"1 passed, 1 not offered", result.stdout)
    outcomes = {entry.dtype: entry.outcome for entry in read(tmp_path / "r.xml").entries}
    assert outcomes == {"bfloat16": "not offered", "float32": "held"}
    alone = run(tmp_path, code, f"{law}[cpu-bfloat16]")
    assert alone.returncode == 5 and "nothing was verified" in alone.stdout


def test_a_dtype_that_no_law_has_is_said(tmp_path: Path) -> None:
    result = run(tmp_path, "", "properties/test_article.py", "--dtype", "float16")
    assert result.returncode == 5, result.stdout
    assert "nothing was verified in --dtype float16" in result.stdout


def test_another_plugins_warning_ends_no_session(tmp_path: Path) -> None:
    code = (
        "import warnings\n"
        "def pytest_sessionfinish(session):\n"
        "    warnings.warn('from a plugin', UserWarning)\n"
        "def pytest_collection(session):\n"
        "    warnings.warn('from a plugin', FutureWarning)\n"
    )
    result = run(tmp_path, code, "properties/test_lambda.py", "--dtype", "float32")
    assert result.returncode in (0, 5) and "INTERNALERROR" not in result.stdout + result.stderr


def _torchs(source: str, name: str) -> Any:
    """A function that seems to be torch's own."""
    space = {"__name__": "torch.seeming"}
    file = os.path.join(os.path.dirname(torch.__file__), "seeming.py")
    exec(compile(source, file, "exec"), space)
    return space[name]


def test_torchs_own_use_of_what_it_deprecates_breaks_nothing() -> None:
    source = (
        "import warnings\n"
        "def old():\n"
        "    warnings.warn('old is deprecated', FutureWarning)\n"
        "def new():\n"
        "    old()\n"
    )
    with own_warnings.judged():
        _torchs(source, "new")()
        with pytest.raises(FutureWarning):
            _torchs(source, "old")()


def test_preparations_are_asked_on_bytes() -> None:
    assert lack("copy", "cpu", torch.float32) == ""
    assert "quantized" in lack("copy", "cpu", torch.qint8) or lack("copy", "cpu", torch.qint8)
    assert set(of_bytes((3,), torch.uint8).tolist()) == {0x3F}


TABLE = """
[[defect]]
test = "test_lambda.py::test_reduce_is_the_left_fold"
sentence = "our reduce is off"
issue = "ours/1"
last = "{last}"
"""


@pytest.mark.skipif(sys.version_info < (3, 11), reason="TOML needs tomli here")
def test_a_table_of_the_users_own(tmp_path: Path) -> None:
    table = tmp_path / "mine.toml"
    table.write_text(TABLE.format(last="99.0"))
    arguments = ("properties/test_lambda.py", "-k", "left_fold", f"--known-defects={table}")
    result = run(tmp_path, "", *arguments)
    assert result.returncode == 1 and f"end the range of its row in {table}" in result.stdout
    table.write_text(TABLE.format(last="1.0"))
    assert run(tmp_path, "", *arguments).returncode == 0
    for wrong in ("x = 1", TABLE.format(last="new"), '[[defect]]\ntest = "a::b"\n', "no toml"):
        table.write_text(wrong)
        result = run(tmp_path, "", *arguments)
        assert result.returncode == 4 and f"--known-defects {table}:" in result.stderr + result.stdout
        assert "Traceback" not in result.stderr + result.stdout


WRAPPED = """
import torch.utils.checkpoint
old = torch.utils.checkpoint.checkpoint
torch.utils.checkpoint.checkpoint = lambda *args, **named: old(*args, **named)
"""


def test_a_wrapped_checkpoint_is_still_judged(tmp_path: Path) -> None:
    """Instrumented without functools.wraps, a function has no signature; the law asks by calling."""
    law = "properties/test_across.py::test_other_ways_train_alike[cpu-float32-checkpoint]"
    result = run(tmp_path, WRAPPED, law)
    assert result.returncode == 0 and "1 passed" in result.stdout, result.stdout


@pytest.mark.parametrize(
    "name, law",
    [
        ("torch.func.grad", "test_across.py::test_transformed_gradients"),
        ("torch.autocast", "test_gradients.py::test_linear_under_autocast"),
        ("torch.func.stack_module_state", "test_loading.py::test_ensembles_of_tied_nets"),
    ],
)
def test_a_name_that_is_gone_is_said(name: str, law: str, tmp_path: Path) -> None:
    owner, _, last = name.rpartition(".")
    others = "properties/test_modules.py"  # a run that verified nothing would fail
    result = run(tmp_path, f"import torch\ndel {owner}.{last}", f"properties/{law}", others)
    assert result.returncode == 0, result.stdout
    assert f"not offered by this torch: {name}: this torch has none" in result.stdout


@pytest.mark.filterwarnings("ignore")  # of a storage's class, on old versions
@pytest.mark.parametrize(("name", "size"), [("quint8", 100), ("quint4x2", 50), ("quint2x4", 25)])
def test_bytes_are_written_within_a_quantized_storage(name: str, size: int) -> None:
    assert byte_count(torch.empty(100, dtype=getattr(torch, name))) == size
