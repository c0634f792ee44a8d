"""parametrize.cached keeps a weight made under no_grad, which no call trains."""

import sys

import torch
from torch.nn.utils import parametrize


class Double(torch.nn.Module):
    def forward(self, weight):
        return weight * 2


layer = torch.nn.Linear(2, 2)
parametrize.register_parametrization(layer, "weight", Double())
with parametrize.cached():
    with torch.no_grad():
        layer(torch.ones(1, 2))
    layer(torch.ones(1, 2)).sum().backward()
if layer.parametrizations.weight.original.grad is None:
    sys.exit("after a call under no_grad, the weight gets no gradient from one with grad")
