"""A batch that is shared out: each part goes through a replica of the net, in a thread of its own.

What ``torch.nn.parallel`` does on several accelerators, which its functions need; here on any device.
"""

import copy
import threading
from functools import cache
from typing import Any, Callable, Dict, List, Sequence

import torch

from frostproof.properties.harness.core.checks import snapshot
from frostproof.properties.harness.machine import accelerators
from frostproof.properties.harness.running.call_modes import Eager, called_with
from frostproof.strategies import Cuts, TrainingRun
from frostproof.strategies.capabilities import NotOffered

Values = Dict[str, torch.Tensor]  # by the keys of a state_dict


def attributes(replica: torch.nn.Module, values: Values, inputs: torch.Tensor, cuts: Cuts) -> Any:
    """Call a module once other values stand where its parameters and buffers were."""
    for key, value in values.items():
        path, _, name = key.rpartition(".")
        owner: Any = replica
        for part in filter(None, path.split(".")):
            owner = getattr(owner, part)
        delattr(owner, name)  # a parameter gives way to no plain tensor
        setattr(owner, name, value)
    return replica(inputs, cuts=cuts.positions, cut_by=cuts.by)


# "stateless": with other values, which it does not keep
REPLICAS: Dict[str, Callable[..., Any]] = {"stateless": called_with, "attributes": attributes}


def in_threads(calls: Sequence[Callable[[], torch.Tensor]]) -> List[torch.Tensor]:
    """What each call gives in a thread of its own, with this one's grad mode; or its error."""
    found: Dict[int, Any] = {}
    grad_mode = torch.is_grad_enabled()

    def work(number: int) -> None:
        try:
            with torch.set_grad_enabled(grad_mode):
                found[number] = calls[number]()
        except BaseException as problem:
            found[number] = problem

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for value in found.values():
        if isinstance(value, BaseException):
            raise value
    return [found[number] for number in range(len(calls))]


class Replicated(Eager):
    """A net whose batch is shared out to ``count`` replicas, or as many as there are samples.

    how: a key of REPLICAS; copies: what each replica had of the net when it was last called; kept:
    the bits of what the replicas themselves have, and are called without.
    """

    def __init__(self, run: TrainingRun, device: str, dtype: torch.dtype, how: str, count: int) -> None:
        super().__init__(run, device, dtype)
        self.how = REPLICAS[how]
        self.replicas = [copy.deepcopy(self.network) for _ in range(count)]
        self.copies: List[Values] = []
        self.kept = snapshot(dict(self.network.named_parameters()))

    def copied(self) -> Values:
        """A differentiable copy of each parameter and buffer; one of a tied weight."""
        held = self.network.state_dict(keep_vars=True)
        made = {id(value): value.clone() for value in held.values()}
        return {key: made[id(value)] for key, value in held.items()}

    def output(self) -> torch.Tensor:
        parts = self.inputs.chunk(len(self.replicas))
        self.copies = [self.copied() for _ in parts]

        def call(number: int) -> Callable[[], torch.Tensor]:
            given = (self.replicas[number], self.copies[number], parts[number], self.run.cuts)
            return lambda: self.how(*given)

        return torch.cat(in_threads([call(number) for number in range(len(parts))]))


@cache
def data_parallel_options(device: str) -> Dict[str, Any]:
    """What ``torch.nn.DataParallel`` is given to stay on a device; raises ``NotOffered``."""
    if torch.device(device).type == "cpu":
        beside = [kind for kind in accelerators.available() if kind != "mps"]
        if beside:
            raise NotOffered(f"DataParallel: beside {beside[0]} it takes no net on the CPU")
        return {}
    options: Dict[str, Any] = {"device_ids": [torch.device(device).index or 0]}
    layer = torch.nn.Linear(1, 1).to(device)
    try:
        torch.nn.DataParallel(layer, **options)(torch.ones(2, 1, device=device))
    except Exception as problem:
        raise NotOffered(f"DataParallel on {device}: {type(problem).__name__}: {problem}") from None
    return options


def data_parallel(network: torch.nn.Module, device: str) -> Any:
    """The net in a ``torch.nn.DataParallel`` of one device, or that passes through."""
    return torch.nn.DataParallel(network, **data_parallel_options(device))
