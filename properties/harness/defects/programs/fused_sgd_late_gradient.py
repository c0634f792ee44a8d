"""Fused SGD with momentum cannot step once another parameter of a group is unfrozen."""

import sys

import torch

early, late = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
optimizer = torch.optim.SGD([early, late], lr=0.5, momentum=0.5, fused=True)
early.grad = torch.ones(2)
optimizer.step()
late.grad = torch.ones(2)
try:
    optimizer.step()
except (RuntimeError, TypeError) as problem:
    sys.exit(f"the step with a gradient that came later raises: {str(problem)[:80]}")
