"""remove_parametrizations makes a buffer of a frozen weight that had weight_norm."""

import sys

import torch
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import remove_parametrizations

layer = torch.nn.Linear(2, 2)
layer.weight.requires_grad_(False)
weight_norm(layer)
remove_parametrizations(layer, "weight")
if "weight" not in dict(layer.named_parameters()):
    sys.exit(f"the layer's parameters are {sorted(dict(layer.named_parameters()))}: no weight any more")
