"""load_state_dict leaves ASGD's step count on the device where it was saved."""

import sys

import torch

here = torch.nn.Parameter(torch.ones(2))
there = torch.nn.Parameter(torch.ones(2, device="meta"))
one, two = torch.optim.ASGD([here]), torch.optim.ASGD([there])
here.grad = torch.ones(2)
one.step()
two.load_state_dict(one.state_dict())
found = {name: str(value.device) for name, value in two.state[there].items() if torch.is_tensor(value)}
if {"meta"} != {*found.values()}:
    sys.exit(f"of a parameter on the device meta, the loaded state lies on {found}")
