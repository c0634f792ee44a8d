"""Adafactor divides by the number of elements: an empty parameter ends its step."""

import sys

import torch

empty = torch.nn.Parameter(torch.zeros(0, 3))
empty.grad = torch.zeros(0, 3)
optimizer = torch.optim.Adafactor([empty])
try:
    optimizer.step()
except ZeroDivisionError as problem:
    sys.exit(f"a step over an empty parameter raises ZeroDivisionError: {problem}")
