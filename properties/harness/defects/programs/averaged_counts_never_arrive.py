"""An average of whole numbers is cut off at each update, and never arrives."""

import sys

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

norm = torch.nn.BatchNorm1d(2)
average = AveragedModel(norm, avg_fn=get_ema_avg_fn(0.5), use_buffers=True)
average.update_parameters(norm)
norm.num_batches_tracked.fill_(8)
for _ in range(40):
    average.update_parameters(norm)
found = int(average.module.num_batches_tracked)
if found != 8:
    sys.exit(f"after 40 updates, each half way to 8, the average is {found}")
