"""Adamax takes the largest of no numbers: an empty parameter ends its step."""

import sys

import torch

empty = torch.nn.Parameter(torch.zeros(0))
empty.grad = torch.zeros(0)
optimizer = torch.optim.Adamax([empty])
try:
    optimizer.step()
except (RuntimeError, IndexError) as problem:
    sys.exit(f"a step over an empty parameter raises {type(problem).__name__}: {problem}")
