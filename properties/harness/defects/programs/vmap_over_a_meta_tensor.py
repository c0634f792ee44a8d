"""Under vmap a meta tensor and one of the CPU give memory that nothing wrote."""

import sys

import torch

weight, vectors = torch.ones(2, 2, device="meta"), torch.ones(3, 1, 2)
try:
    made = torch.func.vmap(lambda vector: torch.nn.functional.linear(vector, weight))(vectors)
except (RuntimeError, NotImplementedError):
    sys.exit(0)  # refused, as without vmap
if made.device.type == "cpu":
    sys.exit("a product with a tensor that has no values came out as one of the CPU")
