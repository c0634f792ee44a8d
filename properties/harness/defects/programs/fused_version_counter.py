"""A fused step leaves the version counter: an older graph goes unnoticed."""

import sys

import torch

weight = torch.nn.Parameter(torch.ones(4))
loss = (weight * weight).sum()
weight.grad = torch.ones(4)
before = weight._version
torch.optim.SGD([weight], lr=0.5, fused=True).step()
if weight._version == before:
    weight.grad = None
    loss.backward()
    sys.exit(f"the gradient of the squares of ones, after a step, is {weight.grad.tolist()}, unrefused")
