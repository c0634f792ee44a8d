"""update_bn that raises leaves the net in train mode, its norms without momentum."""

import sys

import torch
from torch.optim.swa_utils import update_bn

net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)).eval()
try:
    update_bn([torch.ones(4, 3)], net)
except RuntimeError:
    pass  # three columns, where two are taken
if net.training or net[1].momentum != 0.1:
    sys.exit(f"after update_bn failed: training {net.training}, momentum {net[1].momentum}")
