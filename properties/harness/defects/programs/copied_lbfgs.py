"""LBFGS that was copied or pickled has lost the list of its parameters."""

import copy
import sys

import torch

weight = torch.nn.Parameter(torch.ones(2))
other, optimizer = copy.deepcopy((weight, torch.optim.LBFGS([weight])))


def closure():
    optimizer.zero_grad()
    loss = other.pow(2).sum()
    loss.backward()
    return loss


try:
    optimizer.step(closure)
except AttributeError as problem:
    sys.exit(f"a step of a copied LBFGS raises AttributeError: {problem}")
