"""deepcopy of a Parameter drops its attributes."""

import copy
import sys

import torch

parameter = torch.nn.Parameter(torch.zeros(2))
parameter.no_decay = True
if not hasattr(copy.deepcopy(parameter), "no_decay"):
    sys.exit("a copied Parameter has lost the attribute of the first")
