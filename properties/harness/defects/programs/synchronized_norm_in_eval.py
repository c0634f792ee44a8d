"""convert_sync_batchnorm puts a norm in eval mode into train mode."""

import sys

import torch

norm = torch.nn.SyncBatchNorm.convert_sync_batchnorm(torch.nn.BatchNorm1d(2).eval())
if norm.training:
    sys.exit("a norm in eval mode is in train mode after convert_sync_batchnorm")
