"""A scheduler's step raises once a group was added to its optimizer."""

import sys

import torch

optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1)
scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.9**epoch)
optimizer.step()
optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(2))]})
try:
    scheduler.step()
except (ValueError, IndexError) as problem:
    sys.exit(f"LambdaLR.step after add_param_group raises {type(problem).__name__}: {problem}")
