"""Programs and messages of broken laws: every law has one, and it tells the truth."""

import functools
import importlib
import inspect
import itertools
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from properties import test_histories
from properties.harness import axes, law
from properties.harness.bits import read_bits
from properties.harness.checks import LawBroken
from properties.harness.known_defects import applying
from properties.harness.reproducer.case import Case
from properties.harness.reproducer.networks import emit_network, in_code, program_names
from properties.harness.reproducer.recording import RecordedData, Recorder
from properties.harness.reproducer.registry import scripts, templates
from properties.harness.reproducer.script import Script, outcome
from properties.harness.reproducer.tensors import emit_tensor
from strategies import MLP, Layer, TensorSpec, all_dtypes, mlps
from strategies.tensors import KINDS, LAYOUTS, SHAPES

ROOT = Path(__file__).resolve().parents[2]


def laws() -> Dict[str, Callable[..., None]]:
    """Every law by "test_file.py::test_name"."""
    found = {}
    for path in sorted((ROOT / "properties").glob("test_*.py")):
        module = importlib.import_module(f"properties.{path.stem}")
        for name, value in vars(module).items():
            if name.startswith("test_") and any(
                mark.name == "law" for mark in getattr(value, "pytestmark", ())
            ):
                found[f"{path.name}::{name}"] = value
    return found


def marks_of(function: Any, name: str) -> List[Any]:
    return [mark for mark in function.pytestmark if mark.name == name]


def dtypes_of(function: Any) -> Tuple[str, ...]:
    """A few dtypes of a law: all kinds that it takes."""
    (mark,) = marks_of(function, "law")
    names = axes.dtypes_of(mark.kwargs["dtypes"], "cpu", (), False)
    if mark.kwargs["dtypes"] != law.ANY:
        return names[:3]
    return tuple(
        name for name in ("float32", "bool", "int16", "complex64", "bfloat16") if name in names
    )


def parameters_of(function: Any) -> Iterator[Dict[str, Any]]:
    """The values of other parametrizations."""
    marks = marks_of(function, "parametrize")
    names = [mark.args[0] for mark in marks]
    for values in itertools.product(*(mark.args[1] for mark in marks)):
        yield dict(zip(names, values))


def examples(test: str, function: Any, dtype: torch.dtype, count: int) -> List[Case]:
    """Healthy examples of a law, as cases."""
    found: List[Case] = []
    arguments: Dict[str, Any] = {"device": "cpu", "dtype": dtype}
    handle = getattr(function, "hypothesis", None)
    inner = handle.inner_test if handle else function
    wanted = set(inspect.signature(inner).parameters)
    arguments = {name: value for name, value in arguments.items() if name in wanted}
    if test.startswith("test_histories.py"):
        return histories(test, function, dtype, 3 * count)
    if handle is None:
        depths = [{"depth": 2}] if "depth" in wanted else [{}]
        for own in parameters_of(function):
            for depth in depths:
                values = {**arguments, **own, **depth}
                found.append(Case(test, sentence=test, dtype=dtype, values=values))
        return found

    @functools.wraps(inner)
    def recorded(**named: Any) -> None:
        named = Recorder.watched(named)
        inner(**named)
        data = named.pop("data", None)
        drawn = data.drawn if isinstance(data, RecordedData) else []
        found.append(Case(test, sentence=test, dtype=dtype, values=named, drawn=drawn))

    before = function._hypothesis_internal_use_settings
    function._hypothesis_internal_use_settings = settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    handle.inner_test = recorded
    try:
        for own in parameters_of(function):
            function(**arguments, **own)
    finally:
        handle.inner_test = inner
        function._hypothesis_internal_use_settings = before
    return found


def histories(test: str, function: Any, dtype: torch.dtype, count: int) -> List[Case]:
    """Healthy histories, each also cut off at every event."""
    trails: List[List[Any]] = []
    own, before = test_histories.History.teardown, settings.default
    profile = settings(
        max_examples=count, derandomize=False, database=None, deadline=None, phases=[Phase.generate]
    )
    settings.register_profile("histories", profile)
    settings.load_profile("histories")
    test_histories.History.teardown = lambda self: trails.append(list(self.trail))  # type: ignore[method-assign]
    try:
        function(device="cpu", dtype=dtype)
    finally:
        test_histories.History.teardown = own  # type: ignore[method-assign]
        settings.register_profile("before", before)
        settings.load_profile("before")
    return [
        Case(test, sentence=test, dtype=dtype, values={"events": trail[: end + 1]})
        for trail in trails
        for end in range(0, min(len(trail), 20))
    ]


def test_every_law_has_a_template() -> None:
    assert sorted(templates()) == sorted(laws())


@pytest.mark.parametrize("test", sorted(laws()))
def test_programs_of_healthy_examples_end_well(test: str) -> None:
    if any(defect.test == test for defect in applying()):
        pytest.skip("this torch breaks this law")
    function = laws()[test]
    ran = 0
    for name in dtypes_of(function):
        for case in examples(test, function, getattr(torch, name), 8):
            for script in scripts(case):
                text = script.text()
                ends = outcome(text)
                assert ends is None, f"{ends}\n{case}\n{text}"
                compact = script.shortened(lambda _: "broken")
                assert outcome(compact) is None, compact
                ran += 1
    assert ran


@pytest.mark.parametrize("name", all_dtypes())
def test_a_tensors_program_has_its_bits(name: str) -> None:
    dtype = getattr(torch, name)
    kinds = itertools.cycle(KINDS)
    for shape, layout, special in itertools.product(SHAPES, LAYOUTS, ("ordinary", "mixed")):
        spec = TensorSpec(shape, layout, next(kinds), special, seed=len(shape) + 3)
        script = Script([])
        emit_tensor(script, "source", spec, "cpu", dtype)
        script.header = ['device = "cpu"', f"dtype = {dtype}"]
        space: Dict[str, Any] = {}
        exec(script.text(), space)
        source, built = space["source"], spec.build("cpu", dtype)
        assert read_bits(source) == read_bits(built), script.text()
        facts = [
            (t.shape, t.stride(), t.storage_offset(), t.requires_grad, t.is_leaf, type(t))
            for t in (source, built)
        ]
        assert facts[0] == facts[1], script.text()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("width", [1, 2, 9])
def test_a_networks_program_has_its_weights(dtype: torch.dtype, blocks: bool, width: int) -> None:
    layers: Tuple[Layer, ...] = (
        Layer(width, activation="tanh", norm="layer"),
        Layer(width, tied=width > 1, activation="relu", norm="batch", skip=1),
        Layer(3, bias=False),
    )
    if width > 1:
        layers = (Layer(width), *layers)
    network = MLP(2, layers, nested=True, seed=77)
    script = Script([])
    emit_network(script, network, dtype, blocks=blocks)
    script.header = ['device = "cpu"', f"dtype = {dtype}"]
    space: Dict[str, Any] = {}
    exec(script.text(), space)
    names = program_names(network, blocks)
    built = dict(network.build("cpu", dtype).named_parameters())
    assert [names[name] for name in built] == [name for name, _ in space["net"].named_parameters()]
    for name, parameter in built.items():
        assert read_bits(eval(in_code(names[name]), space)) == read_bits(parameter), name


FAULTS = {
    "detach_copies": (
        "torch.Tensor.detach = lambda self, old=torch.Tensor.detach: old(self).clone()",
        "test_detach.py::test_shares_storage",
    ),
    "detach_does_not_cut": (
        "torch.Tensor.detach = lambda self: self.view_as(self)",
        "test_cut.py::test_before_the_cut_stays",
    ),
    "clone_aliases": (
        "torch.Tensor.clone = lambda self, memory_format=None: self.view_as(self)",
        "test_clone.py::test_owns_its_memory",
    ),
    "clone_scales_gradients": (
        "old = torch.Tensor.clone\n"
        "def clone(self, memory_format=torch.preserve_format):\n"
        "    out = old(self, memory_format=memory_format)\n"
        "    if out.requires_grad:\n"
        "        out.register_hook(lambda g: g * 1.5)\n"
        "    return out\n"
        "torch.Tensor.clone = clone",
        "test_clone.py::test_is_the_identity_in_training",
    ),
    "sgd_decays_frozen": (
        "old = torch.optim.SGD.step\n"
        "def step(self, closure=None):\n"
        "    with torch.no_grad():\n"
        "        [p.mul_(0.999) for g in self.param_groups for p in g['params']"
        " if not p.requires_grad]\n"
        "    return old(self, closure)\n"
        "torch.optim.SGD.step = step",
        "test_freeze.py::test_frozen_stay",
    ),
    "adam_is_twice_as_fast": (
        "old = torch.optim.Adam.__init__\n"
        "def init(self, params, lr=0.001, **options):\n"
        "    old(self, params, lr=2 * lr, **options)\n"
        "torch.optim.Adam.__init__ = init",
        "test_optimizers.py::test_values_follow_the_rule",
    ),
    "mse_is_doubled": (
        "old = torch.nn.functional.mse_loss\ntorch.nn.functional.mse_loss = lambda a, b: 2 * old(a, b)",
        "test_optimizers.py::test_gradients_match_the_oracle",
    ),
    "module_freezing_misses_biases": (
        "def requires_grad_(self, requires_grad=True):\n"
        "    for name, p in self.named_parameters():\n"
        "        if not name.endswith('bias'):\n"
        "            p.requires_grad = requires_grad\n"
        "    return self\n"
        "torch.nn.Module.requires_grad_ = requires_grad_",
        "test_modules.py::test_requires_grad_recurses",
    ),
    "groups_are_lost": (
        "old = torch.optim.Optimizer.add_param_group\n"
        "def add(self, group):\n"
        "    if not self.param_groups:\n"
        "        old(self, group)\n"
        "torch.optim.Optimizer.add_param_group = add",
        "test_equivalence.py::test_order_and_groups_do_not_matter",
    ),
    "state_dict_copies": (
        "old = torch.nn.Module.state_dict\n"
        "torch.nn.Module.state_dict = lambda self, *a, **k: "
        "{n: v.clone() for n, v in old(self, *a, **k).items()}",
        "test_clone.py::test_state_dict_follows",
    ),
    "clipping_does_nothing": (
        "torch.nn.utils.clip_grad_value_ = lambda *a, **k: None\n"
        "torch.nn.utils.clip_grad_norm_ = lambda *a, **k: None",
        "test_freeze.py::test_clipping_leaves_frozen",
    ),
    "article_detach_copies": (
        "torch.Tensor.detach = lambda self, old=torch.Tensor.detach: old(self).clone()",
        "test_article.py::test_detached_values_follow",
    ),
    "zero_grad_keeps_frozen_gradients": (
        "torch.optim.Optimizer.zero_grad = lambda self, set_to_none=True: None\n"
        "torch.nn.Module.zero_grad = lambda self, set_to_none=True: None",
        "test_freeze.py::test_frozen_midway_with_cleared_gradients",
    ),
    "requires_grad_is_ignored": (
        "old = torch.nn.functional.mse_loss\n"
        "def loss(a, b):\n"
        "    out = old(a, b)\n"
        "    return out if out.requires_grad else out.requires_grad_()\n"
        "torch.nn.functional.mse_loss = loss",
        "test_freeze.py::test_all_frozen_refuses_backward",
    ),
    "backward_forgets_the_mask": (
        "old = torch.Tensor.backward\n"
        "def backward(self, *a, **k):\n"
        "    old(self, *a, **k)\n"
        "    for p in SEEN:\n"
        "        if not p.requires_grad and p.grad is None:\n"
        "            p.grad = torch.ones_like(p)\n"
        "SEEN = []\n"
        "make = torch.nn.Linear.__init__\n"
        "def init(self, *a, **k):\n"
        "    make(self, *a, **k)\n"
        "    SEEN[:] = [*SEEN[-8:], self.weight]\n"
        "torch.nn.Linear.__init__ = init\n"
        "torch.Tensor.backward = backward",
        "test_enumeration.py::test_every_mask_and_cut",
    ),
}


def broken(fault: str, folder: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    """The law that a fault breaks, run in a process of its own."""
    code, test = FAULTS[fault]
    (folder / f"{fault}.py").write_text(f"import torch\n{code}\n")
    command = [sys.executable, "-m", "pytest", "-x", "-n", "0", "-p", fault, "-p", "no:cacheprovider"]
    command += [
        "--hypothesis-profile",
        "ci",
        "--dtype",
        "float32",
        "--reproducers",
        str(folder / "out"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(
        [*command, *more, f"properties/{test}"],
        cwd=str(ROOT),
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def run_program(path: Path, folder: Path, fault: str = "") -> "subprocess.CompletedProcess[str]":
    """A program in a fresh process, with a fault or without, far from the project."""
    apply = f"import {fault}; " if fault else ""
    code = f"{apply}import runpy; runpy.run_path({str(path)!r}, run_name='__main__')"
    # torch warns where numpy is not installed
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONWARNINGS": "ignore"}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=str(folder),
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_program_shows_its_fault_and_nothing_else(fault: str, tmp_path: Path) -> None:
    result = broken(fault, tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    (path,) = (tmp_path / "out").glob("*.py")
    text = path.read_text()
    for word in ("hypothesis", "pytest", "properties", "strategies", "frostproof"):
        assert word not in text
    with_fault = run_program(path, tmp_path, fault)
    assert with_fault.returncode == 1, f"{text}\n{with_fault}"
    assert len(with_fault.stderr.strip().splitlines()) == 1, with_fault.stderr
    without = run_program(path, tmp_path)
    assert without.returncode == 0, f"{text}\n{without}"
    lines = [line for line in text.splitlines() if line.strip()]
    assert len(lines) <= 45, text
    assert text in result.stdout or text.strip() in result.stdout


def test_the_message_says_what_is_needed(tmp_path: Path) -> None:
    record = tmp_path / "record.xml"
    result = broken("sgd_decays_frozen", tmp_path, "--junit-xml", str(record))
    output = result.stdout
    assert "F1: after every step a frozen parameter has its bits" in output
    assert "frozen layers.0.linear" in output and "became" in output
    assert 'pytest "properties/test_freeze.py::test_frozen_stay[cpu-float32]"' in output
    assert "--hypothesis-seed=" in output and str(torch.__version__) in output
    # the smallest net: one layer of width 1 on one input
    assert "MLP(inputs=1, layers=(Layer(width=1, " in output
    for hidden in ("checks.py", "evidence.py", "hypothesis/core.py", "Traceback"):
        assert hidden not in output
    assert len(output.splitlines()) < 80, output
    (case,) = [case for case in ElementTree.parse(record).iter("testcase")]
    properties = {p.get("name"): p.get("value") for p in case.iter("property")}
    assert "sys.exit(" in str(properties["reproducer"])
    assert "frozen layers.0.linear" in str(properties["message"])
    assert "TrainingRun(" in str(properties["description"])


def test_the_whole_traceback_on_request(tmp_path: Path) -> None:
    output = broken("sgd_decays_frozen", tmp_path, "-vv").stdout
    assert "def test_frozen_stay" in output and "expected  F1" in output


def test_programs_that_cannot_be_written_are_no_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file where the folder should be")
    result = broken("detach_copies", tmp_path)
    assert result.returncode == 1
    assert "not written to" in result.stdout and "sys.exit(" in result.stdout


def test_recording_keeps_the_last_draws() -> None:
    @settings(max_examples=1, database=None)
    @given(data=st.data())
    def example(data: st.DataObject) -> None:
        recorded = RecordedData(data)
        network = recorded.draw(mlps(max_depth=2))  # read from the example's block of digits
        assert [network, recorded.draw(st.just(4))] == recorded.drawn and recorded.drawn[1] == 4

    example()
    assert issubclass(LawBroken, AssertionError)
