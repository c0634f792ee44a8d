"""Modules broken: statistics, tied parameters, containers."""

from typing import Any

import torch

from frostproof.properties.selftest.faults.fault import fault
from frostproof.properties.selftest.faults.patching import wrap


def _statistics_move(frozen: bool, train: bool) -> bool:
    net = torch.nn.BatchNorm1d(2).requires_grad_(not frozen).train(train)
    net(torch.tensor([[1.0, 2.0], [3.0, 5.0]]))
    return bool(net.running_mean.any())  # type: ignore[union-attr]


@fault("F8", witness=lambda: _statistics_move(True, True), smoke=True)
def frozen_batch_norm_keeps_statistics() -> None:
    """BatchNorm with frozen parameters does not update its statistics in train mode."""

    def around(
        original: Any, values: Any, mean: Any, var: Any, weight: Any = None, *rest: Any, **o: Any
    ) -> Any:
        if weight is not None and not weight.requires_grad and mean is not None:
            mean, var = mean.clone(), var.clone()
        return original(values, mean, var, weight, *rest, **o)

    wrap(torch.nn.functional, "batch_norm", around)


@fault("F8", witness=lambda: not _statistics_move(False, False))
def eval_batch_norm_moves_statistics() -> None:
    """BatchNorm goes on updating its running mean in eval mode."""

    def around(
        original: Any, values: Any, mean: Any = None, var: Any = None, *rest: Any, **o: Any
    ) -> Any:
        training = o.get("training", rest[2] if len(rest) > 2 else False)
        result = original(values, mean, var, *rest, **o)
        if mean is not None and not training:
            with torch.no_grad():
                mean.add_(0.1 * values.mean(0))
        return result

    wrap(torch.nn.functional, "batch_norm", around)


def _batch_norm_result() -> bool:
    net = torch.nn.BatchNorm1d(1).requires_grad_(False)
    return float(net(torch.tensor([[1.0], [3.0]]))[1]) < 1.1


@fault("F2", "F3", "F4", "F8", "K1", witness=_batch_norm_result)
def frozen_batch_norm_is_in_eval_mode() -> None:
    """BatchNorm with frozen parameters normalizes by its running statistics in train mode."""

    def around(
        original: Any,
        values: Any,
        mean: Any,
        var: Any,
        weight: Any,
        bias: Any,
        training: Any,
        *rest: Any,
    ) -> Any:
        if weight is not None and not weight.requires_grad and mean is not None:
            training = False
        return original(values, mean, var, weight, bias, training, *rest)

    wrap(torch.nn.functional, "batch_norm", around)


def _tied_once() -> bool:
    net = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1))
    net[1].weight = net[0].weight
    return len(list(net.parameters())) == 3


@fault("F8", "F1", "F3", witness=_tied_once)
def parameters_lists_tied_ones_twice() -> None:
    """parameters() gives a tied parameter once for each of its places."""

    def around(
        original: Any, module: Any, prefix: str = "", recurse: bool = True, **options: Any
    ) -> Any:
        places = module.named_modules(prefix=prefix) if recurse else [(prefix, module)]
        for place, each in places:
            for name, parameter in each._parameters.items():
                if parameter is not None:
                    yield (f"{place}." if place else "") + name, parameter

    wrap(torch.nn.Module, "named_parameters", around)


def _lists_frozen() -> bool:
    return len(list(torch.nn.Linear(1, 1).requires_grad_(False).parameters())) == 2


@fault("F8", "F7", "F1", "F6", "F9", "C4", witness=_lists_frozen)
def parameters_leaves_out_frozen() -> None:
    """parameters() gives only what requires grad."""

    def around(original: Any, module: Any, recurse: bool = True) -> Any:
        return (one for one in original(module, recurse) if one.requires_grad)

    wrap(torch.nn.Module, "parameters", around)


def _frozen_norm_scales() -> bool:
    net = torch.nn.LayerNorm(2)
    with torch.no_grad():
        net.weight.fill_(2.0)
    net.requires_grad_(False)
    return float(net(torch.tensor([[1.0, 3.0]]))[0, 1]) > 1.5


@fault("F2", "F3", "F4", "K1", witness=_frozen_norm_scales)
def frozen_layer_norm_forgets_its_weight() -> None:
    """LayerNorm does not multiply by a frozen weight."""

    def around(original: Any, values: Any, shape: Any, weight: Any = None, *rest: Any, **o: Any) -> Any:
        if weight is not None and not weight.requires_grad:
            weight = None
        return original(values, shape, weight, *rest, **o)

    wrap(torch.nn.functional, "layer_norm", around)


def _long_sequence_trains() -> bool:
    net = torch.nn.Sequential(*(torch.nn.Linear(1, 1) for _ in range(5)))
    net(torch.ones(1, 1)).sum().backward()
    return net[0].weight.grad is not None


@fault("F2", "F3", "F1", witness=_long_sequence_trains)
def fifth_linear_of_a_forward_detaches() -> None:
    """The fifth call of a linear layer since the last backward detaches its input."""
    counted = [0]

    def around(original: Any, values: Any, *rest: Any, **o: Any) -> Any:
        counted[0] += 1
        return original(values.detach() if counted[0] == 5 else values, *rest, **o)

    def cleared(original: Any, *args: Any, **options: Any) -> Any:
        counted[0] = 0
        return original(*args, **options)

    wrap(torch.nn.functional, "linear", around)
    wrap(torch.Tensor, "backward", cleared)


def _running_mean() -> bool:
    net = torch.nn.BatchNorm1d(1).eval().requires_grad_(False)
    net.train()
    net(torch.tensor([[1.0], [3.0]]))
    assert net.running_mean is not None
    return abs(float(net.running_mean) - 0.2) < 1e-6


@fault("F8", witness=_running_mean)
def frozen_batch_norm_moves_twice_as_fast() -> None:
    """BatchNorm with frozen parameters updates its statistics with twice the momentum."""

    def around(
        original: Any, values: Any, mean: Any, var: Any, weight: Any, bias: Any,
        training: Any = False, momentum: Any = 0.1, *rest: Any,
    ) -> Any:  # fmt: skip
        if weight is not None and not weight.requires_grad and momentum is not None:
            momentum = 2 * momentum
        return original(values, mean, var, weight, bias, training, momentum, *rest)

    wrap(torch.nn.functional, "batch_norm", around)


def _statistics(kind: Any, *shape: int, **options: Any) -> bool:
    """Whether a norm's running mean moves in train mode."""
    net = kind(2, **options).requires_grad_(False)
    net(torch.ones(shape))
    return bool(net.running_mean.any())


@fault("F8", witness=lambda: _statistics(torch.nn.BatchNorm2d, 2, 2, 1, 1))
def frozen_batch_norm_2d_keeps_statistics() -> None:
    """BatchNorm of images does not update its statistics where its weight is frozen."""

    def around(
        original: Any, values: Any, mean: Any, var: Any, weight: Any = None, *rest: Any, **o: Any
    ) -> Any:
        if values.dim() == 4 and weight is not None and not weight.requires_grad and mean is not None:
            mean, var = mean.clone(), var.clone()
        return original(values, mean, var, weight, *rest, **o)

    wrap(torch.nn.functional, "batch_norm", around)


def _statistics_under_no_grad() -> bool:
    with torch.no_grad():
        return _statistics(torch.nn.BatchNorm1d, 2, 2)


@fault("F8", witness=_statistics_under_no_grad)
def batch_norm_keeps_statistics_under_no_grad() -> None:
    """BatchNorm in train mode does not update its statistics while grad mode is off."""

    def around(original: Any, values: Any, mean: Any, var: Any, *rest: Any, **o: Any) -> Any:
        if not torch.is_grad_enabled() and mean is not None:
            mean, var = mean.clone(), var.clone()
        return original(values, mean, var, *rest, **o)

    wrap(torch.nn.functional, "batch_norm", around)


def _eval_is_deep() -> bool:
    net: torch.nn.Module = torch.nn.Linear(1, 1)
    deepest = net
    for _ in range(4):
        net = torch.nn.Sequential(net)
    net.eval()
    return not deepest.training


@fault("F8", witness=_eval_is_deep)
def eval_mode_reaches_three_levels() -> None:
    """train() and eval() do not reach modules more than two levels down."""

    def around(original: Any, module: Any, mode: bool = True) -> Any:
        for name, each in module.named_modules():
            if name.count(".") < 2:
                each.training = mode
        return module

    wrap(torch.nn.Module, "train", around)


def _loads_buffers() -> bool:
    net = torch.nn.BatchNorm1d(1)
    net.load_state_dict({name: value + 1 for name, value in net.state_dict().items()})
    return float(net.running_mean) == 1.0  # type: ignore[arg-type]


@fault("C5", "F9", witness=_loads_buffers)
def load_state_dict_skips_buffers() -> None:
    """load_state_dict leaves buffers as they are."""

    def around(original: Any, module: Any, *args: Any, **options: Any) -> Any:
        kept = [(buffer, buffer.data.clone()) for buffer in module.buffers()]
        result = original(module, *args, **options)
        for buffer, value in kept:
            buffer.data.copy_(value)
        return result

    wrap(torch.nn.Module, "load_state_dict", around)
