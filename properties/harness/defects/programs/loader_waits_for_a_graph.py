"""A loader waits in vain for a sample with a graph: what its worker says is lost."""

import os
import signal
import sys
import warnings

import torch
from torch.utils.data import DataLoader, Dataset

warnings.simplefilter("ignore")


class Live(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, place):
        return torch.ones(2, requires_grad=True) * place


def silence(worker):
    sys.stderr = open(os.devnull, "w")  # where the refusal is printed, and nowhere else


if __name__ == "__main__":
    loader = DataLoader(
        Live(),
        batch_size=None,
        num_workers=1,
        timeout=10,
        multiprocessing_context="spawn",
        worker_init_fn=silence,
    )
    try:
        next(iter(loader))
    except RuntimeError as problem:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # how the worker ends is not the point
        if "timed out" in str(problem):
            sys.exit(f"the worker's refusal is lost; but for the timeout this had no end: {problem}")
