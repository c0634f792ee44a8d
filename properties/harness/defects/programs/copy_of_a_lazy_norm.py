"""A lazy norm cannot be copied: its buffers have no deepcopy."""

import copy
import sys

import torch

norm = torch.nn.LazyBatchNorm1d()
try:
    copy.deepcopy(norm)
except Exception as problem:
    sys.exit(f"deepcopy of LazyBatchNorm1d raises {type(problem).__name__}: {str(problem)[:80]}")
