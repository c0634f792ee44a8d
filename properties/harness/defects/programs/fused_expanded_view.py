"""A fused step over an expanded view writes past the end of its storage, and can end the process."""

import sys

import torch

memory = torch.zeros(64)
expanded = torch.nn.Parameter(memory[:1].expand(16))
expanded.grad = torch.ones(16)
try:
    torch.optim.SGD([expanded], lr=1.0, fused=True).step()
except RuntimeError:
    sys.exit(0)  # refused, as the other implementations do
written = int(memory[1:].count_nonzero())
if written:
    sys.exit(f"a step over one expanded element wrote {written} elements after it")
