"""set_optimizer_state_dict drops the state of a parameter that is frozen."""

import sys

import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

net = torch.nn.Linear(2, 2)
optimizer = torch.optim.Adam(net.parameters())
net(torch.ones(1, 2)).sum().backward()
optimizer.step()
optimizer.zero_grad()
net.weight.requires_grad_(False)
saved = get_optimizer_state_dict(net, optimizer)
other = torch.optim.Adam(net.parameters())
set_optimizer_state_dict(net, other, saved)
if net.weight not in other.state or "exp_avg" not in other.state[net.weight]:
    sys.exit(f"saved is the state of {sorted(saved['state'])}, loaded is none of the frozen weight")
