"""remove_parametrizations of a copy takes the weight from the original as well."""

import copy
import sys

import torch
from torch.nn.utils import parametrize

layer = torch.nn.Linear(2, 2)
parametrize.register_parametrization(layer, "weight", torch.nn.Identity())
parametrize.remove_parametrizations(copy.deepcopy(layer), "weight")
try:
    layer(torch.ones(1, 2))
except AttributeError as problem:
    sys.exit(f"the original cannot be called once its copy lost the tool: {problem}")
