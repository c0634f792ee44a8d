"""A fused step over a slice of columns writes the columns beside it instead."""

import sys

import torch

whole = torch.zeros(8, 4)
part = torch.nn.Parameter(whole[:, :2])
part.grad = torch.ones(8, 2)
torch.optim.SGD([part], lr=1.0, fused=True).step()
if whole.tolist() != [[-1.0, -1.0, 0.0, 0.0]] * 8:
    sys.exit(f"a step of -1 over the first two columns of zeros leaves {whole.tolist()}")
