"""autocast goes on with its copy of a weight that has been changed in place."""

import sys

import torch

layer = torch.nn.Linear(2, 2, bias=False)
torch.nn.init.ones_(layer.weight)
with torch.autocast("cpu", dtype=torch.bfloat16):
    layer(torch.ones(1, 2)).sum().backward()
    torch.optim.SGD(layer.parameters(), lr=1.0).step()
    inside = layer(torch.ones(1, 2)).float().tolist()
with torch.autocast("cpu", dtype=torch.bfloat16):
    outside = layer(torch.ones(1, 2)).float().tolist()
if inside != outside:
    sys.exit(f"after a step the output is {inside} in its region of autocast, {outside} in the next")
