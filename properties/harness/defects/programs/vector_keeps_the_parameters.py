"""vector_to_parameters lays the parameters into the caller's vector."""

import sys

import torch

layer, vector = torch.nn.Linear(2, 2), torch.ones(6)
torch.nn.utils.vector_to_parameters(vector, layer.parameters())
vector.zero_()
if not layer.weight.abs().sum():
    sys.exit("zeroing the vector, after its values were given, zeroed the weight")
