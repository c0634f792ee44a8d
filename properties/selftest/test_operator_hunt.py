"""Operators as a source of the hunt: a broken one is found, grouped, and its program shows it."""

import random
from pathlib import Path
from typing import Any, Tuple

import pytest
import torch

from frostproof.properties.harness.hunting import report
from frostproof.properties.harness.hunting.source import SOURCES, Fact, source_of
from frostproof.properties.harness.hunting.worker import Hunter
from frostproof.properties.harness.operators.reasons import applying
from frostproof.properties.harness.operators.source import Case, Operators
from frostproof.properties.selftest.faults.patching import altered
from frostproof.strategies import operator_database
from frostproof.strategies.capabilities import storage_of
from frostproof.strategies.operators import OperatorCase

HYPOT = torch.hypot if hasattr(torch, "hypot") else None


def broken(one: torch.Tensor, two: torch.Tensor, **named: Any) -> torch.Tensor:
    """hypot, doubled where its second input is frozen."""
    assert HYPOT is not None
    made: torch.Tensor = HYPOT(one, two, **named)
    return made * (1 if two.requires_grad else 2)


def exit_code(program: str) -> int:
    """Of a program that runs in this process, where torch may be broken."""
    try:
        exec(compile(program, "program", "exec"), {})
    except SystemExit as ended:
        return 1 if ended.code else 0
    return 0


def common(*names: str) -> Operators:
    """The common operators of these names, with the database or without it."""
    made = Operators("cpu", names)
    made.kind = "table"
    return made


def test_the_hunt_knows_the_source() -> None:
    assert "operators" in SOURCES
    assert {"frozen_neighbours", "accumulation", "inputs_stay"} <= {*source_of("operators").modes()}


def test_a_broken_operator_is_found_grouped_and_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = common("hypot", "mm", "tanh")
    modes = ["frozen_neighbours", "detached", "cloned"]
    monkeypatch.setattr(torch, "hypot", broken)
    hunter = Hunter(source, modes, tmp_path, 0, 1)
    for _ in range(40):
        hunter.one()
    hunter.tell()
    found = [find for find, _ in report.groups(tmp_path)]
    assert {find.mode for find in found} >= {"frozen_neighbours", "detached"}
    assert {find.skeleton for find in found} == {("hypot",)}
    for find in found:
        program = source.script(source.load(find.case), find.mode, find.fact)
        monkeypatch.setattr(torch, "hypot", broken)
        assert exit_code(program) == 1, program
        monkeypatch.setattr(torch, "hypot", HYPOT)
        assert exit_code(program) == 0, program
        assert len(eval(find.case, {"Case": Case, "OperatorCase": OperatorCase}).call.frozen) == 1


def _doubled_in_a_graph(one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
    if one.requires_grad and not two.requires_grad:
        one = altered(one, lambda slope: slope * (2 if torch.is_grad_enabled() else 1))
    return SOUND["hypot"](one, two)


def _slope_of_nothing(one: torch.Tensor) -> torch.Tensor:
    return SOUND["sign"](one) + one - one.detach()


def _with_its_input(one: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
    same = torch.empty(0, dtype=one.dtype)
    return SOUND["tanh"](one), same.set_(storage_of(one.detach()), 0, one.shape, one.stride())


def _into_another(one: torch.Tensor, two: torch.Tensor, **named: Any) -> torch.Tensor:
    return SOUND["mm"](one, two)


def _not_in_place(one: torch.Tensor) -> torch.Tensor:
    return SOUND["tanh"](one)


SOUND = {name: getattr(torch, name) for name in ("hypot", "sign", "tanh", "mm")}


@pytest.mark.parametrize(
    "mode, operator, owner, function, made",
    [
        ("twice", "hypot", torch, "hypot", _doubled_in_a_graph),
        ("without_effect", "sign", torch, "sign", _slope_of_nothing),
        ("sharing", "tanh", torch, "tanh", _with_its_input),
        ("given_out", "mm", torch, "mm", _into_another),
        ("in_place", "tanh", torch.Tensor, "tanh_", _not_in_place),
    ],
)
def test_the_program_of_each_law_shows_it(
    monkeypatch: pytest.MonkeyPatch, mode: str, operator: str, owner: Any, function: str, made: Any
) -> None:
    source = common(operator)
    frozen = (1,) if mode == "twice" else ()
    case = Case(OperatorCase(operator, 0, frozen), "float64")
    assert not source.judge(case, mode)
    sound = getattr(owner, function)
    monkeypatch.setattr(owner, function, made)
    facts = source.judge(case, mode)
    assert facts
    program = source.script(case, mode, facts[0])
    assert exit_code(program) == 1, program
    monkeypatch.setattr(owner, function, sound)
    assert exit_code(program) == 0, program


@pytest.mark.parametrize("mode", ["sharing", "twice", "without_effect", "given_out", "in_place"])
def test_the_program_of_a_sound_operator_ends_well(mode: str) -> None:
    if operator_database.problem():
        pytest.skip(operator_database.problem())
    source = Operators("cpu", ["addmm", "cumsum", "hypot", "nn.functional.relu", "logsumexp"])
    source.kind = "database"
    for operator in source.names:
        case = Case(OperatorCase(operator, 0, (), "plain", "database"), "float64")
        if mode == "in_place" and case.call.build("cpu", torch.float64).inplace is None:
            continue
        if mode == "given_out" and case.call.build("cpu", torch.float64).out is None:
            continue
        program = source.script(case, mode, Fact("O4", mode))
        assert exit_code(program) == 0, program


def test_a_case_is_read_back_and_made_smaller() -> None:
    source = common("mm")
    case = source.draw(random.Random(3))
    assert source.load(repr(case)) == case
    assert all(source.size(one) != source.size(case) for one in source.simpler(case))


@pytest.mark.parametrize(
    "operator, mode, row",
    [
        ("sgn", "accumulation", "gradient_of_sgn_cannot_be_written"),
        ("nn.functional.prelu", "forward_mode", "prelu_at_zero"),
        ("logcumsumexp", "forward_mode", "forward_mode_of_logcumsumexp_loses_small_terms"),
    ],
)
def test_known_defects_are_covered_and_their_programs_show_them(
    operator: str, mode: str, row: str
) -> None:
    if operator_database.problem():
        pytest.skip(operator_database.problem())
    if row not in [one.name for one in applying()]:
        pytest.skip(f"no defect of torch {torch.__version__}")
    source = Operators("cpu", [operator])
    shown: Tuple[int, ...] = ()
    for transform in ("plain", "whole"):
        for sample in range(len(source.sizes(operator, "float64"))):
            case = Case(OperatorCase(operator, sample, (), transform, "database"), "float64")
            facts = source.judge(case, mode)
            if facts and all(source.covered(case, mode, fact) for fact in facts):
                shown += (exit_code(source.script(case, mode, facts[0])),)
    assert shown and all(shown), shown
