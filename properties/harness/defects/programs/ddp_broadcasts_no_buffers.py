"""DDP: the first forward after one in no_sync, or under no_grad, broadcasts no buffers."""

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
    norm = torch.nn.BatchNorm1d(1)
    wrapper = torch.nn.parallel.DistributedDataParallel(norm)
    inputs, found = torch.tensor([[1.0], [3.0]]) * (rank + 1), []
    norm.register_forward_pre_hook(lambda *_: found.append(float(norm.running_mean)))
    wrapper(inputs).pow(2).sum().backward()
    with wrapper.no_sync():
        wrapper(inputs).pow(2).sum().backward()
    wrapper(inputs).pow(2).sum().backward()
    wrapper(inputs).pow(2).sum().backward()
    return found


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
    if one[2] != two[2]:
        sys.exit(f"the forward after no_sync has the mean {one[2]:.3f} here, {two[2]:.3f} there")
