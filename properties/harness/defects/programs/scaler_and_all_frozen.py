"""GradScaler.step raises AssertionError where no parameter has a gradient."""

import sys

import torch

scaler = torch.amp.GradScaler("cpu")
frozen, live = torch.nn.Linear(2, 2).requires_grad_(False), torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(frozen.parameters(), lr=0.1)
scaler.scale(live(frozen(torch.ones(1, 2))).sum()).backward()
try:
    scaler.step(optimizer)
except AssertionError as problem:
    sys.exit(f"GradScaler.step of an optimizer of what is frozen raises AssertionError: {problem}")
