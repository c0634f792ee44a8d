"""A frozen layer gives NaN for a sequence of padding alone, which a live one does not."""

import sys

import torch

layer = torch.nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True).eval()
inputs, mask = torch.ones(2, 3, 4), torch.tensor([[False, False, False], [True, True, True]])
live = layer(inputs, src_key_padding_mask=mask).isnan().sum()
layer.requires_grad_(False)
frozen = layer(inputs, src_key_padding_mask=mask).isnan().sum()
if frozen > live:
    sys.exit(f"NaN in the output: {int(live)} as it is, {int(frozen)} once frozen")
