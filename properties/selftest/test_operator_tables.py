"""The tables of operators: rows are whole, and let a broken operator through as an alarm."""

import re
from typing import List, Union

import pytest
import torch

from frostproof.properties.harness.core.checks import LawBroken
from frostproof.properties.harness.defects.operator_row import OperatorDefect
from frostproof.properties.harness.defects.operators import DEFECTS
from frostproof.properties.harness.operators.coverage import PORTIONS, lines, noted
from frostproof.properties.harness.operators.modules import masks_of
from frostproof.properties.harness.operators.passes import Found, try_call, try_modules
from frostproof.properties.harness.operators.reasons import REASONS, Reason, name_of
from frostproof.properties.harness.operators.verdict import judge
from frostproof.properties.harness.reproducer.replay import outcome
from frostproof.properties.selftest.test_operator_hunt import HYPOT, broken
from frostproof.strategies import operator_modules, operator_table
from frostproof.strategies.operators import OperatorCase


def test_rows_are_whole_and_named_once() -> None:
    rows: List[Union[OperatorDefect, Reason]] = [*DEFECTS, *REASONS]
    names = [name_of(row) for row in rows]
    assert len(names) == len(set(names))
    for row in rows:
        for pattern in (row.operators, row.laws, row.routes, row.dtypes):
            re.compile(pattern)
    assert all("sys.exit(" in one.program and one.issue and one.when for one in DEFECTS)


def test_a_frozen_neighbour_that_changes_a_gradient_is_an_alarm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "hypot", broken)
    found = Found()
    try_call(found, "hypot", operator_table.call("hypot", "cpu", torch.float64), torch.float64)
    assert any("with x1 frozen" in alarm.sentence for alarm in found.alarms), found.alarms


def test_a_broken_operator_has_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "hypot", broken)
    found = Found()
    call = operator_table.call("hypot", "cpu", torch.float64, "whole", seed=90)
    try_call(found, "hypot", call, torch.float64, transform="whole")
    with pytest.raises(LawBroken) as seen:
        judge(found)
    assert seen.value.program is not None
    program = seen.value.program()
    assert "torch.hypot(x0, x1)" in program
    assert "output 0" in str(outcome(program))
    monkeypatch.setattr(torch, "hypot", HYPOT)
    assert outcome(program) is None


def test_cases_evaluate_back_and_print_programs() -> None:
    case = OperatorCase("mm", sample=3, frozen=(1,))
    assert eval(repr(case)) == case
    scope: dict = {}
    exec("\n".join(case.code()), scope)
    assert scope["output"].requires_grad and not scope["x1"].requires_grad


class Report:
    """A test's report, as far as the coverage reads it."""

    when = "call"

    def __init__(self, portion: str) -> None:
        self.user_properties = list(noted(3, 540, "float64", portion).items())


def test_the_share_is_told_and_needless_rows_after_a_whole_pass() -> None:
    assert lines([Report("")]) == ["operators of torch's database tried in float64: 3 of 540"]
    told = lines([Report(portion) for portion in sorted(PORTIONS)])
    assert any("nothing needed this row" in line for line in told)


def test_a_buffer_that_changes_in_eval_mode_is_an_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    if operator_modules.problem():
        pytest.skip(operator_modules.problem())
    forward = torch.nn.BatchNorm3d.forward

    def counting(self: torch.nn.BatchNorm3d, x: torch.Tensor) -> torch.Tensor:
        if not self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return forward(self, x)

    monkeypatch.setattr(torch.nn.BatchNorm3d, "forward", counting)
    found = Found()
    try_modules(found, ["nn.BatchNorm3d"], "cpu", torch.float64, most=12, masks=2)
    assert any("changed in eval mode" in alarm.sentence for alarm in found.alarms), found.alarms


def test_masks_freeze_parameters_inputs_and_one_at_a_time() -> None:
    values = [torch.zeros(())] * 3
    call = operator_modules.ModuleCall(torch.add, (), {}, values, [], parameters=2)
    made = masks_of(call, 16, "")
    assert made[:3] == [(0, 1), (2,), (0, 1, 2)]
    assert {(0,), (1,), (0, 2), (1, 2)} < {*made}
    assert masks_of(call, 4, "") == made[:4]
