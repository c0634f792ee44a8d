"""Replicas with masks that differ, of equal shapes, are wrapped by DDP, and drift apart."""

import datetime
import os
import sys
import tempfile

import torch
import torch.distributed
import torch.multiprocessing as processes


def process(rank, path, pipe):
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{path}",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=30),
    )
    pipe.send(train(rank))
    torch.distributed.destroy_process_group()


def train(rank):
    net = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2, bias=False))
    torch.nn.init.ones_(net[0].weight)
    torch.nn.init.ones_(net[1].weight)
    net[rank].requires_grad_(False)
    wrapper = torch.nn.parallel.DistributedDataParallel(net)
    wrapper(torch.ones(1, 2)).sum().backward()
    torch.optim.SGD(net.parameters(), lr=0.1).step()
    return [each.tolist() for each in net.parameters()]


if __name__ == "__main__":
    context = processes.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        answers, pair = [], []
        for rank in range(2):
            ours, theirs = context.Pipe()
            arguments = (rank, os.path.join(folder, "meeting"), theirs)
            pair.append(context.Process(target=process, args=arguments, daemon=True))
            pair[-1].start()
            theirs.close()
            answers.append(ours)
        one, two = (each.recv() if each.poll(60) else sys.exit(2) for each in answers)
        for each in pair:
            each.join(10)
    if one != two:
        sys.exit(f"after one step replicas have the weights {one} and {two}")
