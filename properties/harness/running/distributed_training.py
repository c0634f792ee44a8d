"""Training in two processes of one machine: replicas, shards, partitioned optimizers.

The processes meet through a file, never a fixed port. Both are fed the same data, so that
the mean of their gradients is each one's own, bit for bit.
"""

import dataclasses
import datetime
import os
import tempfile
from typing import Any, Callable, Dict, List, Optional, Tuple

import torch

from frostproof.properties.harness.core.bits import read_bits
from frostproof.properties.harness.running.call_modes import Eager
from frostproof.properties.harness.running.trainer import Trainer, freeze
from frostproof.properties.harness.running.worker_processes import Rank, WorkerDied, Workers
from frostproof.strategies import OptimizerSpec, TrainingRun

WORLD = 2
WAIT = 20  # seconds after which a process gives up waiting for the other
Result = Dict[str, Tuple[bytes, Optional[bytes]]]  # by name: bits, and bits of the gradient


def distributed() -> Any:
    """torch.distributed with gloo; None where this torch was built without it."""
    module = getattr(torch, "distributed", None)
    if module is None or not module.is_available():
        return None
    offered = getattr(module, "is_gloo_available", None)  # since 2.0; before, it went without saying
    return module if offered is None or offered() else None


def join(rank: int, path: str) -> None:
    """Make this process number ``rank`` of the group that meets at ``path``."""
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{path}",
        rank=rank,
        world_size=WORLD,
        timeout=datetime.timedelta(seconds=WAIT),
    )


class Pair:
    """Two processes in one group, started when first asked, fresh after any error."""

    def __init__(self) -> None:
        self.workers: Optional[Workers] = None
        self.folder: Any = None

    def ask(self, plugins: Any, task: Callable[..., Any], *arguments: Any) -> List[Any]:
        """What ``task(rank, *arguments)`` gives in each process; see ``Workers.ask``."""
        if self.workers is None:
            self.folder = tempfile.TemporaryDirectory(prefix="frostproof-")
            self.workers = Workers(WORLD, plugins)
            self.workers.start()
            self.workers.ask(join, Rank, os.path.join(self.folder.name, "meeting"))
        try:
            return self.workers.ask(task, Rank, *arguments)
        except (RuntimeError, WorkerDied):
            self.stop()
            raise

    def stop(self) -> None:
        """End both processes; the next ``ask`` starts others."""
        if self.workers is not None:
            self.workers.stop()
            self.folder.cleanup()
        self.workers = None


PAIR = Pair()


def result_of(trainer: Trainer) -> Result:
    """Bits of each parameter, gradient and buffer; of shards, of the whole."""

    def whole(tensor: Any) -> Any:
        return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor

    held: Dict[str, Any] = {**trainer.named, **dict(trainer.network.named_buffers())}
    return {
        name: (
            read_bits(whole(each.detach())),
            None if each.grad is None else read_bits(whole(each.grad)),
        )
        for name, each in held.items()
    }


class Wrapped(Eager):
    """A net that is called through its wrapper.

    how: a key of ``WRAPPINGS``; rank: of this process, which spoils what the wrapper must mend.
    """

    def __init__(self, run: TrainingRun, dtype: torch.dtype, how: str, rank: int) -> None:
        late = how == "frozen after wrapping"
        super().__init__(dataclasses.replace(run, frozen=()) if late else run, "cpu", dtype)
        if rank and how == "broadcast":
            with torch.no_grad():
                for parameter in self.named.values():
                    parameter.add_(1)
        options: Dict[str, Any] = {"find_unused_parameters": late or bool(run.cuts.positions)}
        if how == "bucket views":
            options["gradient_as_bucket_view"] = True
        if how == "static graph":
            options = {"static_graph": True}
        self.wrapper: Any = self.wrap(how, options)
        if late:
            self.run = run
            freeze(self.named, run.frozen, run.freezing)
        if how.startswith("partitioned optimizer"):
            self.partition("bucket" in how)

    def wrap(self, how: str, options: Dict[str, Any]) -> Any:
        """The wrapper round the net; the optimizer is made anew where it replaces parameters."""
        if how != "shards":
            return torch.nn.parallel.DistributedDataParallel(self.network, **options)
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        fully_shard(self.network, mesh=init_device_mesh("cpu", (WORLD,)))
        self.named = dict(self.network.named_parameters())
        self.optimizer = self.build_optimizer()
        return self.network

    def partition(self, views: bool) -> None:
        """Replace the optimizer by one that each process has a part of."""
        from torch.distributed.optim import ZeroRedundancyOptimizer

        self.optimizer = ZeroRedundancyOptimizer(
            [self.named[name] for name in self.listed],
            getattr(torch.optim, self.spec.name),
            parameters_as_bucket_view=views,
            **dict(self.spec.options),
        )

    def output(self) -> torch.Tensor:
        cuts = self.run.cuts
        made: torch.Tensor = self.wrapper(self.inputs, cuts=cuts.positions, cut_by=cuts.by)
        return made


WRAPPINGS = (
    "as wrapped",
    "broadcast",
    "frozen after wrapping",
    "bucket views",
    "static graph",
    "accumulated",
    "partitioned optimizer",
    "partitioned optimizer, bucket views",
    "shards",
)


def train_wrapped(rank: int, run: TrainingRun, dtype: torch.dtype, how: str) -> Result:
    """Train in this process of the group; parameters and buffers as they are at the end."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as that nothing was unused
        trainer = Wrapped(run, dtype, how, rank)
        if how == "accumulated":
            accumulate(trainer, trainer.wrapper.no_sync)
        else:
            trainer.train()
    return result_of(trainer)


def accumulate(trainer: Trainer, apart: Any) -> None:
    """Two backward passes for each step, the first of them within ``apart()``."""
    for _ in range(trainer.run.steps):
        trainer.clear()
        with apart():
            trainer.backward()
        trainer.backward()
        trainer.apply()


def plainly(run: TrainingRun) -> TrainingRun:
    """The run with the optimizer's default implementation, without a closure, in one group."""
    ways = ("foreach", "fused")
    options = tuple(pair for pair in run.optimizer.options if pair[0] not in ways)
    return dataclasses.replace(run, groups=1, optimizer=OptimizerSpec(run.optimizer.name, options))
