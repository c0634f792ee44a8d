"""Converted by swapping, a parameter loses its hooks and attributes."""

import sys

import torch

layer, seen = torch.nn.Linear(2, 2), []
layer.weight.register_hook(lambda gradient: seen.append(1))
torch.__future__.set_swap_module_params_on_conversion(True)
layer.double()
layer(torch.ones(1, 2, dtype=torch.float64)).sum().backward()
if not seen:
    sys.exit("the weight's hook does not run after a conversion")
