"""load_state_dict(assign=True) gives live parameters, the source's, the net's flags."""

import sys

import torch

net, source = torch.nn.Linear(2, 2).requires_grad_(False), torch.nn.Linear(2, 2)
net.load_state_dict(source.state_dict(keep_vars=True), assign=True)
if not source.weight.requires_grad:
    sys.exit("loading from a net froze that net")
