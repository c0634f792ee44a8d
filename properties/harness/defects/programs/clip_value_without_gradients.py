"""clip_grad_value_ raises RuntimeError where no parameter has a gradient."""

import sys

import torch

layer = torch.nn.Linear(2, 2).requires_grad_(False)
try:
    torch.nn.utils.clip_grad_value_(layer.parameters(), 1.0)
except RuntimeError as problem:
    sys.exit(f"clipping the gradients of what is frozen raises: {problem}")
