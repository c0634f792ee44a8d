"""Ways of training, each broken: processes, shards, saved activations, scaled and eval-mode steps."""

import os
import tempfile
from contextlib import contextmanager
from typing import Any, Iterator, Optional

import torch

from frostproof.properties.selftest.faults.fault import fault
from frostproof.properties.selftest.faults.patching import wrap


@contextmanager
def _group() -> Iterator[None]:
    """This process is a group of its own."""
    with tempfile.TemporaryDirectory() as folder:
        place = f"file://{os.path.join(folder, 'meeting')}"
        torch.distributed.init_process_group("gloo", init_method=place, rank=0, world_size=1)
        try:
            yield
        finally:
            torch.distributed.destroy_process_group()


def _half_frozen() -> torch.nn.Sequential:
    net = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(1.0)
    net[0].requires_grad_(False)
    return net


def _replica() -> Any:
    """A net with a frozen layer after one backward pass of its wrapper."""
    with _group():
        net = _half_frozen()
        torch.nn.parallel.DistributedDataParallel(net)(torch.ones(1, 1)).sum().backward()
    return net


def _around_replicas(action: Any) -> None:
    def around(init: Any, self: Any, module: Any, *args: Any, **kwargs: Any) -> None:
        init(self, module, *args, **kwargs)
        action(module)

    wrap(torch.nn.parallel.DistributedDataParallel, "__init__", around)


@fault("W2", witness=lambda: _replica()[0].weight.tolist() == [[1.0]])
def replicas_broadcast_into_the_frozen() -> None:
    """DistributedDataParallel writes other values into frozen parameters."""

    def action(module: Any) -> None:
        with torch.no_grad():
            for parameter in module.parameters():
                if not parameter.requires_grad:
                    parameter.mul_(1.5)

    _around_replicas(action)


@fault("W2", witness=lambda: _replica()[1].bias.grad.tolist() == [1.0])
def replicas_halve_gradients_of_biases() -> None:
    """DistributedDataParallel gives biases half of their gradient."""

    def action(module: Any) -> None:
        for parameter in module.parameters():
            if parameter.requires_grad and parameter.dim() == 1:
                parameter.register_hook(lambda gradient: gradient * 0.5)

    _around_replicas(action)


def _partitioned() -> float:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    with _group():
        net = _half_frozen()
        optimizer = ZeroRedundancyOptimizer(list(net.parameters()), torch.optim.SGD, lr=0.1)
        net(torch.ones(1, 1)).sum().backward()
        optimizer.step()
    first: Any = net[0]
    return float(first.weight)


@fault("W2", witness=lambda: _partitioned() == 1.0, since=(2, 0))
def partitioned_optimizers_move_the_frozen() -> None:
    """ZeroRedundancyOptimizer moves parameters without a gradient."""
    from torch.distributed.optim import ZeroRedundancyOptimizer

    def around(step: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        made = step(self, *args, **kwargs)
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is None:
                        parameter.mul_(1.25)
        return made

    wrap(ZeroRedundancyOptimizer, "step", around)


def _sharded() -> Any:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    with _group():
        net = _half_frozen()
        fully_shard(net, mesh=init_device_mesh("cpu", (1,)))
        return [each.requires_grad for each in net.parameters()]


@fault("W2", witness=lambda: _sharded() == [False, False, True, True], since=(2, 6))
def sharding_unfreezes() -> None:
    """Parameters that fully_shard has taken require grad."""
    import torch.distributed.fsdp as fsdp

    def around(shard: Any, module: Any, *args: Any, **kwargs: Any) -> Any:
        made = shard(module, *args, **kwargs)
        module.requires_grad_(True)
        return made

    wrap(fsdp, "fully_shard", around)


def _offloaded() -> float:
    value = torch.tensor(1.001, requires_grad=True)
    with torch.autograd.graph.save_on_cpu():
        made = value * value
    made.backward()
    assert value.grad is not None
    return float(value.grad)


@fault("W1", "W3", witness=lambda: abs(_offloaded() - 2.002) < 1e-5, since=(2, 0))
def offloaded_values_are_rounded() -> None:
    """save_on_cpu keeps activations in bfloat16."""
    graph = torch.autograd.graph

    def pack(tensor: torch.Tensor) -> Any:
        return tensor.dtype, tensor.bfloat16() if tensor.is_floating_point() else tensor

    class Rounded(graph.saved_tensors_hooks):
        def __init__(self, pin_memory: bool = False, device_type: Optional[str] = None) -> None:
            super().__init__(pack, lambda packed: packed[1].to(packed[0]))

    graph.save_on_cpu = Rounded  # type: ignore[assignment, misc]


def _hooked() -> int:
    parameter = torch.nn.Parameter(torch.ones(1))
    seen = []
    parameter.register_post_accumulate_grad_hook(lambda _: seen.append(1))
    (parameter * 2).sum().backward()
    return len(seen)


@fault("W1", witness=lambda: _hooked() == 1, since=(2, 1))
def hooks_after_accumulation_run_twice() -> None:
    """A hook that waits for a gradient runs twice for each backward pass."""

    def around(register: Any, self: Any, hook: Any) -> Any:
        def twice(parameter: Any) -> None:
            hook(parameter)
            hook(parameter)

        return register(self, twice)

    wrap(torch.Tensor, "register_post_accumulate_grad_hook", around)


def _scaled() -> float:
    scaler = torch.amp.GradScaler("cpu")  # type: ignore[attr-defined]
    live, frozen = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
    frozen.requires_grad_(False)
    optimizer = torch.optim.SGD([live, frozen], lr=0.1)
    scaler.scale((live * frozen).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    return float(frozen)


@fault("W4", "F9", witness=lambda: _scaled() == 1.0, since=(2, 3))
def scaled_steps_move_the_frozen() -> None:
    """GradScaler.step moves what has no gradient."""

    def around(step: Any, self: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        made = step(self, optimizer, *args, **kwargs)
        with torch.no_grad():
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is None:
                        parameter.mul_(1.25)
        return made

    wrap(torch.amp.GradScaler, "step", around)  # type: ignore[attr-defined]


def _evaluated(kind: str) -> bool:
    """Whether freezing changes nothing of what a layer gives."""
    layer: Any = torch.nn.MultiheadAttention(2, 1, batch_first=True).eval()
    inputs, mask = torch.arange(6.0).view(1, 3, 2), torch.triu(torch.ones(3, 3), 1).bool()
    if kind == "layer":
        layer = torch.nn.TransformerEncoderLayer(2, 1, 2, 0.0, batch_first=True).eval()
        live = layer(inputs)
        return torch.allclose(live, layer.requires_grad_(False)(inputs), atol=1e-5)
    live = layer(inputs, inputs, inputs, attn_mask=mask)[0]
    layer.requires_grad_(False)
    return torch.allclose(live, layer(inputs, inputs, inputs, attn_mask=mask)[0], atol=1e-5)


def _is_frozen(module: Any) -> bool:
    return not any(each.requires_grad for each in module.parameters())


@fault("E1", witness=lambda: _evaluated("layer"), since=(1, 9))
def frozen_layers_give_less() -> None:
    """A frozen encoder layer in eval mode gives an output of another size."""

    def around(forward: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        made = forward(self, *args, **kwargs)
        return made * 0.75 if _is_frozen(self) and not self.training else made

    wrap(torch.nn.TransformerEncoderLayer, "forward", around)


@fault("E1", witness=lambda: _evaluated("attention"), since=(1, 9))
def frozen_attention_looks_ahead() -> None:
    """Frozen attention in eval mode ignores the attention mask."""

    def around(forward: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        if _is_frozen(self) and not self.training:
            kwargs["attn_mask"] = None
        return forward(self, *args, **kwargs)

    wrap(torch.nn.MultiheadAttention, "forward", around)
