"""A frozen encoder layer in eval mode runs no hook of its parts."""

import sys

import torch

layer, seen = torch.nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True).eval(), []
layer.norm1.register_forward_hook(lambda *_: seen.append(1))
layer(torch.ones(1, 3, 4))
layer.requires_grad_(False)
layer(torch.ones(1, 3, 4))
if len(seen) == 1:
    sys.exit("a hook of a part runs in a live layer, and not once it is frozen")
