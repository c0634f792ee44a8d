"""A pytest plugin that breaks torch as ``FROSTPROOF_FAULT`` names, in every worker."""

import os

import pytest

from frostproof.properties.selftest.faults.fault import all_faults


def _apply(name: str) -> None:
    faults = all_faults()
    if name not in faults:
        raise pytest.UsageError(f"FROSTPROOF_FAULT={name}: no such fault")
    faults[name].apply()


_apply(os.environ.get("FROSTPROOF_FAULT", ""))
