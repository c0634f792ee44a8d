"""The harness over a second device, the mirror: what it catches there, and who works where."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Tuple

import pytest

from frostproof.properties.selftest import PACKAGE, ROOT

MIRROR = Path(__file__).with_name("mirror")
PLUGIN = ("-p", "no:cacheprovider", "-p", "mirror_device")
LAWS = "properties/selftest/device_laws.py"


def environment(**more: str) -> Any:
    """Of a process that has the device, as it is with ``import torch`` or by ``-p``."""
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "MIRROR_F"))
    }
    paths = os.pathsep.join((PACKAGE, str(MIRROR)))
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **more}


def python(code: str, **more: str) -> Tuple[int, str]:
    """(exit code, output) of a program with the device."""
    done = subprocess.run(
        [sys.executable, "-c", f"import torch, mirror_device\n{code}"],
        cwd=str(ROOT),
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout


@pytest.fixture(scope="module", autouse=True)
def mirror() -> None:
    """Built once for each torch; skipped, with the reason, where it cannot be."""
    code, output = python("print('PROBLEM', mirror_device.PROBLEM or 'none')")
    problem = output.rpartition("PROBLEM ")[2].strip()
    if code or problem != "none":
        pytest.skip(f"no mirror device here: {problem}")


def run(folder: Path, *arguments: str, **more: str) -> Tuple[int, str]:
    """(exit code, output) of a run of laws."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *PLUGIN, f"--reproducers={folder}", *arguments],
        cwd=str(ROOT),
        env=environment(HYPOTHESIS_STORAGE_DIRECTORY=str(folder), **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout


def test_host_code_cannot_read_its_memory() -> None:
    code, _ = python("import ctypes\nctypes.string_at(torch.ones(2, device='mirror').data_ptr(), 8)")
    assert code < 0  # a segmentation fault, as with CUDA


# fault, the law that names it, dtype
CAUGHT = (
    ("detach copies", "test_detach.py::test_shares_storage", "float32"),
    ("clone aliases", "test_clone.py::test_owns_its_memory", "float32"),
    ("foreach differs", "test_equivalence.py::test_the_frozen_stay_in_every_implementation", "float32"),
    ("copy loses the last", "test_device_copies.py::test_every_bit_arrives", "float32"),
    ("sign turned twice", "test_device_copies.py::test_lazy_signs_arrive", "float32"),
    ("number 1 is wrong", "test_across.py::test_devices_train_alike", "float32"),
    ("gradient is off", "test_across.py::test_devices_train_alike", "float64"),
    ("in-place add skips", "test_optimizers.py::test_rule_on_given_gradients", "float32"),
)
SEED = os.environ.get("MIRROR_SEED", "1")  # evidence.md: each with five seeds


@pytest.mark.parametrize(("fault", "law", "dtype"), CAUGHT, ids=[row[0] for row in CAUGHT])
def test_a_fault_of_the_device_is_caught(fault: str, law: str, dtype: str, tmp_path: Path) -> None:
    options = ("-n", "0", f"properties/{law}", "--dtype", dtype, "--device", "mirror:1")
    code, output = run(tmp_path, *options, f"--hypothesis-seed={SEED}", MIRROR_FAULT=fault)
    name = law.rpartition("::")[2]
    assert code == 1 and re.search(rf"FAILED \S*{name}\[mirror:1-{dtype}", output), output
    assert "rerun     pytest -p mirror_device " in output
    for program in tmp_path.glob("*.py"):  # by itself, as import torch loads the device
        runs = f"import runpy; runpy.run_path({str(program)!r}, run_name='__main__')"
        assert python(runs, MIRROR_FAULT=fault)[0] == 1
        assert python(runs)[0] == 0
    assert list(tmp_path.glob("*.py")) or "program   none" in output


def test_only_the_number_that_is_wrong_is_told(tmp_path: Path) -> None:
    law = "properties/test_across.py::test_devices_train_alike"
    options = ("-n", "0", law, "--dtype", "float32", "--device", "mirror:0", "--device", "mirror:1")
    code, output = run(tmp_path, *options, MIRROR_FAULT="number 1 is wrong")
    assert code == 1 and "1 failed, 1 passed" in output, output
    assert "FAILED properties/test_across.py::test_devices_train_alike[mirror:1-float32]" in output


@pytest.mark.parametrize("fault", ["poisoned", "crashes", "hangs"])
def test_what_ends_a_worker_loses_no_verdict(fault: str, tmp_path: Path) -> None:
    options = ("-n", "2", "--gpu-workers", "1", LAWS, "--device", "mirror", "--device", "mirror:1")
    more = ("--dtype", "float64", "--hypothesis-seed=5", "--law-timeout", "3")
    broken = {"MIRROR_FAULT": fault, "MIRROR_FAULT_AT": "erfinv"}
    code, output = run(tmp_path, *options, *more, **broken)
    assert code == 1 and "4 failed, 4 passed" in output, output
    assert "workers 1 on mirror:0" in output and ", 1 on mirror:1" in output
    assert re.search(r"mirror(:1)? ran out of memory", output)
    told = {"poisoned": "has a broken context", "crashes": "SIGSEGV", "hangs": "stood still"}
    assert told[fault] in output
    assert output.count("network=MLP(") >= 2  # drawn again; two numbers are one entry


def test_names_are_canonical(tmp_path: Path) -> None:
    names = ("cpu:0", "cpu", "privateuseone:1", "mirror:1")
    options = [word for name in names for word in ("--device", name)]
    _, output = run(tmp_path, "-n", "0", "--collect-only", LAWS, *options)
    assert "devices cpu, mirror:1;" in output, output
    code, output = run(tmp_path, "-n", "0", LAWS, "--device", "mirror:7")
    assert code == 4 and "there is no mirror device number 7; this process sees 2" in output


LATE = """
source = torch.arange(4.0, device='mirror')
end = torch.zeros(4, pin_memory=True).copy_(source, non_blocking=True)
source.add_(1)
print('early', end.tolist())
torch.mirror.synchronize()
print('late', end.tolist())
"""


def test_what_does_not_block_arrives_late() -> None:
    code, output = python(LATE, MIRROR_ASYNC="1")
    assert code == 0 and "early [0.0, 0.0, 0.0, 0.0]" in output, output
    assert "late [0.0, 1.0, 2.0, 3.0]" in output


FORGETS = """
from frostproof.properties.harness.machine import accelerators
accelerators.synchronize = lambda device: None
"""


def test_a_law_that_forgets_to_wait_is_caught(tmp_path: Path) -> None:
    (tmp_path / "forgets.py").write_text(FORGETS)
    law = "properties/test_device_copies.py::test_every_bit_arrives"
    options = ("-n", "0", law, "--dtype", "float32", "--device", "mirror", "--hypothesis-seed=1")
    code, output = run(tmp_path, *options, MIRROR_ASYNC="1")
    assert code == 0, output
    paths = os.pathsep.join((PACKAGE, str(MIRROR), str(tmp_path)))
    code, output = run(tmp_path, "-p", "forgets", *options, MIRROR_ASYNC="1", PYTHONPATH=paths)
    assert code == 1 and ("non_blocking" in output or "pinned memory" in output), output
