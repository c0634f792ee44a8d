"""ignore_frozen_params leaves a frozen weight in under its second name."""

import sys

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

net = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2))
net[1].weight = net[0].weight
net[0].weight.requires_grad_(False)
found = get_model_state_dict(net, options=StateDictOptions(ignore_frozen_params=True))
if sorted(found) != ["1.bias"]:
    sys.exit(f"only 1.bias is trainable, and the state dict has {sorted(found)}")
