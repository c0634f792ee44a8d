"""from_float of a frozen layer gives parameters that require grad."""

import sys
import warnings

import torch
import torch.ao.nn.quantizable
import torch.ao.quantization

warnings.simplefilter("ignore")
layer = torch.nn.LSTM(2, 2).requires_grad_(False)
layer.qconfig = torch.ao.quantization.default_qconfig
twin = torch.ao.nn.quantizable.LSTM.from_float(layer)
live = sorted(name for name, each in twin.named_parameters() if each.requires_grad)
if live:
    sys.exit(f"the twin of a frozen LSTM requires grad in {live}")
