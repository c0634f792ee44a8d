"""Fused, two frozen layers require grad."""

import sys

import torch
from torch.nn.utils.fusion import fuse_conv_bn_eval

convolution, norm = torch.nn.Conv2d(2, 3, 1).eval(), torch.nn.BatchNorm2d(3).eval()
made = fuse_conv_bn_eval(convolution.requires_grad_(False), norm.requires_grad_(False))
if made.weight.requires_grad:
    sys.exit("two frozen layers, fused, require grad")
