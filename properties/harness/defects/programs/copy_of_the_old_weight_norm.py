"""A layer with the old weight_norm cannot be copied."""

import copy
import sys

import torch

layer = torch.nn.utils.weight_norm(torch.nn.Linear(2, 2))
try:
    copy.deepcopy(layer)
except RuntimeError as problem:
    sys.exit(f"deepcopy of a layer with weight_norm raises: {str(problem)[:80]}")
