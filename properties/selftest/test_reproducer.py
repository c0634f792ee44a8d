"""Programs and messages of broken laws: every law has one, and it tells the truth."""

import functools
import importlib
import inspect
import itertools
import json
import math
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest
import torch
from _pytest.mark import ParameterSet
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from frostproof.properties import test_accumulation, test_histories
from frostproof.properties.harness.core import law
from frostproof.properties.harness.core.bits import read_bits
from frostproof.properties.harness.core.checks import LawBroken
from frostproof.properties.harness.defects.known import applying
from frostproof.properties.harness.reproducer.closing import Tape
from frostproof.properties.harness.reproducer.replay import (
    Own,
    candidates,
    outcome,
    own_end,
    play,
    written,
)
from frostproof.properties.harness.reproducer.statements import TooLong, every
from frostproof.properties.harness.running.case import Case
from frostproof.properties.harness.running.recording import MACHINE, RecordedData, Recorder
from frostproof.properties.harness.session import axes
from frostproof.properties.selftest import PACKAGE, ROOT
from frostproof.properties.selftest.programs import sample
from frostproof.strategies import MLP, Layer, TensorSpec, all_dtypes, mlps
from frostproof.strategies.capabilities import NotOffered
from frostproof.strategies.gates import Gate, GatedNet
from frostproof.strategies.tensors import TENSOR_KINDS, TENSOR_LAYOUTS, TENSOR_SHAPES


def laws() -> Dict[str, Callable[..., None]]:
    """Every law by "test_file.py::test_name", wherever below ``properties`` it lies."""
    found = {}
    for path in sorted((ROOT / "properties").rglob("test_*.py")):
        place = path.relative_to(ROOT).with_suffix("").parts
        if {"own", "selftest"} & set(place):
            continue  # the program of a user's own code is the user's
        module = importlib.import_module(".".join(("frostproof", *place)))
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
        bare = (value.values[0] if isinstance(value, ParameterSet) else value for value in values)
        yield dict(zip(names, bare))


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
        draws = data is not None
        case = Case(test, sentence=test, dtype=dtype, values=named, drawn=drawn, draws_data=draws)
        found.append(case)

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
        Case(test, sentence=test, dtype=dtype, values={"events": trail}, machine=MACHINE["last"])
        for trail in trails
    ]


@pytest.mark.parametrize("test", sorted(laws()))
def test_programs_of_healthy_examples_end_well(test: str) -> None:
    """The program of each assertion, written where it holds: none blames a healthy torch."""
    if any(defect.test == test for defect in applying()):
        pytest.skip("this torch breaks this law")
    for start, reason in ELSEWHERE.items():
        if test.startswith(start):
            pytest.skip(reason)
    function = laws()[test]
    handle = getattr(function, "hypothesis", None)
    law = handle.inner_test if handle else function
    checked = 0
    for name in dtypes_of(function)[:2]:
        for case in examples(test, function, getattr(torch, name), 1)[:2]:
            tape = Tape(Own(law), every=True)
            problem = play(law, case, tape)
            if isinstance(problem, (NotOffered, TooLong)):
                checked += isinstance(problem, TooLong)
                continue
            assert problem is None, f"{problem!r}\n{case}"
            order = list(every(tape.root.body))
            ends = [each for each in order if each.closes]
            for end in ends if len(ends) < 4 else [*ends[:2], *ends[-2:]]:
                for each in ends:  # where a law fails, only the assertion that failed is written
                    each.closes, each.pure = each is end, each is not end
                for kept in candidates(tape, end):
                    text, why = written(tape, kept, case)
                    said = None if why else outcome(text)
                    # another error makes a program that is thrown away
                    assert said is None or not own_end(said, text), f"{said}\n{case}\n{text}"
                    checked += not why and said is None
    assert checked or test in WITHOUT_ASSERTIONS


ELSEWHERE = {
    "test_device_": "it needs a second device",
    "test_across.py::test_devices_train_alike": "it needs a second device",
    "test_across.py::test_compiled_nets_train_alike": "its functions are compiled, not replayed",
    "test_across.py::test_processes_train_alike": "its nets train in another process",
    "test_compiled_cache.py::": "its function is compiled, not replayed",
    "test_compiled_steps.py::": "its steps are compiled, not replayed",
    "test_data_parallel.py::test_replicas_train_as_the_net": "its replicas run in other threads",
    "test_distributed.py::": "its nets train in other processes",
    "test_worker_data.py::": "what it judges comes from another process",
    "test_programs.py::": "its cases are programs already",
    "test_operators.py::": "its cases are collected, not drawn: see test_operator_tables.py",
    "test_operator_modules.py::": "its cases are collected, not drawn: see test_operator_tables.py",
}
# What they compare comes from no call of torch: numbers of Python, the text of a program.
WITHOUT_ASSERTIONS = (
    "test_article.py::test_lambda_examples",
    "test_lambda.py::test_filter_keeps_matches_in_order",
    "test_lambda.py::test_filter_map_reduce",
    "test_lambda.py::test_map_keeps_length_and_order",
    "test_lambda.py::test_reduce_is_the_left_fold",
    "test_eager_model.py::test_programs_do_what_the_model_says",
)


@pytest.mark.parametrize("name", all_dtypes())
def test_a_tensors_program_has_its_bits(name: str) -> None:
    dtype = getattr(torch, name)
    try:
        torch.empty(1, dtype=dtype).tolist()
    except (RuntimeError, NotImplementedError):
        pytest.skip(f"{dtype} has no numbers to write down")
    kinds = itertools.cycle(TENSOR_KINDS)
    for shape, layout, special in itertools.product(
        TENSOR_SHAPES, TENSOR_LAYOUTS, ("ordinary", "mixed")
    ):
        spec = TensorSpec(shape, layout, next(kinds), special, seed=len(shape) + 3)
        code, names = spec.code("cpu", dtype)
        space: Dict[str, Any] = {"torch": torch, "nn": torch.nn, "nan": math.nan, "inf": math.inf}
        exec(code, space)
        source, built = space[names[0]], spec.build("cpu", dtype)
        assert read_bits(source) == read_bits(built), code
        facts = [
            (t.shape, t.stride(), t.storage_offset(), t.requires_grad, t.is_leaf, type(t))
            for t in (source, built)
        ]
        assert facts[0] == facts[1], code


def test_gated_nets_are_written_out() -> None:
    """Laws on nets of gates, one of whose cells this torch breaks, are left out above."""
    law = test_accumulation.test_passes_add_up.hypothesis.inner_test  # type: ignore[attr-defined]
    net = GatedNet(2, (Gate("gated"), Gate("residual")), "mse")
    values = {"device": "cpu", "dtype": torch.float64, "kind": "apart"}
    drawn = [net, (), ("a0",), 2, "none"]
    case = Case("G1", values=values, drawn=drawn, draws_data=True, dtype=torch.float64)
    tape = Tape(Own(law), every=True)
    assert play(law, case, tape) is None
    end = [each for each in every(tape.root.body) if each.closes][-1]
    program = next(filter(None, (written(tape, kept, case)[0] for kept in candidates(tape, end))))
    assert "a0 = torch.nn.Parameter(torch.tensor([" in program
    assert outcome(program) is None, program


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 2, 9, 70])  # the last is drawn in float32
def test_a_networks_program_has_its_weights(dtype: torch.dtype, width: int) -> None:
    layers: Tuple[Layer, ...] = (
        Layer(width, activation="tanh", norm="layer"),
        Layer(width, tied=width > 1, activation="relu", norm="batch", skip=1),
        Layer(3, bias=False),
    )
    if width > 1:
        layers = (Layer(width), *layers)
    network = MLP(2, layers, nested=True, seed=77)
    space: Dict[str, Any] = {"torch": torch, "nn": torch.nn}
    exec(network.code("cpu", dtype)[0], space)
    built = network.build("cpu", dtype)
    names = built.program_names()
    programs = dict(space["net"].named_parameters())
    assert [names[name] for name, _ in built.named_parameters()] == list(programs)
    places = {id(part): place for part, place in built.places()}
    for name, parameter in built.named_parameters():
        assert read_bits(eval(f"net{places[id(parameter)]}", space)) == read_bits(parameter), name


SMALLEST = "MLP(inputs=1, layers=(Layer(width=1),))"
# Fault: the law that it breaks, and whether it hits every net, so that the smallest shows it.
# At least one for each file of laws.
FAULTS = {
    "checkpoint_bends_gradients": ("test_across.py::test_other_ways_train_alike", False),
    "detach_copies": ("test_article.py::test_detached_values_follow", False),
    "clone_detaches": ("test_clone.py::test_is_a_node_of_the_graph", False),
    "clone_doubles_gradients": ("test_clone.py::test_is_the_identity_in_training", True),
    "clone_aliases": ("test_clone.py::test_is_a_snapshot", True),
    "detach_does_not_cut": ("test_cut.py::test_before_the_cut_stays", False),
    "detach_copies_parameters": ("test_detach.py::test_follows_training", True),
    "detach_removes_its_sources_hooks": ("test_detach.py::test_cuts_only_its_own_path", False),
    "detach_loses_the_sign_of_zero": ("test_detach.py::test_shares_storage", False),
    "detach_in_place_does_nothing": ("test_detach_in_place.py::test_detach_in_place", False),
    "double_unfreezes": ("test_flags.py::test_flags_survive", False),
    "frozen_bias_blocks_gradients": ("test_enumeration.py::test_every_mask_and_cut", False),
    "add_param_group_drops_the_last": (
        "test_equivalence.py::test_order_and_groups_do_not_matter",
        False,
    ),
    "asgd_moves_frozen": ("test_freeze.py::test_frozen_stay", True),
    "three_frozen_weights_block_gradients": (
        "test_freeze.py::test_others_gradients_do_not_depend_on_the_mask",
        False,
    ),
    "load_state_dict_restarts_the_count": (
        "test_training_tools.py::test_loading_state_leaves_frozen",
        True,
    ),
    "deepcopy_unfreezes": ("test_histories.py::test_histories", True),
    "backward_keeps_every_graph": ("test_refusals.py::test_backward_refuses", False),
    "zero_grad_leaves_second_group": ("test_lambda.py::test_filtered_optimizer_trains_alike", True),
    "module_flag_misses_biases": ("test_modules.py::test_requires_grad_recurses", True),
    "adamw_forgets_default_decay": ("test_optimizers.py::test_values_follow_the_rule", True),
    "autocast_keeps_what_no_grad_cast": (
        "test_gradients.py::test_linear_under_autocast",
        False,
    ),
    "differentiable_sgd_decays_frozen": ("test_differentiable.py::test_differentiable_steps", False),
    "embedding_counts_repeats_once": ("test_layers.py::test_layers_of_every_kind", False),
    "linear_halves_the_bias_on_sequences": ("test_gradients.py::test_linear_of_every_rank", False),
    "linear_gives_its_bias_zeros": ("test_gradients.py::test_gradients_match_the_oracle", True),
}


def test_the_sample_has_a_fault_for_each_file_that_is_first_to_catch_one() -> None:
    first = {law.split("::")[0] for _, law in sample()}
    tried = {test.split("::")[0] for test, _ in FAULTS.values()}
    assert first - tried <= {"test_cut.py", *LATER, *WITHOUT_PROGRAMS}
    assert {test for test, _ in FAULTS.values()} <= set(laws())


# Files whose programs the sample of ``programs`` tries; here they would take too long.
WITHOUT_PROGRAMS = ("test_operators.py", "test_operator_modules.py")  # they name the call instead
LATER = ("test_freeze_midway.py", "test_lbfgs.py", "test_requires_grad.py", "test_training_tools.py")


def pytest_on(
    test: str, folder: Path, plugin: str, *more: str, fault: str = ""
) -> "subprocess.CompletedProcess[str]":
    """One law, run in a process of its own, with a plugin that breaks torch."""
    command = [sys.executable, "-m", "pytest", "-x", "-n", "0", "-p", plugin, "-p", "no:cacheprovider"]
    command += ["--device=cpu", "--dtype=float32", f"--reproducers={folder / 'out'}", *more]
    environment = {
        **os.environ,
        "FROSTPROOF_FAULT": fault,
        "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "hypothesis"),
        "PYTHONPATH": os.pathsep.join((str(folder), PACKAGE)),
    }
    return subprocess.run(
        [*command, test if "/" in test or "::" not in test else f"properties/{test}"],
        cwd=str(ROOT),
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def broken(fault: str, folder: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    """The law of FAULTS that a fault breaks."""
    more = ("--hypothesis-profile=ci", *more)
    return pytest_on(FAULTS[fault][0], folder, PLUGIN, *more, fault=fault)


PLUGIN = "frostproof.properties.selftest.faults.plugin"


def run_program(path: Path, fault: str) -> List[Tuple[int, str]]:
    """(exit code, stderr) of a program in fresh processes: with the fault, and without it."""
    module = "frostproof.properties.selftest.faults.fault"
    apply = f"from {module} import all_faults; all_faults()[{{!r}}].apply(); "
    run = f"import runpy; runpy.run_path({str(path)!r}, run_name='__main__')"
    # torch warns where numpy is not installed
    environment = {**os.environ, "PYTHONPATH": PACKAGE, "PYTHONWARNINGS": "ignore"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=str(path.parent),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for code in (apply.format(fault) + run, run)
    ]
    return [
        (process.returncode, text) for process, (_, text) in ((p, p.communicate()) for p in running)
    ]


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_program_shows_its_fault_and_nothing_else(fault: str, tmp_path: Path) -> None:
    record = tmp_path / "record.xml"
    result = broken(fault, tmp_path, "--junit-xml", str(record))
    assert result.returncode == 1, result.stdout + result.stderr
    (path,) = (tmp_path / "out").glob("*.py")
    text = path.read_text()
    for word in ("hypothesis", "pytest", "properties", "strategies", "frostproof"):
        assert word not in text
    assert "device cpu, dtype float32" in text
    (code, error), (healthy, nothing) = run_program(path, fault)
    assert code == 1 and healthy == 0, f"{text}\n{error}\n{nothing}"
    assert len(error.strip().splitlines()) == 1, error
    lines = [line for line in text.splitlines() if line.strip()]
    assert len(lines) <= 34, text
    assert text.strip() in result.stdout
    failed = [case for case in ElementTree.parse(record).iter("testcase") if len(case) > 1]
    (facts,) = [{p.get("name"): str(p.get("value")) for p in c.iter("property")} for c in failed]
    assert facts["reproducer"] == text
    for part in ("expected  ", "seen  ", "on  ", "rerun  ", "program  "):
        assert part in facts["message"], facts["message"]
    assert ("example  " in facts["message"]) == bool(facts["description"])
    if FAULTS[fault][1]:
        assert SMALLEST in facts["description"], facts["description"]
    if "MLP(" in facts["description"]:
        assert json.loads(facts["network"])["layers"]


def test_recording_keeps_the_last_draws() -> None:
    @settings(max_examples=1, database=None)
    @given(data=st.data())
    def example(data: st.DataObject) -> None:
        recorded = RecordedData(data)
        network = recorded.draw(mlps(max_depth=2))  # read from the example's block of digits
        assert [network, recorded.draw(st.just(4))] == recorded.drawn and recorded.drawn[1] == 4

    example()
    assert issubclass(LawBroken, AssertionError)
