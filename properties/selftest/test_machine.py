"""Faults of the machine: what dies, hangs, fills up or is interrupted loses no verdict."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, List, Tuple
from xml.etree import ElementTree

import pytest

from frostproof.properties.harness.machine import crash, faults, progress, running
from frostproof.properties.selftest import ROOT

LAWS = Path(__file__).with_name("toy_laws.py")


def command(*arguments: str) -> List[str]:
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(LAWS), *arguments]


def environment(**more: str) -> Any:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    return {**kept, "OMP_NUM_THREADS": "1", **more}


def run(folder: Path, *arguments: str, **more: Any) -> Tuple[int, str]:
    """(exit code, output) of a run of toy laws, whose examples are kept in ``folder``."""
    done = subprocess.run(
        command("--reproducers=" + str(folder), *arguments),
        cwd=str(ROOT),
        env=environment(HYPOTHESIS_STORAGE_DIRECTORY=str(folder), **more.pop("env", {})),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        **more,
    )
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def deaths(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One run with two workers in which one law after the other takes its worker along.

    In what Hypothesis takes for a CI job, where its own default keeps no examples.
    """
    folder = tmp_path_factory.mktemp("deaths")
    laws = "killed or segfault or memory or poisoned or hanging or fine"
    options = (
        "-n",
        "2",
        "-k",
        laws,
        "--hypothesis-seed=5",
        "--law-timeout",
        "3",
        f"--junit-xml={folder / 'record.xml'}",
    )
    code, output = run(folder, *options, env={"CI": "true"})
    cases = {
        case.get("name", "").partition("[")[0]: {
            item.get("name"): item.get("value") for item in case.iter("property")
        }
        for case in ElementTree.parse(str(folder / "record.xml")).iter("testcase")
    }
    return folder, code, output, cases


def test_the_other_results_stand(deaths: Any) -> None:
    _, code, output, cases = deaths
    assert code == 1, output
    assert "6 failed, 1 passed" in output
    assert len(cases) == 7
    assert "never reported" not in output


@pytest.mark.parametrize(
    ("law", "seen"),
    [
        ("test_killed", "the process was killed by SIGKILL"),
        ("test_segfault", "the process was killed by SIGSEGV"),
        ("test_out_of_memory", faults.OUT_OF_MEMORY),
        ("test_poisoned", faults.POISONED),
        ("test_hanging", "no new example and no assertion for 3 s"),
        ("test_hanging_deaf", "stood still"),
    ],
)
def test_a_dead_law_is_reported_with_its_example(deaths: Any, law: str, seen: str) -> None:
    message = deaths[3][law]["message"]
    assert seen in message
    assert "network=MLP(" in message
    assert f"{law}[cpu-float64]" in message and "--hypothesis-seed=5" in message
    assert deaths[3][law]["law"].startswith("T") and deaths[3][law]["torch"]
    if law == "test_killed":
        assert "draw 1: " in message


def test_stacks_are_shown(deaths: Any) -> None:
    output = deaths[2]
    for line in ("Fatal Python error: Segmentation fault", "Timeout (0:00:06)!", "time.sleep(1000)"):
        assert line in output


def test_a_death_is_tried_first_by_the_next_run(deaths: Any) -> None:
    code, output = run(deaths[0], "-n", "1", "-k", "segfault")
    assert code == 1
    assert "killed by SIGSEGV (worker gw0, example 1)" in output


def test_one_process_alone(tmp_path: Path) -> None:
    laws = "(memory or hanging or fine or poisoned or slow) and not deaf"
    code, output = run(tmp_path, "-n", "0", "-k", laws, "--law-timeout", "2")
    assert code == 1, output
    assert "no new example and no assertion for 2 s" in output
    assert faults.OUT_OF_MEMORY in output and faults.POISONED in output
    assert "the remaining tests need another process" in output
    assert "test_slow" not in output  # it comes after the poisoned context


def test_one_process_that_is_ended_is_told_by_the_next_run(tmp_path: Path) -> None:
    # any other run in this checkout would take the note along: these have a folder of their own
    alone = {"TMPDIR": str(tmp_path)}
    code, output = run(tmp_path, "-n", "0", "-k", "deaf or fine", "--law-timeout", "2", env=alone)
    assert code == 1
    assert "Timeout (0:00:04)!" in output and "test_hanging_deaf" in output
    code, output = run(tmp_path, "-n", "0", "-k", "fine", env=alone)
    assert code == 0
    assert "an earlier run died in" in output and "network=MLP(" in output
    code, output = run(tmp_path, "-n", "0", "-k", "fine", env=alone)
    assert "an earlier run" not in output


@pytest.mark.parametrize("workers", ["0", "2"])
def test_control_c_ends_soon_with_the_results_so_far(workers: str, tmp_path: Path) -> None:
    options = ("-n", workers, "-v", "-k", "fine or hanging and not deaf")
    process = subprocess.Popen(
        command("--reproducers=" + str(tmp_path), "--hypothesis-seed=5", *options),
        cwd=str(ROOT),
        env=environment(HYPOTHESIS_STORAGE_DIRECTORY=str(tmp_path), PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    output = ""
    try:
        while "PASSED" not in output:  # the other law waits for ever
            chunk = os.read(process.stdout.fileno(), 1000).decode()
            assert chunk, output
            output += chunk
        time.sleep(1)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        output += process.communicate(timeout=30)[0]  # raises where it goes on
        assert process.returncode == 2, output
        assert re.search(r"\d passed", output)
        with pytest.raises(ProcessLookupError):
            time.sleep(0.5)
            os.killpg(process.pid, 0)  # nobody of the group is left
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


FULL = """
import os, resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))  # no file may grow, as on a full disk
import pytest
sys.exit(pytest.main())
"""

READ_ONLY = """
import os, sys
root, writing = sys.argv.pop(1), os.O_WRONLY | os.O_RDWR | os.O_CREAT
def refuse(event, arguments):
    path = arguments[0] if arguments else None
    if not isinstance(path, (str, bytes)) or not os.fsdecode(path).startswith(root):
        return
    if event in ("os.mkdir", "os.rename", "os.remove") or event == "open" and arguments[2] & writing:
        raise OSError(30, "Read-only file system", path)
sys.addaudithook(refuse)
import pytest
sys.exit(pytest.main())
"""


@pytest.mark.parametrize("disk", ["full", "read-only"])
def test_a_disk_that_refuses_loses_no_verdict(disk: str, tmp_path: Path) -> None:
    kept = (tmp_path if disk == "full" else ROOT) / ".kept"
    options = [
        str(LAWS),
        "-n",
        "0",
        "-k",
        "fine or test_broken",
        "--junit-xml",
        str(kept / "record.xml"),
    ]
    start = ["-c", FULL] if disk == "full" else ["-c", READ_ONLY, str(ROOT)]
    done = subprocess.run(
        [sys.executable, *start, *options, "-o", f"cache_dir={kept}", "--reproducers", str(kept)],
        cwd=str(ROOT),
        env=environment(HYPOTHESIS_STORAGE_DIRECTORY=str(kept / "hypothesis")),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stdout
    assert "1 failed, 1 passed" in done.stdout, done.stdout
    assert "it is deep" in done.stdout and "INTERNALERROR" not in done.stdout
    assert "--junit-xml" in done.stdout and "cannot be written" in done.stdout
    assert disk == "full" or not kept.exists()


def test_two_runs_in_one_checkout(tmp_path: Path) -> None:
    def start(number: int) -> Any:
        options = ("-n", "0", "-k", "fine or test_broken", f"--hypothesis-seed={number}")
        return subprocess.Popen(
            command("--reproducers=" + str(tmp_path), *options),
            cwd=str(ROOT),
            env=environment(HYPOTHESIS_STORAGE_DIRECTORY=str(tmp_path)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    for process in [start(1), start(2)]:
        output = process.communicate(timeout=120)[0]
        assert process.returncode == 1 and "1 failed, 1 passed" in output, output


class Broken(RuntimeError):
    """Named like torch's own."""


Broken.__name__ = "AcceleratorError"


@pytest.mark.parametrize(
    ("problem", "works", "expected"),
    [
        (RuntimeError("CUDA error: device-side assert triggered\nmore"), False, faults.POISONED),
        (Broken("an illegal memory access was encountered"), False, faults.POISONED),
        (RuntimeError("CUDA error: invalid argument"), True, None),
        (RuntimeError("CUDA out of memory. Tried"), True, faults.OUT_OF_MEMORY),
        (RuntimeError("CUDA error: out of memory"), True, faults.OUT_OF_MEMORY),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False, None),
        (AssertionError("CUDA error"), False, None),
    ],
)
def test_faults_are_told_from_broken_laws(problem: Any, works: bool, expected: Any) -> None:
    def check(device: str) -> None:
        assert device == "cuda"
        if not works:
            raise RuntimeError("CUDA error: device-side assert triggered")

    fault = faults.fault_of(problem, "cpu", check)
    assert (fault.what if fault else None) == expected


def test_how_a_process_ended() -> None:
    assert crash.manner(-9) == "the process was killed by SIGKILL"
    assert crash.manner(3) == "the process ended with exit status 3"
    assert crash.manner(None) == "the process died"


def test_a_torn_note_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "a.note"
    assert running.read(path).nodeid == ""
    for blob in (b"", b"{", b"\0", b"[]", b"x" * running.LAW + b"\xff", b'{"nodeid": "a"}\0'):
        path.write_bytes(blob)
        assert running.read(path).number == 0


def test_a_progress_line() -> None:
    drawing = running.Noted({"nodeid": "f.py::test_a[cpu]", "examples": 2000, "started": 50.0}, 120)
    whole = running.Noted({"nodeid": "f.py::test_b[cpu]", "examples": 0, "started": 10.0}, 0)
    shrinking = running.Noted({"nodeid": "f.py::test_c[cpu]", "examples": 5, "started": 60.0}, 9)
    text = progress.line([drawing, whole, shrinking, running.Noted()], 7, 30, 0.0, 100.0)
    assert text == (
        "frostproof 0:01:40: 7 of 30 tests done; test_b[cpu] for 0:01:30; "
        "test_a[cpu] 120 done, 1880 to go; "
        "test_c[cpu] 9 done, more than 5: shrinking, or many rejected"
    )


def test_progress_is_told_on_lines_of_its_own(tmp_path: Path) -> None:
    for workers in ("0", "2"):
        code, output = run(tmp_path, "-n", workers, "-k", "slow or fine", "--progress", "0.5")
        assert code == 0, output
        lines = [line for line in output.splitlines() if "frostproof 0:" in line]
        assert any(re.search(r"test_slow\S* \d+ done, \d+ to go", line) for line in lines), output
        assert all(line.startswith("frostproof 0:") for line in lines)


def test_a_note_costs_little(tmp_path: Path) -> None:
    running.open_note(tmp_path / "a.note")
    try:
        times = []
        for _ in range(200):
            began = time.perf_counter()
            running.example()
            times.append(time.perf_counter() - began)
    finally:
        running.close_note()
    assert sorted(times)[len(times) // 2] < 20e-6  # 1 to 3 us; shared machines are slow
