"""Fusing a trainable layer without bias gives a bias that is frozen."""

import sys

import torch
from torch.nn.utils.fusion import fuse_conv_bn_eval

made = fuse_conv_bn_eval(torch.nn.Conv2d(2, 3, 1, bias=False).eval(), torch.nn.BatchNorm2d(3).eval())
if made.weight.requires_grad and not made.bias.requires_grad:
    sys.exit("of two trainable layers fused, the weight requires grad, the bias does not")
