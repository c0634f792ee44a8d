"""get_ema_avg_fn moves the average of a value that stands still, step by step."""

import sys

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

net = torch.nn.Linear(64, 64)
with torch.no_grad():
    net.weight.copy_((torch.arange(64.0 * 64) / 4095 - 0.3).view(64, 64))
average = AveragedModel(net, avg_fn=get_ema_avg_fn(0.99))
for _ in range(30):
    average.update_parameters(net)
moved = (average.module.weight != net.weight).sum()
if moved:
    sys.exit(f"{int(moved)} of 4096 averages of a weight that never moved are not that weight")
