"""Torch broken on purpose: every fault does something, and the short set is caught."""

import json

import pytest
import torch

from frostproof.properties.harness.defects.known import version_tuple
from frostproof.properties.selftest.faults.catalogue import collected_laws
from frostproof.properties.selftest.faults.fault import Fault, all_faults
from frostproof.properties.selftest.faults.process import run_alone
from frostproof.properties.selftest.faults.report import not_applicable
from frostproof.properties.selftest.faults.runner import run_one

FAULTS = all_faults()
ABSENT = {
    fault.name for fault in not_applicable(list(FAULTS.values()), version_tuple(torch.__version__))
}
SMOKE = [fault for fault in FAULTS.values() if fault.smoke and fault.name not in ABSENT]


def test_every_witness_is_true_on_a_healthy_torch_and_false_under_its_fault() -> None:
    names = [name for name in FAULTS if name not in ABSENT]
    command = ["frostproof.properties.selftest.faults.probe", *names]
    _, output, _ = run_alone(command, {"FROSTPROOF_FAULT": ""}, limit=600)
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    said = {line.pop("fault"): line for line in lines}
    good = {"healthy": True, "broken": True}
    wrong = {name: said.get(name, "crashed") for name in names if said.get(name) != good}
    assert not wrong, output[-3000:]


def test_faults_name_laws_that_exist() -> None:
    known = {ident for law in collected_laws().values() for ident in law.split()}
    wrong = {name: fault.laws for name, fault in FAULTS.items() if not known.issuperset(fault.laws)}
    assert not wrong


@pytest.mark.parametrize("fault", SMOKE, ids=lambda fault: fault.name)
def test_is_caught_by_an_expected_law(fault: Fault) -> None:
    outcome = run_one(fault, seed=1, profile="default", limit=120)
    assert outcome.expected, outcome
