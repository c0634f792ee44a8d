"""What each worker process would import for itself: done once, in the server that they are forked from.

The first step of an optimizer, and the first wrapper of a process, import more than torch itself does.
"""

import importlib
import warnings

import torch


def warm() -> None:
    """Import what training imports late. No backward, and nothing that starts a thread."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    torch.optim.SGD([parameter], lr=0.1).step()
    for name in ("torch.distributed.optim", "torch.distributed.fsdp"):
        try:
            importlib.import_module(name)
        except (ImportError, AttributeError, RuntimeError):
            pass  # this torch has none: the law that needs it says so


with warnings.catch_warnings(record=True):  # kept: some versions warn at an import, past any filter
    warm()
