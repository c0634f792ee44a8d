"""How a description is run: trainer, call modes, subprocesses, workarounds, known defects."""
