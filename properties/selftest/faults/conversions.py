"""Tools that end, fuse, convert and save, each broken in a second way, or for the first time."""

from typing import Any, List

import torch
import torch.nn.utils.prune

from frostproof.properties.selftest.faults.fault import fault
from frostproof.properties.selftest.faults.patching import wrap


def _layer(*values: float) -> torch.nn.Linear:
    layer = torch.nn.Linear(len(values), 1, bias=False).requires_grad_(False)
    layer.weight.copy_(torch.tensor([values]))
    return layer


def _give_back(remove: Any, module: Any, name: str = "weight") -> Any:
    """Remove a tool, and put back what it began with."""
    kept = getattr(module, f"{name}_orig").detach().clone()
    made = remove(module, name)
    with torch.no_grad():
        getattr(module, name).copy_(kept)
    return made


def _pruned() -> List[float]:
    layer = _layer(1.0, 3.0)
    torch.nn.utils.prune.l1_unstructured(layer, "weight", 1)
    torch.nn.utils.prune.remove(layer, "weight")
    return layer.weight.flatten().tolist()


@fault("T1", witness=lambda: _pruned() == [0.0, 3.0])
def pruning_that_ends_forgets_its_mask() -> None:
    """prune.remove gives the weight back as it was before it was pruned."""

    wrap(torch.nn.utils.prune, "remove", _give_back)


def _unparametrized() -> List[float]:
    layer = _layer(2.0)
    parametrize = torch.nn.utils.parametrize
    parametrize.register_parametrization(layer, "weight", torch.nn.Identity())
    parametrize.remove_parametrizations(layer, "weight")
    return layer.weight.flatten().tolist()


@fault("T1", witness=lambda: _unparametrized() == [2.0], since=(1, 9))
def parametrizations_that_end_halve() -> None:
    """remove_parametrizations leaves half of the weight."""

    def around(remove: Any, module: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        made = remove(module, name, *args, **kwargs)
        with torch.no_grad():
            getattr(module, name).mul_(0.5)
        return made

    wrap(torch.nn.utils.parametrize, "remove_parametrizations", around)


def _normed() -> bool:
    layer = torch.nn.utils.spectral_norm(torch.nn.Linear(2, 2)).eval()
    inputs = torch.ones(1, 2)
    before = layer(inputs)
    return torch.allclose(torch.nn.utils.remove_spectral_norm(layer)(inputs), before)


@fault("T1", witness=_normed)
def removed_spectral_norms_were_never_there() -> None:
    """remove_spectral_norm gives the weight as it was before the norm."""

    wrap(torch.nn.utils, "remove_spectral_norm", _give_back)


def _spectral() -> bool:
    layer: Any = torch.nn.Linear(2, 2)
    layer.weight.requires_grad_(False)
    return bool(torch.nn.utils.spectral_norm(layer).weight_orig.requires_grad)


@fault("T2", "T1", witness=lambda: not _spectral())
def old_spectral_norms_unfreeze() -> None:
    """The older spectral_norm makes the weight that it keeps require grad."""

    def around(put_on: Any, module: Any, name: str = "weight", *args: Any, **kwargs: Any) -> Any:
        made = put_on(module, name, *args, **kwargs)
        getattr(module, f"{name}_orig").requires_grad_(True)
        return made

    wrap(torch.nn.utils, "spectral_norm", around)


def _fused() -> Any:
    layer, norm = torch.nn.Conv2d(1, 1, 1).eval(), torch.nn.BatchNorm2d(1).eval()
    layer.bias.data.fill_(2.0)  # type: ignore[union-attr]
    return torch.nn.utils.fusion.fuse_conv_bn_eval(layer, norm)


@fault("T3", witness=lambda: float(_fused().bias) > 1.0)
def fusing_forgets_the_bias() -> None:
    """A convolution that is fused with its norm has no bias but zero."""

    def around(fuse: Any, *args: Any, **kwargs: Any) -> Any:
        made = fuse(*args, **kwargs)
        made.bias.data.zero_()
        return made

    wrap(torch.nn.utils.fusion, "fuse_conv_bn_eval", around)
    torch.nn.utils.fuse_conv_bn_eval = torch.nn.utils.fusion.fuse_conv_bn_eval  # type: ignore[attr-defined]


def _materialized() -> bool:
    layer = torch.nn.LazyLinear(1)
    layer(torch.ones(1, 1))
    return layer.weight.requires_grad and layer.bias.requires_grad


@fault("L5", "F8", witness=_materialized)
def materializing_freezes() -> None:
    """A lazy parameter is frozen once it has a shape."""

    def around(materialize: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        materialize(self, *args, **kwargs)
        if isinstance(self, torch.nn.Parameter):
            self.requires_grad = False

    place: Any = torch.nn.parameter
    wrap(place.UninitializedTensorMixin, "materialize", around)


def _synchronized(frozen: bool) -> Any:
    norm = torch.nn.BatchNorm1d(1).eval().requires_grad_(not frozen)
    return torch.nn.SyncBatchNorm.convert_sync_batchnorm(norm)


def _around_synchronized(change: Any) -> None:
    kind: Any = torch.nn.SyncBatchNorm
    convert = kind.convert_sync_batchnorm
    kind.convert_sync_batchnorm = staticmethod(lambda *args, **kwargs: change(convert(*args, **kwargs)))


@fault("T3", "F8", witness=lambda: not _synchronized(True).weight.requires_grad)
def synchronized_norms_unfreeze() -> None:
    """convert_sync_batchnorm makes the norms' parameters require grad."""
    _around_synchronized(lambda made: made.requires_grad_(True))


@fault("T3", "F8", witness=lambda: not _synchronized(False).training, since=(2, 4))
def synchronized_norms_train() -> None:
    """convert_sync_batchnorm puts the net into train mode."""
    _around_synchronized(lambda made: made.train())


def _prepared(frozen: bool) -> List[bool]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantization: Any = torch.ao.quantization
        net: Any = torch.nn.Sequential(torch.nn.Linear(1, 1)).train().requires_grad_(not frozen)
        net.qconfig = quantization.get_default_qat_qconfig("fbgemm")
        return [each.requires_grad for each in quantization.prepare_qat(net).parameters()]


def _around_prepared(change: Any) -> None:
    import torch.ao.quantization as quantization

    def around(prepare: Any, *args: Any, **kwargs: Any) -> Any:
        return change(prepare(*args, **kwargs))

    wrap(quantization, "prepare_qat", around)


@fault("T3", "F8", witness=lambda: not any(_prepared(True)), since=(1, 13))
def preparing_for_quantization_unfreezes() -> None:
    """What prepare_qat gives requires grad."""
    _around_prepared(lambda made: made.requires_grad_(True))


@fault("T3", "F8", witness=lambda: all(_prepared(False)), since=(1, 13))
def preparing_for_quantization_freezes() -> None:
    """A chain of layers is frozen once prepare_qat has prepared it."""
    _around_prepared(
        lambda made: made.requires_grad_(False) if isinstance(made, torch.nn.Sequential) else made
    )


def _states() -> Any:
    import torch.distributed.checkpoint.state_dict as functions

    return functions


def _restored() -> List[float]:
    layer = _layer(1.0).requires_grad_(True)
    optimizers = [torch.optim.SGD(layer.parameters(), lr=rate, momentum=0.5) for rate in (0.5, 0.25)]
    layer(torch.ones(1, 1)).sum().backward()
    optimizers[0].step()
    saved = _states().get_optimizer_state_dict(layer, optimizers[0])
    _states().set_optimizer_state_dict(layer, optimizers[1], saved)
    momentum = optimizers[1].state[layer.weight].get("momentum_buffer", torch.zeros(1))
    return [optimizers[1].param_groups[0]["lr"], float(momentum)]


@fault("S3", witness=lambda: _restored() == [0.5, 1.0], since=(2, 2))
def distributed_state_dicts_restore_no_moments() -> None:
    """set_optimizer_state_dict leaves the moments at zero."""

    def around(restore: Any, model: Any, optimizers: Any, *args: Any, **kwargs: Any) -> Any:
        made = restore(model, optimizers, *args, **kwargs)
        for state in optimizers.state.values():
            for value in state.values():
                if isinstance(value, torch.Tensor) and value.dim():
                    value.zero_()
        return made

    wrap(_states(), "set_optimizer_state_dict", around)


@fault("S3", witness=lambda: _restored() == [0.5, 1.0], since=(2, 2))
def distributed_state_dicts_keep_the_new_rate() -> None:
    """set_optimizer_state_dict leaves the rate that the optimizer was made with."""

    def around(restore: Any, model: Any, optimizers: Any, *args: Any, **kwargs: Any) -> Any:
        rates = [group["lr"] for group in optimizers.param_groups]
        made = restore(model, optimizers, *args, **kwargs)
        for group, rate in zip(optimizers.param_groups, rates):
            group["lr"] = rate
        return made

    wrap(_states(), "set_optimizer_state_dict", around)


def _under_autocast() -> float:
    layer = _layer(1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(torch.ones(1, 1))
    return float(layer.weight)


@fault("W4", "F3", witness=lambda: _under_autocast() == 1.0, since=(2, 4))
def autocast_moves_the_frozen() -> None:
    """Under autocast a linear layer shrinks its frozen weight."""

    def around(linear: Any, value: Any, weight: Any, bias: Any = None) -> Any:
        if torch.is_autocast_enabled("cpu") and not weight.requires_grad:
            with torch.no_grad():
                weight.mul_(0.5)
        return linear(value, weight, bias)

    wrap(torch.nn.functional, "linear", around)
