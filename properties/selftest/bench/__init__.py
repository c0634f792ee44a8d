"""What the harness costs over the bare torch work: ``python -m frostproof.properties.selftest.bench``.

Everything is measured side by side in one run, and given as ratios: the microseconds are
this machine's. Nothing here is a test, and no test is timed.
"""
