"""A lazy layer cannot be copied."""

import copy
import sys

import torch

layer = torch.nn.LazyLinear(3)
try:
    copy.deepcopy(layer)
except Exception as problem:
    sys.exit(f"deepcopy of LazyLinear raises {type(problem).__name__}: {str(problem)[:80]}")
