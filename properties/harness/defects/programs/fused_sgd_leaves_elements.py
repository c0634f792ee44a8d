"""Fused SGD on the CPU leaves whole vectors of low-precision elements unmoved."""

import sys

import torch

weight = torch.nn.Parameter(torch.ones(64, dtype=torch.bfloat16))
weight.grad = torch.ones_like(weight)
torch.optim.SGD([weight], lr=0.5, fused=True).step()
still = int((weight == 1).sum())
if still:
    sys.exit(f"{still} of 64 elements did not move by a rate of 0.5 times a gradient of 1")
