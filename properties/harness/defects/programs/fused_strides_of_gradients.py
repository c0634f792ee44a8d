"""A fused step takes the wrong elements of a gradient of other strides than its parameter's."""

import sys

import torch

parameter = torch.nn.Parameter(torch.zeros(3, 2).t())
parameter.grad = torch.arange(6.0).view(2, 3)
torch.optim.SGD([parameter], lr=1.0, fused=True).step()
if parameter.tolist() != (-torch.arange(6.0).view(2, 3)).tolist():
    sys.exit(f"zeros less {parameter.grad.tolist()} are {parameter.tolist()}")
