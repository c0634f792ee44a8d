"""A copied optimizer without the option capturable raises KeyError in its step, where CUDA is there."""

import copy
import sys

import torch

weight = torch.nn.Parameter(torch.ones(2))
optimizer = torch.optim.SGD([weight], lr=0.1)
_, copied = copy.deepcopy((weight, optimizer))
try:
    copied.step()
except KeyError as problem:
    sys.exit(f"the step of a copied optimizer raises KeyError: {problem}")
