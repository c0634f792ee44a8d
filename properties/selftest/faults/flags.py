"""requires_grad lost on the way: by pickling, converting, assigning, or one of torch's tools."""

import pickle
from typing import Any

import torch

from frostproof.properties.selftest.faults.fault import fault
from frostproof.properties.selftest.faults.patching import wrap


def _frozen() -> torch.nn.Linear:
    return torch.nn.Linear(2, 2).requires_grad_(False)


def _live(module: torch.nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


@fault("F8", "C5", "X2", witness=lambda: not _live(pickle.loads(pickle.dumps(_frozen()))))
def pickled_parameters_unfreeze() -> None:
    """A Parameter that is loaded from a pickle or a file requires grad."""

    def around(rebuild: Any, data: Any, requires_grad: Any, *rest: Any) -> Any:
        return rebuild(data, True, *rest)

    wrap(torch._utils, "_rebuild_parameter", around)


@fault("F8", witness=lambda: not _live(_frozen().double()))
def double_unfreezes() -> None:
    """Module.double makes its parameters require grad."""

    def around(double: Any, module: Any) -> Any:
        return double(module).requires_grad_(True)

    wrap(torch.nn.Module, "double", around)


def _assigned() -> torch.nn.Module:
    layer = _frozen()
    layer.load_state_dict(torch.nn.Linear(2, 2).state_dict(), assign=True)
    return layer


@fault("F9", "C5", witness=lambda: not _live(_assigned()), since=(2, 1))
def assigned_parameters_unfreeze() -> None:
    """load_state_dict(assign=True) makes parameters require grad."""

    def around(load: Any, module: Any, *args: Any, assign: bool = False, **options: Any) -> Any:
        result = load(module, *args, assign=assign, **options)
        if assign:
            module.requires_grad_(True)
        return result

    wrap(torch.nn.Module, "load_state_dict", around)


@fault("F8", witness=lambda: not torch.nn.init.normal_(_frozen().weight).requires_grad)
def normal_init_unfreezes() -> None:
    """nn.init.normal_ makes what it fills require grad."""

    def around(fill: Any, tensor: Any, *args: Any, **options: Any) -> Any:
        return fill(tensor, *args, **options).requires_grad_(True)

    wrap(torch.nn.init, "normal_", around)


def _parametrized() -> torch.nn.Module:
    layer = _frozen()
    torch.nn.utils.parametrize.register_parametrization(layer, "weight", torch.nn.Tanh())
    return layer


@fault("F8", witness=lambda: not _live(_parametrized()), since=(1, 9))
def parametrizing_unfreezes() -> None:
    """A weight that gets a parametrization requires grad."""

    def around(register: Any, module: Any, name: str, *args: Any, **options: Any) -> Any:
        result = register(module, name, *args, **options)
        module.parametrizations[name].requires_grad_(True)
        return result

    wrap(torch.nn.utils.parametrize, "register_parametrization", around)


def _pretrained() -> bool:
    return torch.nn.Embedding.from_pretrained(torch.ones(1, 1), freeze=True).weight.requires_grad


@fault("F8", witness=lambda: not _pretrained())
def pretrained_embeddings_ignore_freeze() -> None:
    """Embedding.from_pretrained does not freeze, told to or not."""
    original = torch.nn.Embedding.from_pretrained.__func__  # type: ignore[attr-defined]

    def live(kind: Any, *args: Any, **options: Any) -> Any:
        return original(kind, *args, **options).requires_grad_(True)

    torch.nn.Embedding.from_pretrained = classmethod(live)  # type: ignore[assignment]
