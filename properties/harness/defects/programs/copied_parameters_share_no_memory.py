"""deepcopy of Parameters that share memory gives each memory of its own."""

import copy
import sys

import torch

whole = torch.zeros(4)
one, two = copy.deepcopy((torch.nn.Parameter(whole[:2]), torch.nn.Parameter(whole[2:])))
if one.data_ptr() + 2 * one.element_size() != two.data_ptr():
    sys.exit("halves of one memory, copied, lie in two")
