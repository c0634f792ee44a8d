"""update_bn puts a norm that was in eval mode into train mode."""

import sys

import torch
from torch.optim.swa_utils import update_bn

net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
net[1].eval()
update_bn([torch.ones(4, 2)], net)
if net[1].training:
    sys.exit("a norm that was in eval mode is in train mode after update_bn")
