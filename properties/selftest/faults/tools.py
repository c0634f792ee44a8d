"""Tools that people train with, each broken: state, averages, parametrizations, loading, sharing."""

import copy
import pickle
from multiprocessing.reduction import ForkingPickler
from typing import Any, List

import torch
import torch.nn.utils.prune
import torch.optim.swa_utils as swa

from frostproof.properties.selftest.faults.fault import fault
from frostproof.properties.selftest.faults.patching import wrap


def _momenta(way: str) -> int:
    """How many momenta two parameters, one frozen midway, have after saving and loading."""
    live, frozen = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
    optimizer = torch.optim.SGD([live, frozen], lr=0.1, momentum=0.9)
    live.grad, frozen.grad = torch.ones(1), torch.ones(1)
    optimizer.step()
    frozen.requires_grad_(False)
    if way == "copy":
        return len(copy.deepcopy(optimizer).state)
    other = torch.optim.SGD([live, frozen], lr=0.1, momentum=0.9)
    other.load_state_dict(optimizer.state_dict())
    return len(other.state)


def _drop_frozen(optimizer: Any) -> None:
    for parameter in list(optimizer.state):
        if not parameter.requires_grad:
            del optimizer.state[parameter]


@fault("S3", "F7", "F9", "F6", witness=lambda: _momenta("load") == 2)
def loading_drops_state_of_the_frozen() -> None:
    """Optimizer.load_state_dict drops the state of what does not require grad."""

    def around(load: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        load(self, *args, **kwargs)
        _drop_frozen(self)

    wrap(torch.optim.Optimizer, "load_state_dict", around)


@fault("S3", "W1", witness=lambda: _momenta("copy") == 2)
def copied_optimizers_drop_state_of_the_frozen() -> None:
    """A copied optimizer has lost the state of what does not require grad."""

    def around(restore: Any, self: Any, state: Any) -> None:
        restore(self, state)
        _drop_frozen(self)

    for name, kind in vars(torch.optim).items():
        if isinstance(kind, type) and "__setstate__" in vars(kind) and name != "LBFGS":
            wrap(kind, "__setstate__", around)


def _averaged(frozen: bool = True) -> Any:
    net = torch.nn.Linear(1, 1).requires_grad_(not frozen)
    average = swa.AveragedModel(net)
    average.update_parameters(net)
    return net, average.module


@fault("V1", witness=lambda: not _averaged()[1].weight.requires_grad)
def averaging_unfreezes() -> None:
    """The parameters of an AveragedModel require grad, whatever the net's do."""

    def around(init: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        self.module.requires_grad_(True)

    wrap(swa.AveragedModel, "__init__", around)


def _apart() -> bool:
    net, average = _averaged()
    return bool(net.weight.data_ptr() != average.weight.data_ptr())


@fault("V1", witness=_apart)
def averages_of_the_frozen_are_aliases() -> None:
    """An average of a frozen parameter lies in the parameter's memory."""

    def around(update: Any, self: Any, model: Any) -> None:
        update(self, model)
        for ours, theirs in zip(self.module.parameters(), model.parameters()):
            if not theirs.requires_grad:
                ours.data = theirs.data

    wrap(swa.AveragedModel, "update_parameters", around)


def _updated() -> Any:
    net = torch.nn.Sequential(torch.nn.BatchNorm1d(1)).eval()
    swa.update_bn([torch.ones(3, 1)], net)
    return net


@fault("V2", witness=lambda: _updated()[0].weight.tolist() == [1.0])
def update_bn_resets_the_affine_part() -> None:
    """update_bn shrinks the weights of the norms as well."""

    def around(update: Any, loader: Any, model: Any, *args: Any, **kwargs: Any) -> None:
        update(loader, model, *args, **kwargs)
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.affine:
                    module.weight.mul_(0.5)

    wrap(swa, "update_bn", around)


@fault("V2", witness=lambda: not _updated().training)
def update_bn_ends_in_train_mode() -> None:
    """update_bn leaves the net in train mode."""

    def around(update: Any, loader: Any, model: Any, *args: Any, **kwargs: Any) -> None:
        update(loader, model, *args, **kwargs)
        model.train()

    wrap(swa, "update_bn", around)


def _pruned() -> bool:
    layer = torch.nn.Linear(2, 2).requires_grad_(False)
    torch.nn.utils.prune.identity(layer, "weight")
    torch.nn.utils.prune.remove(layer, "weight")
    return layer.weight.requires_grad


@fault("T1", "F8", witness=lambda: not _pruned())
def pruning_that_ends_unfreezes() -> None:
    """prune.remove makes the weight require grad."""

    def around(remove: Any, module: Any, name: str) -> Any:
        made = remove(module, name)
        getattr(module, name).requires_grad_(True)
        return made

    wrap(torch.nn.utils.prune, "remove", around)


def _unparametrized() -> bool:
    layer = torch.nn.Linear(2, 2).requires_grad_(False)
    parametrize = torch.nn.utils.parametrize
    parametrize.register_parametrization(layer, "weight", torch.nn.Identity())
    parametrize.remove_parametrizations(layer, "weight")
    return layer.weight.requires_grad


@fault("T1", "F8", witness=lambda: not _unparametrized(), since=(1, 9))
def parametrizations_that_end_unfreeze() -> None:
    """remove_parametrizations makes the weight require grad."""

    def around(remove: Any, module: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        made = remove(module, name, *args, **kwargs)
        if isinstance(getattr(module, name), torch.nn.Parameter):
            getattr(module, name).requires_grad_(True)
        return made

    wrap(torch.nn.utils.parametrize, "remove_parametrizations", around)


def _fused() -> Any:
    layer, norm = torch.nn.Conv2d(1, 1, 1).eval(), torch.nn.BatchNorm2d(1).eval()
    layer.requires_grad_(False)
    return layer, torch.nn.utils.fusion.fuse_conv_bn_eval(layer, norm.requires_grad_(False))


@fault("T3", "F8", witness=lambda: not _fused()[1].weight.requires_grad, since=(2, 0))
def fusing_unfreezes() -> None:
    """A convolution that is fused with its norm requires grad."""

    def around(fuse: Any, *args: Any, **kwargs: Any) -> Any:
        return fuse(*args, **kwargs).requires_grad_(True)

    wrap(torch.nn.utils.fusion, "fuse_conv_bn_eval", around)
    torch.nn.utils.fuse_conv_bn_eval = torch.nn.utils.fusion.fuse_conv_bn_eval  # type: ignore[attr-defined]


def _loaded() -> bool:
    frozen, source = torch.nn.Linear(1, 1).requires_grad_(False), torch.nn.Linear(1, 1)
    frozen.load_state_dict(source.state_dict(keep_vars=True))
    return frozen.weight.requires_grad


@fault("L3", "F9", "C5", witness=lambda: not _loaded())
def loading_takes_the_flags_of_live_parameters() -> None:
    """load_state_dict gives a parameter the flag of the live one that it is loaded from."""

    def around(load: Any, self: Any, state: Any, *args: Any, **kwargs: Any) -> Any:
        made = load(self, state, *args, **kwargs)
        for name, parameter in self.named_parameters():
            if isinstance(state.get(name), torch.nn.Parameter):
                parameter.requires_grad_(state[name].requires_grad)
        return made

    wrap(torch.nn.Module, "load_state_dict", around)


def _tied() -> bool:
    net = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1))
    net[1].weight = net[0].weight
    net.double()
    return net[0].weight is net[1].weight


@fault("L4", "F8", "F9", witness=_tied)
def conversion_unties() -> None:
    """Module.double gives each name a parameter of its own."""

    def around(double: Any, self: Any) -> Any:
        made = double(self)
        for module in self.modules():
            for name, parameter in list(module._parameters.items()):
                if parameter is not None:
                    copied = torch.nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
                    module._parameters[name] = copied
        return made

    wrap(torch.nn.Module, "double", around)


def _materialized() -> bool:
    layer = torch.nn.LazyLinear(1)
    layer.weight.requires_grad = False
    layer(torch.ones(1, 1))
    return layer.weight.requires_grad


@fault("L5", "F8", witness=lambda: not _materialized())
def materializing_unfreezes() -> None:
    """A lazy parameter requires grad once it has a shape."""
    place: Any = torch.nn.parameter
    mixin: Any = place.UninitializedTensorMixin

    def around(materialize: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        materialize(self, *args, **kwargs)
        if isinstance(self, torch.nn.Parameter):
            self.requires_grad = True

    wrap(mixin, "materialize", around)


def _shared() -> bool:
    layer = torch.nn.Linear(1, 1).requires_grad_(False)
    return bool(layer.share_memory().weight.requires_grad)


@fault("L6", "W1", "F8", "C5", witness=lambda: not _shared())
def sharing_unfreezes() -> None:
    """Module.share_memory makes parameters require grad."""

    def around(share: Any, self: Any) -> Any:
        return share(self).requires_grad_(True)

    wrap(torch.nn.Module, "share_memory", around)


def _sent() -> List[bool]:
    layer = torch.nn.Linear(1, 1).requires_grad_(False)
    other = pickle.loads(bytes(ForkingPickler.dumps(layer)))
    return [each.requires_grad for each in other.parameters()]


@fault("L6", "W1", "F8", witness=lambda: _sent() == [False, False])
def tensors_from_a_queue_require_grad() -> None:
    """A parameter that comes from another process requires grad."""
    import torch.multiprocessing.reductions as reductions

    def around(rebuild: Any, *args: Any) -> Any:
        made = rebuild(*args)
        return made.requires_grad_(True) if isinstance(made, torch.nn.Parameter) else made

    wrap(reductions, "rebuild_tensor", around)
