"""Code that was compiled for inputs that share memory is taken from disk for others, or the reverse."""

import os
import sys
import tempfile

import torch


def written(first, second):
    second.mul_(first)
    return first + 1


def call(shared):
    torch._dynamo.reset()
    first = torch.tensor([3.0, 4.0])
    second = first[:] if shared else torch.tensor([5.0, 6.0])
    torch.compile(written, dynamic=False)(first, second)
    return second.tolist()


for first_call in (True, False):
    with tempfile.TemporaryDirectory() as os.environ["TORCHINDUCTOR_CACHE_DIR"]:
        call(first_call)
        try:
            found = call(not first_call)
        except AssertionError as problem:
            sys.exit(f"inputs of another kind: {type(problem).__name__}")
    wanted = [15.0, 24.0] if first_call else [9.0, 16.0]
    if found != wanted:
        sys.exit(f"the input that was written to is {found}, not {wanted}")
