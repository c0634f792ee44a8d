"""A frozen encoder layer in eval mode ignores dropout that is in train mode."""

import sys

import torch

layer = torch.nn.TransformerEncoderLayer(4, 2, 6, dropout=0.5, batch_first=True).eval()
layer.dropout1.train()
layer.dropout2.train()
inputs = torch.arange(48.0).sin().view(4, 3, 4)


def drops():
    return not torch.equal(layer(inputs), layer(inputs))


live = drops()
layer.requires_grad_(False)
if live and not drops():
    sys.exit("dropout in train mode drops in a live layer, and not once it is frozen")
