"""Each mode has faults of its own, and the law of programs catches those of the cheap modes."""

import pytest

from frostproof.properties.harness.programs import transforms  # noqa: F401  (adds its modes)
from frostproof.properties.harness.programs.modes import MODES
from frostproof.properties.selftest.faults.mode_fault import (
    MODE_FAULTS,
    SHARING,
    VALUES,
    faults_of,
)
from frostproof.properties.selftest.mode_faults import count_of, try_fault

SAMPLE = (
    ("func-vjp", "vjp_doubles_the_first_gradient"),
    ("functional_call", "functional_call_copies"),
    ("make_fx", "make_fx_loses_writes"),
    ("module-deepcopy", "copies_forget_what_is_frozen"),
    ("saved-identity", "hooks_leave_grad_mode_off"),
    ("thread", "threads_begin_without_grad"),
)


def test_each_mode_has_a_fault_of_each_kind() -> None:
    lacking = [m for m in MODES if not {VALUES, SHARING} <= {fault.kind for fault in faults_of(m)}]
    assert not lacking


def test_faults_name_modes_that_exist() -> None:
    assert {mode for fault in MODE_FAULTS.values() for mode in fault.modes} <= set(MODES)


@pytest.mark.parametrize("mode, name", SAMPLE)
def test_a_fault_is_caught(mode: str, name: str) -> None:
    if MODES[mode].missing():
        pytest.skip(MODES[mode].missing())
    outcome = try_fault(mode, MODE_FAULTS[name], seed=1, count=count_of(mode))
    assert outcome.number, outcome
    assert not outcome.alarms, outcome.program
