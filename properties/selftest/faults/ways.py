"""More ways of training, each broken: vmap, other processes, loaders, buffers, saved values."""

import pickle
from multiprocessing.reduction import ForkingPickler
from typing import Any, Callable, Dict, List

import torch
import torch.multiprocessing.reductions as reductions
import torch.utils.checkpoint
import torch.utils.data

from frostproof.properties.selftest.faults.fault import fault
from frostproof.properties.selftest.faults.patching import gradients_hidden, wrap
from frostproof.properties.selftest.faults.wrappers import _group, _half_frozen

SINCE_FUNC = (2, 0)


def _wrapped() -> Any:
    with _group():
        net = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.BatchNorm1d(1))
        net[1].eval()
        return torch.nn.parallel.DistributedDataParallel(net)


@fault("W2", witness=lambda: bool(_wrapped().broadcast_buffers))
def replicas_keep_their_own_buffers() -> None:
    """DistributedDataParallel broadcasts no buffers, asked to or not."""

    def around(init: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **{**kwargs, "broadcast_buffers": False})

    wrap(torch.nn.parallel.DistributedDataParallel, "__init__", around)


@fault("W2", witness=lambda: not _wrapped().module[1].training)
def replicas_train_frozen_norms() -> None:
    """DistributedDataParallel puts what it wraps into train mode."""

    def around(init: Any, self: Any, module: Any, *args: Any, **kwargs: Any) -> None:
        init(self, module, *args, **kwargs)
        module.train()

    wrap(torch.nn.parallel.DistributedDataParallel, "__init__", around)


def _partitioned() -> float:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    with _group():
        net: Any = _half_frozen()
        optimizer = ZeroRedundancyOptimizer(list(net.parameters()), torch.optim.SGD, lr=0.5)
        net(torch.ones(1, 1)).sum().backward()
        optimizer.step()
    return float(net[1].bias)


@fault("W2", witness=lambda: _partitioned() == 0.5, since=(2, 0))
def partitioned_optimizers_skip_biases() -> None:
    """ZeroRedundancyOptimizer leaves parameters of one dimension where they are."""
    from torch.distributed.optim import ZeroRedundancyOptimizer

    def around(step: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        biases = [each for group in self.param_groups for each in group["params"] if each.dim() == 1]
        with gradients_hidden(biases):
            return step(self, *args, **kwargs)

    wrap(ZeroRedundancyOptimizer, "step", around)


def _sharded() -> List[float]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    with _group():
        net: Any = _half_frozen()
        fully_shard(net, mesh=init_device_mesh("cpu", (1,)))
        return [float(each.full_tensor()) for each in net.parameters()]


@fault("W2", witness=lambda: _sharded() == [1.0] * 4, since=(2, 6))
def sharding_moves_the_frozen() -> None:
    """Frozen parameters that fully_shard has taken have other values."""
    import torch.distributed.fsdp as fsdp

    def around(shard: Any, module: Any, *args: Any, **kwargs: Any) -> Any:
        made = shard(module, *args, **kwargs)
        with torch.no_grad():
            for each in module.parameters():
                if not each.requires_grad:
                    each.mul_(1.5)
        return made

    wrap(fsdp, "fully_shard", around)


def _saved(context: Callable[[], Any], value: float) -> float:
    leaf = torch.tensor(value, requires_grad=True)
    with context():
        made = leaf * leaf
    made.backward()
    assert leaf.grad is not None
    return float(leaf.grad)


@fault("W1", "W3", witness=lambda: _saved(torch.autograd.graph.save_on_cpu, -2.0) == -4.0, since=(2, 0))
def offloaded_values_are_never_negative() -> None:
    """save_on_cpu gives zero for what was negative."""
    graph: Any = torch.autograd.graph

    class Clamped(graph.saved_tensors_hooks):  # type: ignore[misc]
        def __init__(self, pin_memory: bool = False, device_type: Any = None) -> None:
            super().__init__(lambda value: value.clone(), lambda value: value.clamp(min=0))

    graph.save_on_cpu = Clamped


def _copying() -> Any:
    return torch.autograd.graph.saved_tensors_hooks(torch.clone, torch.clone)


def _replace_hooks(change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    graph: Any = torch.autograd.graph

    class Changed(graph.saved_tensors_hooks):  # type: ignore[misc]
        def __init__(self, pack: Any, unpack: Any) -> None:
            super().__init__(pack, lambda packed: change(unpack(packed)))

    graph.saved_tensors_hooks = Changed


@fault("W1", "W3", "F3", witness=lambda: abs(_saved(_copying, 1.001) - 2.002) < 1e-5, since=(2, 0))
def saving_hooks_round() -> None:
    """What saved-tensor hooks unpack is rounded to bfloat16."""
    _replace_hooks(
        lambda value: value.bfloat16().to(value.dtype) if value.is_floating_point() else value
    )


@fault("W1", "W3", "F3", witness=lambda: _saved(_copying, 8.0) == 16.0, since=(2, 0))
def saving_hooks_bound_what_is_large() -> None:
    """What saved-tensor hooks unpack is nowhere larger than one."""
    _replace_hooks(lambda value: value.clamp(max=1) if value.is_floating_point() else value)


def _accumulated() -> float:
    leaf = torch.nn.Parameter(torch.ones(1))
    leaf.register_post_accumulate_grad_hook(lambda _: None)
    (leaf * 2).sum().backward()
    assert leaf.grad is not None
    return float(leaf.grad)


@fault("W1", witness=lambda: _accumulated() == 2.0, since=(2, 1))
def hooks_after_accumulation_see_it_doubled() -> None:
    """A hook that waits for a gradient gets twice of it."""

    def around(register: Any, self: Any, hook: Any) -> Any:
        def doubled(parameter: Any) -> None:
            parameter.grad.mul_(2)
            hook(parameter)

        return register(self, doubled)

    wrap(torch.Tensor, "register_post_accumulate_grad_hook", around)


def _reentrant() -> List[float]:
    layer = torch.nn.Linear(1, 1)
    inputs = torch.ones(1, 1, requires_grad=True)
    torch.utils.checkpoint.checkpoint(layer, inputs, use_reentrant=True).sum().backward()
    assert layer.bias.grad is not None and inputs.grad is not None
    return [float(layer.bias.grad), float(inputs.grad / layer.weight)]


def _around_reentrant(around: Callable[..., Any]) -> None:
    kind: Any = torch.utils.checkpoint.CheckpointFunction
    backward = kind.backward
    kind.backward = staticmethod(lambda ctx, *gradients: around(backward, ctx, *gradients))


@fault("W1", "W3", witness=lambda: _reentrant()[0] == 1.0, since=(1, 11))
def reentrant_checkpoints_go_back_twice() -> None:
    """The older checkpoint goes through its function's backward twice."""

    def around(backward: Any, ctx: Any, *gradients: Any) -> Any:
        backward(ctx, *gradients)
        return backward(ctx, *gradients)

    _around_reentrant(around)


@fault("W1", "W3", witness=lambda: _reentrant()[0] == 1.0, since=(1, 11))
def reentrant_checkpoints_halve() -> None:
    """The older checkpoint hands on half of the gradient that reaches it."""

    def around(backward: Any, ctx: Any, *gradients: Any) -> Any:
        return backward(ctx, *(each if each is None else each * 0.5 for each in gradients))

    _around_reentrant(around)


def _samples() -> List[float]:
    def loss(values: Any, sample: torch.Tensor) -> torch.Tensor:
        return (values["bias"] * sample).sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))
    made = each({"bias": torch.ones(1)}, torch.tensor([[1.0], [3.0]]))["bias"]
    return [float(one) for one in made]


def _around_samples(change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    def around(vmap: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        made = vmap(function, *args, **kwargs)

        def changed(*values: Any) -> Any:
            found = made(*values)
            return {k: change(v) for k, v in found.items()} if isinstance(found, dict) else found

        return changed

    wrap(torch.func, "vmap", around)


@fault("W6", witness=lambda: _samples() == [1.0, 3.0], since=SINCE_FUNC)
def samples_share_the_gradient_of_biases() -> None:
    """Per-sample gradients of one dimension are the mean over the samples, for each of them."""
    _around_samples(
        lambda made: made.mean(0, keepdim=True).expand_as(made) if made.dim() == 2 else made
    )


@fault("W6", witness=lambda: _samples() == [1.0, 3.0], since=SINCE_FUNC)
def samples_get_each_others_gradients() -> None:
    """Per-sample gradients come in the samples' reverse order."""
    _around_samples(lambda made: made.flip(0))


def _stacked() -> Any:
    nets: List[Any] = [torch.nn.Linear(1, 1).requires_grad_(False) for _ in range(2)]
    for number, net in enumerate(nets):
        net.weight.fill_(number)
    return torch.func.stack_module_state(nets)[0]["weight"]


@fault("W6", witness=lambda: not _stacked().requires_grad, since=SINCE_FUNC)
def stacking_unfreezes() -> None:
    """What stack_module_state has stacked requires grad."""

    def around(stack: Any, nets: Any) -> Any:
        values, buffers = stack(nets)
        return {name: each.detach().requires_grad_() for name, each in values.items()}, buffers

    wrap(torch.func, "stack_module_state", around)


@fault("W6", "L6", witness=lambda: _stacked().flatten().tolist() == [0.0, 1.0], since=SINCE_FUNC)
def stacking_takes_the_first_for_all() -> None:
    """stack_module_state stacks the first net's frozen parameters once for each net."""

    def around(stack: Any, nets: Any) -> Any:
        values, buffers = stack(nets)
        kept: Dict[str, Any] = {
            name: each if each.requires_grad else torch.stack([each[0]] * len(each))
            for name, each in values.items()
        }
        return kept, buffers

    wrap(torch.func, "stack_module_state", around)


def _loaded() -> Any:
    samples: Any = [torch.tensor([1.001])]
    return next(iter(torch.utils.data.DataLoader(samples, batch_size=None, num_workers=0)))


def _around_loaded(change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    def around(begin: Any, self: Any) -> Any:
        for batch in begin(self):
            if isinstance(batch, dict):
                yield {
                    k: change(v) if v.is_floating_point() and self.num_workers else v
                    for k, v in batch.items()
                }
            else:
                yield change(batch)

    wrap(torch.utils.data.DataLoader, "__iter__", around)


@fault("W7", witness=lambda: not _loaded().requires_grad)
def loaded_samples_require_grad() -> None:
    """What comes from a loader's worker requires grad."""
    _around_loaded(lambda value: value.detach().requires_grad_())


@fault("W7", witness=lambda: abs(float(_loaded()) - 1.001) < 1e-5)
def loaded_samples_are_rounded() -> None:
    """What comes from a loader's worker has been through bfloat16."""
    _around_loaded(
        lambda value: value.detach().bfloat16().to(value.dtype).requires_grad_(value.requires_grad)
    )


def _sends_a_graph() -> bool:
    try:
        ForkingPickler.dumps(torch.ones(1, requires_grad=True) * 2)
    except RuntimeError:
        return False
    return True


def _send(change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    reduce: Any = reductions.reduce_tensor
    for kind in (torch.Tensor, torch.nn.Parameter):
        ForkingPickler.register(kind, lambda value: reduce(change(value)))


@fault("W7", witness=lambda: not _sends_a_graph())
def sending_cuts_graphs() -> None:
    """What has a graph is sent to another process without it, in silence."""
    _send(lambda value: value if value.is_leaf else value.detach())


def _shares() -> bool:
    here = torch.nn.Parameter(torch.ones(1))
    there = pickle.loads(bytes(ForkingPickler.dumps(here)))
    with torch.no_grad():
        there.zero_()
    return float(here) == 0.0


@fault("W7", "L6", witness=_shares)
def sending_copies() -> None:
    """What is sent to another process is a copy, in memory of its own."""

    def copied(value: Any) -> Any:
        if not value.is_leaf and value.requires_grad:
            return value
        made = value.detach().clone()
        if isinstance(value, torch.nn.Parameter):
            return torch.nn.Parameter(made, value.requires_grad)
        return made.requires_grad_(value.requires_grad)

    _send(copied)


def _compiled(rate: float) -> List[float]:
    live, frozen = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
    frozen.requires_grad_(False)
    optimizer = torch.optim.SGD([live, frozen], lr=1.0)
    step: Any = torch.compile(optimizer.step, backend="eager")
    live.grad = torch.ones(1)
    step()
    optimizer.param_groups[0]["lr"] = rate
    step()
    return [float(live), float(frozen)]


def _around_compiled_steps(around: Callable[[Any, Any], Any]) -> None:
    def compiled(compile: Any, model: Any = None, **options: Any) -> Any:
        made = compile(model, **options)
        owner = getattr(model, "__self__", None)
        if not isinstance(owner, torch.optim.Optimizer):
            return made
        return lambda: around(made, owner)

    wrap(torch, "compile", compiled)


@fault("W8", witness=lambda: _compiled(0.5) == [-0.5, 1.0], since=(2, 2))
def compiled_steps_move_the_frozen() -> None:
    """A compiled step of an optimizer moves what has no gradient."""

    def around(step: Any, optimizer: Any) -> None:
        step()
        with torch.no_grad():
            for group in optimizer.param_groups:
                for each in group["params"]:
                    if each.grad is None:
                        each.add_(0.125)

    _around_compiled_steps(around)


@fault("W8", witness=lambda: _compiled(0.5) == [-0.5, 1.0], since=(2, 2))
def compiled_steps_double_their_rate() -> None:
    """A compiled step goes by twice the rate of its groups."""

    def around(step: Any, optimizer: Any) -> None:
        rates = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] = 2 * group["lr"]
        step()
        for group, rate in zip(optimizer.param_groups, rates):
            group["lr"] = rate

    _around_compiled_steps(around)
