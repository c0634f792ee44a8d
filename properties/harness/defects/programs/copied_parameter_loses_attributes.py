"""deepcopy of a Parameter drops its attributes."""

import copy
import sys

import torch

parameter, tensor = torch.nn.Parameter(torch.zeros(2)), torch.zeros(2)
parameter.no_decay = tensor.no_decay = True
if hasattr(copy.deepcopy(tensor), "no_decay") and not hasattr(copy.deepcopy(parameter), "no_decay"):
    sys.exit("a copied tensor has the attribute of the first, a copied Parameter has not")
