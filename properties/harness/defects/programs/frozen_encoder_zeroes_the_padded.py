"""A frozen encoder gives zeros in place of what is padded."""

import sys
import warnings

import torch

warnings.simplefilter("ignore")
layer = torch.nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True)
encoder = torch.nn.TransformerEncoder(layer, 2).eval()
inputs, mask = torch.arange(12.0).sin().view(1, 3, 4), torch.tensor([[False, False, True]])
live = encoder(inputs, src_key_padding_mask=mask)[0, 2].detach()
encoder.requires_grad_(False)
frozen = encoder(inputs, src_key_padding_mask=mask)[0]
if len(frozen) < 3 or (not frozen[2].any() and live.any()):
    sys.exit(f"the output for a padded token was {live.tolist()}, and is zeros, or none, once frozen")
