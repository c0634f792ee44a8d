"""vector_to_parameters gives the parameters the vector's dtype."""

import sys

import torch

layer, vector = torch.nn.Linear(2, 2), torch.ones(6, dtype=torch.float64)
torch.nn.utils.vector_to_parameters(vector, layer.parameters())
if layer.weight.dtype != torch.float32:
    sys.exit(f"values of a vector made the weight {layer.weight.dtype}")
