"""A frozen encoder layer goes past the forward of a linear layer that was put into it."""

import sys

import torch


class Adapter(torch.nn.Linear):
    def forward(self, value):
        return super().forward(value) + 1


layer = torch.nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True)
layer.linear1 = Adapter(4, 6)
layer.eval()
with torch.no_grad():
    for parameter in layer.parameters():
        parameter.copy_((torch.arange(float(parameter.numel())) / 50 - 0.3).sin().view_as(parameter))
inputs = torch.arange(12.0).sin().view(1, 3, 4)
live = layer(inputs).detach()
layer.requires_grad_(False)
apart = float((layer(inputs) - live).abs().max())
if apart > 1e-3:
    sys.exit(f"freezing a layer changes its output by up to {apart:.3f}")
