"""requires_grad_ refuses a parameter that has no shape yet."""

import sys

import torch

layer = torch.nn.LazyLinear(3)
try:
    layer.requires_grad_(False)
except ValueError as problem:
    sys.exit(f"LazyLinear.requires_grad_(False) raises ValueError: {str(problem)[:80]}")
