"""get_optimizer_state_dict makes a step of its own: counters and rates are off, hooks are run."""

import sys

import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

net, seen = torch.nn.Linear(2, 2), []
optimizer = torch.optim.Adam(net.parameters())
optimizer.register_step_post_hook(lambda *_: seen.append(1))
get_optimizer_state_dict(net, optimizer)
steps = [float(state["step"]) for state in optimizer.state.values()]
if seen or any(steps):
    sys.exit(f"after no step, step counts are {steps}, and the step hook ran {len(seen)} times")
