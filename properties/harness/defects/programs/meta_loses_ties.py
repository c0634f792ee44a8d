"""A net that goes to or from the meta device loses its ties."""

import sys

import torch

net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
net[1].weight = net[0].weight
net.to("meta")
if net[1].weight is not net[0].weight:
    sys.exit("one weight under two names is two on the device meta")
