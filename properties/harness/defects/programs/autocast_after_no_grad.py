"""What autocast keeps of a weight under no_grad is a constant to the forward after it."""

import sys

import torch

layer = torch.nn.Linear(2, 2)
inputs = torch.ones(1, 2, requires_grad=True) * 1  # no leaf, which autocast would keep as well
with torch.autocast("cpu", dtype=torch.bfloat16):
    with torch.no_grad():
        layer(inputs)
    layer(inputs).sum().backward()
if layer.weight.grad is None:
    sys.exit("after a call under no_grad, the weight gets no gradient from one with grad")
