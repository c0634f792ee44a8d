"""save_on_cpu hides a change in place: gradients are of the new values."""

import sys

import torch

weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
with torch.autograd.graph.save_on_cpu():
    loss = (weight * weight).sum()
with torch.no_grad():
    weight.mul_(5)
try:
    loss.backward()
except RuntimeError:
    sys.exit(0)  # refused, as without it
if weight.grad.tolist() != [2.0, 4.0]:
    sys.exit(f"the gradient of the squares of 1 and 2 is {weight.grad.tolist()}")
