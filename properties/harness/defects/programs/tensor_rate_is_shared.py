"""Groups share a rate that is a tensor: a schedule sets it for all of them."""

import sys

import torch

groups = [{"params": [torch.nn.Parameter(torch.zeros(2))]} for _ in range(2)]
optimizer = torch.optim.Adam(groups, lr=torch.tensor(0.5))
rules = [lambda epoch: 1.0, lambda epoch: 0.5**epoch]
scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rules)
optimizer.step()
scheduler.step()
rates = [float(group["lr"]) for group in optimizer.param_groups]
if rates != [0.5, 0.25]:
    sys.exit(f"of 0.5, one group to keep it and one to halve it, came {rates}")
