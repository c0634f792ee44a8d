"""Sharded by fully_shard over gloo, a step is not that of the mean gradient."""

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
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    net = torch.nn.Linear(2, 2, bias=False)
    torch.nn.init.ones_(net.weight)
    fully_shard(net, mesh=init_device_mesh("cpu", (2,)))
    net(torch.ones(1, 2)).sum().backward()
    return net.weight.grad.full_tensor().tolist()


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
    if one != [[1.0, 1.0], [1.0, 1.0]]:
        sys.exit(f"the mean of two gradients of ones is {one}")
