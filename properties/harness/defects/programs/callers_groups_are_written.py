"""An optimizer writes its defaults into the caller's groups: the next one has them too."""

import sys

import torch

groups = [{"params": [torch.nn.Parameter(torch.zeros(2))]}]
torch.optim.SGD(groups, lr=0.1)
second = torch.optim.SGD(groups, lr=0.01)
if second.param_groups[0]["lr"] != 0.01:
    sys.exit(f"an optimizer made with lr=0.01 has the rate {second.param_groups[0]['lr']} of another")
