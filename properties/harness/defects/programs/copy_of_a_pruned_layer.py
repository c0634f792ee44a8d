"""A pruned layer cannot be copied."""

import copy
import sys

import torch
from torch.nn.utils import prune

layer = torch.nn.Linear(2, 2)
prune.l1_unstructured(layer, "weight", 1)
try:
    copy.deepcopy(layer)
except RuntimeError as problem:
    sys.exit(f"deepcopy of a pruned layer raises: {str(problem)[:80]}")
