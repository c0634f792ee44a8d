"""requires_grad broken: flags that are not set, cannot be undone, or change behind one's back."""

from typing import Any, Callable

import torch

from frostproof.properties.selftest.faults.fault import fault
from frostproof.properties.selftest.faults.patching import wrap


def _net() -> torch.nn.Sequential:
    """Two linear layers, one of them nested."""
    return torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Sequential(torch.nn.Linear(2, 1)))


def _flags(net: torch.nn.Module) -> list:  # type: ignore[type-arg]
    return [parameter.requires_grad for parameter in net.parameters()]


def _freezes() -> bool:
    return not any(_flags(_net().requires_grad_(False)))


def _module_sets(setter: Callable[[Any, bool], Any]) -> None:
    """Module.requires_grad_ is ``setter(module, flag)``."""
    wrap(
        torch.nn.Module,
        "requires_grad_",
        lambda original, module, requires_grad=True: setter(module, requires_grad),
    )


def _set(parameters: Any, flag: bool) -> None:
    for parameter in parameters:
        parameter.requires_grad_(flag)


@fault("F8", "F1", "C5", witness=_freezes, smoke=True)
def module_flag_misses_biases() -> None:
    """Module.requires_grad_ sets no parameter named bias."""

    def setter(module: Any, flag: bool) -> Any:
        _set((p for name, p in module.named_parameters() if not name.endswith("bias")), flag)
        return module

    _module_sets(setter)


@fault("F8", "F1", witness=_freezes)
def module_flag_does_not_recurse() -> None:
    """Module.requires_grad_ sets the module's own parameters only."""

    def setter(module: Any, flag: bool) -> Any:
        _set(module.parameters(recurse=False), flag)
        return module

    _module_sets(setter)


@fault("F8", "F1", witness=_freezes)
def module_flag_misses_the_last() -> None:
    """Module.requires_grad_ misses the last of several parameters."""

    def setter(module: Any, flag: bool) -> Any:
        every = list(module.parameters())
        _set(every[:-1] if len(every) > 2 else every, flag)
        return module

    _module_sets(setter)


@fault("F8", "F1", "F7", witness=lambda: all(_flags(_net().requires_grad_(False).requires_grad_(True))))
def module_flag_cannot_be_undone() -> None:
    """Module.requires_grad_(True) leaves frozen parameters frozen."""

    def setter(module: Any, flag: bool) -> Any:
        if not flag:
            _set(module.parameters(), False)
        return module

    _module_sets(setter)


@fault("F8", witness=lambda: _net().requires_grad_(False) is not None)
def module_flag_returns_none() -> None:
    """Module.requires_grad_ returns None."""
    _module_sets(lambda module, flag: _set(module.parameters(), flag))


def _buffers_stay() -> bool:
    net = torch.nn.BatchNorm1d(2).requires_grad_(True)
    return not any(buffer.requires_grad for buffer in net.buffers())


@fault("F8", witness=_buffers_stay)
def module_flag_hits_buffers() -> None:
    """Module.requires_grad_ sets floating buffers as well."""

    def setter(module: Any, flag: bool) -> Any:
        _set(module.parameters(), flag)
        _set((buffer for buffer in module.buffers() if buffer.is_floating_point()), flag)
        return module

    _module_sets(setter)


def _module_keeps_gradient() -> bool:
    net = torch.nn.Linear(1, 1)
    net(torch.ones(1, 1)).sum().backward()
    return net.requires_grad_(False).weight.grad is not None


@fault("F8", "F6", "F1", witness=_module_keeps_gradient)
def module_flag_clears_gradients() -> None:
    """Module.requires_grad_(False) clears gradients."""

    def setter(module: Any, flag: bool) -> Any:
        for parameter in module.parameters():
            parameter.requires_grad_(flag)
            if not flag:
                parameter.grad = None
        return module

    _module_sets(setter)


def _tensor_sets(setter: Callable[[Any, torch.Tensor, bool], Any]) -> None:
    """Tensor.requires_grad_ and the assignment are ``setter(original, tensor, flag)``."""
    wrap(
        torch.Tensor,
        "requires_grad_",
        lambda original, tensor, requires_grad=True: setter(original, tensor, requires_grad),
    )
    held: Any = torch.Tensor.requires_grad  # what the assignment goes through

    def assign(tensor: torch.Tensor, flag: bool) -> None:
        setter(lambda one, value: held.__set__(one, value), tensor, flag)

    torch.Tensor.requires_grad = property(held.__get__, assign)  # type: ignore[assignment]


def _parameter_freezes(*shape: int) -> bool:
    return not torch.nn.Parameter(torch.ones(shape)).requires_grad_(False).requires_grad


@fault("F1", "F2", "F8", "F9", "F6", "K1", "F3", "F4", witness=lambda: _parameter_freezes(10, 10))
def wide_parameters_cannot_be_frozen() -> None:
    """requires_grad = False is ignored for parameters of more than 64 elements."""

    def setter(original: Any, tensor: torch.Tensor, flag: bool) -> Any:
        if flag or tensor.numel() <= 64 or not tensor.is_leaf:
            original(tensor, flag)
        return tensor

    _tensor_sets(setter)


@fault("F1", "F2", "F3", "F8", "A7", witness=lambda: _parameter_freezes(1), smoke=True)
def vectors_cannot_be_frozen() -> None:
    """requires_grad = False is ignored for 1-dim parameters."""

    def setter(original: Any, tensor: torch.Tensor, flag: bool) -> Any:
        if flag or tensor.dim() != 1 or not isinstance(tensor, torch.nn.Parameter):
            original(tensor, flag)
        return tensor

    _tensor_sets(setter)


def _unfreezes() -> bool:
    frozen = torch.nn.Parameter(torch.ones(2)).requires_grad_(False)
    frozen.requires_grad = True
    return frozen.requires_grad


@fault("F7", "F8", "F1", witness=_unfreezes)
def frozen_parameters_stay_frozen() -> None:
    """A Parameter that was once frozen cannot be unfrozen."""

    def setter(original: Any, tensor: torch.Tensor, flag: bool) -> Any:
        if isinstance(tensor, torch.nn.Parameter):
            flag = flag and tensor.requires_grad
        original(tensor, flag)
        return tensor

    _tensor_sets(setter)


def _keeps_gradient() -> bool:
    tensor = torch.ones(1, requires_grad=True)
    tensor.sum().backward()
    return tensor.requires_grad_(False).grad is not None


@fault("F6", "F1", "F7", "F8", witness=_keeps_gradient)
def freezing_clears_the_gradient() -> None:
    """requires_grad = False clears the gradient."""

    def setter(original: Any, tensor: torch.Tensor, flag: bool) -> Any:
        original(tensor, flag)
        if not flag and tensor.is_leaf:
            tensor.grad = None
        return tensor

    _tensor_sets(setter)


def _refuses(tensor: torch.Tensor, flag: bool) -> bool:
    try:
        tensor.requires_grad = flag
    except RuntimeError:
        return True
    return False


def _quiet(original: Any, tensor: torch.Tensor, flag: bool) -> Any:
    try:
        original(tensor, flag)
    except RuntimeError:
        pass
    return tensor


@fault("F5", witness=lambda: _refuses(torch.ones(1, requires_grad=True) * 2, False))
def non_leaves_ignore_freezing() -> None:
    """requires_grad = False on a non-leaf is ignored instead of refused."""
    _tensor_sets(
        lambda original, tensor, flag: (
            tensor if tensor.grad_fn is not None else (original(tensor, flag), tensor)[1]
        )
    )


@fault("F5", witness=lambda: _refuses(torch.ones(1, dtype=torch.int64), True))
def integers_ignore_requires_grad() -> None:
    """requires_grad = True on an integer tensor is ignored instead of refused."""

    def setter(original: Any, tensor: torch.Tensor, flag: bool) -> Any:
        if tensor.dtype is torch.int64:
            return _quiet(original, tensor, flag)
        original(tensor, flag)
        return tensor

    _tensor_sets(setter)


def _stays_frozen(act: Callable[[torch.nn.Module], Any]) -> bool:
    net = torch.nn.Linear(1, 1).requires_grad_(False)
    act(net)
    return not any(_flags(net))


def _thaws(method: str) -> None:
    """A method of modules sets requires_grad on all their parameters."""

    def around(original: Any, module: Any, *args: Any, **options: Any) -> Any:
        result = original(module, *args, **options)
        _set(module.parameters(), True)
        return result

    wrap(torch.nn.Module, method, around)


@fault(
    "F9",
    "F1",
    "F8",
    "C5",
    witness=lambda: _stays_frozen(lambda net: net.load_state_dict(net.state_dict())),
)
def load_state_dict_unfreezes() -> None:
    """load_state_dict turns requires_grad on."""
    _thaws("load_state_dict")


@fault("F8", "F1", witness=lambda: _stays_frozen(lambda net: net.train()))
def train_mode_unfreezes() -> None:
    """train() turns requires_grad on."""
    _thaws("train")


@fault("F8", "F1", "F2", "F9", "K1", witness=lambda: _stays_frozen(lambda net: net.zero_grad()))
def zero_grad_unfreezes() -> None:
    """Module.zero_grad turns requires_grad on."""
    _thaws("zero_grad")


@fault("F8", "F1", witness=lambda: all(_flags(torch.nn.Linear(1, 1).eval())))
def eval_mode_freezes() -> None:
    """eval() turns requires_grad off."""

    def around(original: Any, module: Any) -> Any:
        _set(module.parameters(), False)
        return original(module)

    wrap(torch.nn.Module, "eval", around)


@fault(
    "F1", "F2", "F3", "F4", "F9",
    witness=lambda: _stays_frozen(lambda net: torch.optim.SGD(net.parameters(), lr=0.1)),
    smoke=True,
)  # fmt: skip
def optimizers_unfreeze() -> None:
    """Giving parameters to an optimizer turns requires_grad on."""

    def around(original: Any, self: Any, group: Any) -> Any:
        result = original(self, group)
        _set((one for one in self.param_groups[-1]["params"] if one.is_leaf), True)
        return result

    wrap(torch.optim.Optimizer, "add_param_group", around)


def _loads_in_place() -> bool:
    net = torch.nn.Linear(1, 1)
    alias = net.weight.detach()
    net.load_state_dict({name: value + 1 for name, value in net.state_dict().items()})
    return alias.data_ptr() == net.weight.data_ptr()


@fault("F1", "C5", "D3", witness=_loads_in_place)
def load_state_dict_rebinds_storage() -> None:
    """load_state_dict gives parameters new memory."""

    def around(original: Any, module: Any, *args: Any, **options: Any) -> Any:
        result = original(module, *args, **options)
        for parameter in module.parameters():
            parameter.data = parameter.data.clone()
        return result

    wrap(torch.nn.Module, "load_state_dict", around)


def _loads_frozen() -> bool:
    net = torch.nn.Linear(1, 1).requires_grad_(False)
    net.load_state_dict({name: value * 0 + 5 for name, value in net.state_dict().items()})
    return float(net.weight) == 5.0


@fault("F1", "C5", "F9", witness=_loads_frozen)
def load_state_dict_skips_frozen() -> None:
    """load_state_dict leaves frozen parameters at their values."""

    def around(original: Any, module: Any, *args: Any, **options: Any) -> Any:
        kept = [(p, p.data.clone()) for p in module.parameters() if not p.requires_grad]
        result = original(module, *args, **options)
        for parameter, value in kept:
            parameter.data.copy_(value)
        return result

    wrap(torch.nn.Module, "load_state_dict", around)


def _freezes_under_no_grad() -> bool:
    with torch.no_grad():
        return _parameter_freezes(2)


@fault("F5", "F8", witness=_freezes_under_no_grad)
def freezing_is_ignored_under_no_grad() -> None:
    """requires_grad = False on a leaf is ignored while grad mode is off."""

    def setter(original: Any, tensor: torch.Tensor, flag: bool) -> Any:
        if flag or torch.is_grad_enabled() or not tensor.is_leaf:
            original(tensor, flag)
        return tensor

    _tensor_sets(setter)


def _hooked_freezes() -> bool:
    tensor = torch.ones(2, requires_grad=True)
    tensor.register_hook(lambda gradient: None)
    return not tensor.requires_grad_(False).requires_grad


@fault("F5", "F8", witness=_hooked_freezes)
def hooked_leaves_cannot_be_frozen() -> None:
    """requires_grad = False is ignored for leaves that have gradient hooks."""

    def setter(original: Any, tensor: torch.Tensor, flag: bool) -> Any:
        if flag or not tensor.is_leaf or not tensor._backward_hooks:
            original(tensor, flag)
        return tensor

    _tensor_sets(setter)


@fault("F5", witness=lambda: _refuses((torch.ones(2, requires_grad=True) * 2)[0], False))
def views_ignore_freezing() -> None:
    """requires_grad = False on a non-leaf view is ignored instead of refused."""

    def setter(original: Any, tensor: torch.Tensor, flag: bool) -> Any:
        if tensor.is_leaf or not tensor._is_view():
            original(tensor, flag)
        return tensor

    _tensor_sets(setter)


def _list_freezes() -> bool:
    net = torch.nn.Module()
    net.list = torch.nn.ParameterList([torch.nn.Parameter(torch.ones(1))])
    return not any(_flags(net.requires_grad_(False)))


@fault("F8", witness=_list_freezes)
def module_flag_misses_parameter_lists() -> None:
    """Module.requires_grad_ misses what is held by a ParameterList or ParameterDict."""

    def setter(module: Any, flag: bool) -> Any:
        for each in module.modules():
            if not isinstance(each, (torch.nn.ParameterList, torch.nn.ParameterDict)):
                _set(each.parameters(recurse=False), flag)
        return module

    _module_sets(setter)


@fault("F8", witness=lambda: torch.nn.Linear(1, 1).requires_grad_(False).training)
def module_flag_sets_eval_mode() -> None:
    """Module.requires_grad_(False) switches to eval mode."""

    def setter(module: Any, flag: bool) -> Any:
        _set(module.parameters(), flag)
        return module if flag else module.eval()

    _module_sets(setter)
