"""The step of OneCycleLR, or SWALR, raises KeyError once a group was added."""

import sys

import torch

optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1, momentum=0.9)
scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10)
optimizer.step()
optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(2))]})
try:
    scheduler.step()
except KeyError as problem:
    sys.exit(f"OneCycleLR.step after add_param_group raises KeyError: {problem}")
