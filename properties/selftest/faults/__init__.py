"""Torch broken on purpose: the measure of what the harness catches.

Each module holds the faults of one subject. A fault is applied in a fresh process
before the harness loads:
``FROSTPROOF_FAULT=NAME pytest -p frostproof.properties.selftest.faults.plugin``.
"""
