"""remove_spectral_norm makes a frozen weight trainable."""

import sys

import torch

layer = torch.nn.Linear(2, 2)
layer.weight.requires_grad_(False)
torch.nn.utils.spectral_norm(layer)
torch.nn.utils.remove_spectral_norm(layer)
if layer.weight.requires_grad:
    sys.exit("a frozen weight requires grad after remove_spectral_norm")
