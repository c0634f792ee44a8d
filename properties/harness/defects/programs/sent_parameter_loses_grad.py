"""A parameter that is sent to a process loses its gradient, which is said to be shared."""

import sys

import torch
import torch.multiprocessing as processes


def answer(parameter, pipe):
    pipe.send(parameter.grad is not None)


if __name__ == "__main__":
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.full((2,), 3.0)
    context = processes.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=answer, args=(weight, theirs), daemon=True)
    process.start()
    arrived = ours.recv() if ours.poll(60) else None
    process.join(10)
    if arrived is False:
        sys.exit("a parameter with a gradient has none in the process that it was sent to")
