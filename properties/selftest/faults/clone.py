"""clone and deepcopy broken: they alias, leave the graph, or change values, for some tensors."""

import copy
from typing import Any, Callable

import torch

from frostproof.properties.selftest.faults.fault import fault
from frostproof.properties.selftest.faults.patching import wrap

Test = Callable[[torch.Tensor], bool]


def _clone_gives(
    broken: Callable[[Any, torch.Tensor, Any], torch.Tensor], applies: Test = lambda tensor: True
) -> None:
    """Both spellings give ``broken(clone, tensor, options)`` where ``applies(tensor)``."""

    def around(original: Any, tensor: torch.Tensor, **options: Any) -> Any:
        if applies(tensor):
            return broken(original, tensor, options)
        return original(tensor, **options)

    wrap(torch.Tensor, "clone", around)
    wrap(torch, "clone", around)


def _alias(original: Any, tensor: torch.Tensor, options: Any) -> torch.Tensor:
    return tensor.view_as(tensor)


def _after(change: Callable[[torch.Tensor], Any], applies: Test) -> None:
    """The clone is changed in place, outside the graph."""

    def broken(original: Any, tensor: torch.Tensor, options: Any) -> torch.Tensor:
        result = original(tensor, **options)
        change(result.data)
        return result  # type: ignore[no-any-return]

    _clone_gives(broken, applies)


def _hooked(hook: Callable[[torch.Tensor], torch.Tensor], applies: Test = lambda tensor: True) -> None:
    """Gradients through the clone are changed."""

    def broken(original: Any, tensor: torch.Tensor, options: Any) -> torch.Tensor:
        result = original(tensor, **options)
        if result.requires_grad:
            result.register_hook(hook)
        return result  # type: ignore[no-any-return]

    _clone_gives(broken, applies)


def _owns(tensor: torch.Tensor) -> bool:
    return tensor.clone().data_ptr() != tensor.data_ptr()


def _live(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.ones(shape or (2,), dtype=dtype, requires_grad=True)


@fault("C1", "C4", "A2", witness=lambda: _owns(torch.ones(2)), smoke=True)
def clone_aliases() -> None:
    """clone shares its source's memory."""
    _clone_gives(_alias)


@fault("C1", "C4", "C5", witness=lambda: _owns(torch.ones(2)))
def clone_aliases_without_grad() -> None:
    """clone of what does not require grad shares memory."""
    _clone_gives(_alias, lambda tensor: not tensor.requires_grad)


def _owns_under_no_grad() -> bool:
    with torch.no_grad():
        return _owns(_live())


@fault("C1", "C4", "F9", "C5", witness=_owns_under_no_grad)
def clone_aliases_under_no_grad() -> None:
    """clone shares memory while grad mode is off."""
    _clone_gives(_alias, lambda tensor: not torch.is_grad_enabled())


@fault("C1", "C4", "F9", "C5", witness=lambda: _owns(torch.ones(9)))
def clone_aliases_nine() -> None:
    """clone of nine or more elements shares memory."""
    _clone_gives(_alias, lambda tensor: tensor.numel() >= 9)


@fault("C1", witness=lambda: _owns(torch.ones(2, dtype=torch.int16)))
def clone_aliases_integers() -> None:
    """clone of int16 tensors shares memory."""
    _clone_gives(_alias, lambda tensor: tensor.dtype is torch.int16)


@fault("C1", "C4", "F3", witness=lambda: _owns(torch.ones(2, dtype=torch.bfloat16)))
def clone_aliases_bfloat16() -> None:
    """clone of bfloat16 tensors shares memory."""
    _clone_gives(_alias, lambda tensor: tensor.dtype is torch.bfloat16)


@fault("C1", witness=lambda: _owns(torch.ones(1).expand(3)))
def clone_aliases_expanded() -> None:
    """clone of expanded tensors shares memory."""
    _clone_gives(_alias, lambda tensor: 0 in tensor.stride())


@fault("C1", "C4", "F1", witness=lambda: _owns(torch.nn.Parameter(torch.ones(2))))
def clone_aliases_parameters() -> None:
    """clone of a Parameter shares memory."""
    _clone_gives(_alias, lambda tensor: isinstance(tensor, torch.nn.Parameter))


@fault("C1", "C2", "C3", "A2", "A3", witness=lambda: _live().clone().requires_grad, smoke=True)
def clone_detaches() -> None:
    """clone leaves the graph."""
    _clone_gives(lambda original, tensor, options: original(tensor.detach(), **options))


@fault("C1", "C2", "C3", witness=lambda: (_live() * 2).clone().requires_grad)
def clone_detaches_non_leaves() -> None:
    """clone of what has a grad_fn leaves the graph."""
    _clone_gives(
        lambda original, tensor, options: original(tensor.detach(), **options),
        lambda tensor: tensor.grad_fn is not None,
    )


@fault("C2", "C3", witness=lambda: _live(dtype=torch.complex64).clone().requires_grad)
def clone_detaches_complex() -> None:
    """clone of complex tensors leaves the graph."""
    _clone_gives(
        lambda original, tensor, options: original(tensor.detach(), **options),
        lambda tensor: tensor.is_complex(),
    )


@fault("C2", "C3", witness=lambda: _live(2, 3).t().clone().requires_grad)
def clone_detaches_transposed() -> None:
    """clone of what is not contiguous leaves the graph."""
    _clone_gives(
        lambda original, tensor, options: original(tensor.detach(), **options),
        lambda tensor: not tensor.is_contiguous(),
    )


def _gradient(size: int, dtype: torch.dtype, by: float) -> float:
    tensor = _live(size, dtype=dtype)
    (tensor.clone() * by).sum().backward()
    assert tensor.grad is not None
    return float(tensor.grad[0])


@fault("C3", "A3", witness=lambda: _gradient(1, torch.float32, 3.0) == 3.0, smoke=True)
def clone_doubles_gradients() -> None:
    """Gradients through a clone are doubled."""
    _hooked(lambda gradient: gradient * 2)


@fault("C3", witness=lambda: _gradient(50, torch.float32, 3.0) == 3.0)
def clone_doubles_gradients_of_many() -> None:
    """Gradients through a clone of 16 or more elements are doubled."""
    _hooked(lambda gradient: gradient * 2, lambda tensor: tensor.numel() >= 16)


@fault("C3", witness=lambda: _gradient(1, torch.float64, 1 / 3) == 1 / 3)
def clone_rounds_float64_gradients() -> None:
    """Gradients through a float64 clone are rounded to float32."""
    _hooked(lambda gradient: gradient.float().double(), lambda tensor: tensor.dtype is torch.float64)


@fault("C3", "A3", witness=lambda: _gradient(1, torch.float32, 3.0) == 3.0)
def clone_gives_zero_gradients() -> None:
    """Gradients through a clone are zeros."""
    _hooked(lambda gradient: gradient * 0)


def _second_derivative() -> bool:
    tensor = _live(1)
    (first,) = torch.autograd.grad((tensor.clone() ** 3).sum(), tensor, create_graph=True)
    return first.requires_grad


@fault("C3", witness=_second_derivative)
def clone_drops_second_derivatives() -> None:
    """What flows back through a clone cannot be differentiated again."""
    _hooked(lambda gradient: gradient.detach())


@fault("C2", "A2", witness=lambda: "Clone" in str(_live().clone().grad_fn))
def clone_is_a_multiplication() -> None:
    """clone of what requires grad is a multiplication by one."""
    _clone_gives(lambda original, tensor, options: tensor * 1, lambda tensor: tensor.requires_grad)


def _channels_last_made() -> bool:
    made = torch.ones(1, 2, 3, 4).clone(memory_format=torch.channels_last)
    return made.is_contiguous(memory_format=torch.channels_last)


@fault("C1", witness=_channels_last_made)
def clone_ignores_memory_format() -> None:
    """clone does not look at memory_format."""
    _clone_gives(lambda original, tensor, options: original(tensor))


def _keeps(value: float) -> bool:
    tensor = torch.tensor([value], dtype=torch.float64)
    return str(tensor.clone()[0].item()) == str(value)


def _is_double(tensor: torch.Tensor) -> bool:
    return tensor.dtype is torch.float64


@fault("C1", witness=lambda: _keeps(-0.0))
def clone_loses_the_sign_of_zero() -> None:
    """clone turns -0.0 into 0.0, in float64."""
    _after(lambda values: values.add_(0.0), _is_double)


@fault("C1", witness=lambda: _keeps(1e-310))
def clone_flushes_subnormals() -> None:
    """clone turns subnormal numbers into zero, in float64."""
    _after(lambda values: values.mul_((values.abs() >= 2.3e-308) | values.isnan()), _is_double)


@fault("C1", witness=lambda: _keeps(float("nan")))
def clone_replaces_nan() -> None:
    """clone turns nan into 0.0, in float64."""
    _after(lambda values: values.masked_fill_(values.isnan(), 0.0), _is_double)


@fault("C1", witness=lambda: _keeps(float("inf")))
def clone_bounds_infinities() -> None:
    """clone turns infinities into the largest numbers, in float64."""
    _after(lambda values: values.clamp_(-1.7e308, 1.7e308), _is_double)


def _source_keeps_version() -> bool:
    tensor = torch.ones(2)
    tensor.clone()
    return tensor._version == 0


@fault("C1", witness=_source_keeps_version)
def clone_bumps_its_sources_version() -> None:
    """clone counts as a write to its source."""

    def broken(original: Any, tensor: torch.Tensor, options: Any) -> Any:
        tensor.detach().add_(0)
        return original(tensor, **options)

    _clone_gives(broken, lambda tensor: tensor.dtype is torch.float32 and 0 not in tensor.stride())


def _deep_copy_owns() -> bool:
    net = torch.nn.Linear(1, 1)
    return copy.deepcopy(net).weight.data_ptr() != net.weight.data_ptr()


def _replace_deepcopy(broken: Callable[[Any, Any], Any]) -> None:
    """``deepcopy`` of a Parameter gives ``broken(copied, source)``."""

    def around(original: Any, source: Any, memo: Any) -> Any:
        if id(source) not in memo:
            memo[id(source)] = broken(original(source, memo), source)
        return memo[id(source)]

    wrap(torch.nn.Parameter, "__deepcopy__", around)


@fault("C5", "F1", witness=_deep_copy_owns, smoke=True)
def deepcopy_shares_parameters() -> None:
    """deepcopy of a module shares its parameters' memory."""
    _replace_deepcopy(lambda copied, source: torch.nn.Parameter(source.data, source.requires_grad))


def _deep_copy_is_frozen() -> bool:
    net = torch.nn.Linear(1, 1).requires_grad_(False)
    return not copy.deepcopy(net).weight.requires_grad


@fault("C5", "F1", witness=_deep_copy_is_frozen)
def deepcopy_unfreezes() -> None:
    """deepcopy of a frozen parameter requires grad."""
    _replace_deepcopy(lambda copied, source: copied.requires_grad_(True))


def _state_follows() -> bool:
    net = torch.nn.Linear(1, 1)
    return net.state_dict()["weight"].data_ptr() == net.weight.data_ptr()


def _replace_saving(change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    def around(original: Any, module: Any, destination: Any, prefix: str, keep_vars: bool) -> None:
        original(module, destination, prefix, keep_vars)
        for name, value in module._parameters.items():
            if value is not None:
                destination[prefix + name] = change(value)

    wrap(torch.nn.Module, "_save_to_state_dict", around)


@fault("C5", witness=_state_follows)
def state_dict_copies() -> None:
    """state_dict gives copies."""
    _replace_saving(lambda value: value.detach().clone())


@fault("C5", witness=lambda: not torch.nn.Linear(1, 1).state_dict()["weight"].requires_grad)
def state_dict_stays_in_the_graph() -> None:
    """state_dict gives the parameters themselves."""
    _replace_saving(lambda value: value)


def _clone_keeps_gradient() -> bool:
    tensor = _live()
    tensor.grad = torch.ones(2)
    tensor.clone()
    return tensor.grad is not None


@fault("C1", witness=_clone_keeps_gradient)
def clone_clears_its_sources_gradient() -> None:
    """clone of a leaf clears the leaf's gradient."""

    def broken(original: Any, tensor: torch.Tensor, options: Any) -> Any:
        tensor.grad = None
        return original(tensor, **options)

    _clone_gives(broken, lambda tensor: tensor.is_leaf and tensor.grad is not None)


def _owns_in_inference_mode() -> bool:
    with torch.inference_mode():
        return _owns(_live())


@fault("C1", witness=_owns_in_inference_mode, since=(1, 10))
def clone_aliases_in_inference_mode() -> None:
    """clone shares memory in inference mode."""
    _clone_gives(_alias, lambda tensor: torch.is_inference_mode_enabled())


def _channels_last_owns() -> bool:
    tensor = torch.ones(1, 2, 3, 4).contiguous(memory_format=torch.channels_last)
    return tensor.clone(memory_format=torch.channels_last).data_ptr() != tensor.data_ptr()


@fault("C1", witness=_channels_last_owns)
def clone_aliases_what_has_the_format() -> None:
    """clone to channels_last of what is channels_last shares memory, as contiguous() does."""

    def around(original: Any, tensor: torch.Tensor, **options: Any) -> Any:
        wanted = options.get("memory_format")
        if wanted is torch.channels_last and tensor.is_contiguous(memory_format=wanted):
            return tensor.view_as(tensor)
        return original(tensor, **options)

    wrap(torch.Tensor, "clone", around)
    wrap(torch, "clone", around)


def _sum_passes() -> bool:
    tensor = _live(3)
    tensor.clone().sum().backward()
    return tensor.grad is not None and tensor.grad.tolist() == [1.0] * 3


@fault("C3", witness=_sum_passes)
def clone_halves_expanded_gradients() -> None:
    """A gradient of strides zero, such as sum's, is halved by a clone."""
    _hooked(lambda gradient: gradient * 0.5 if 0 in gradient.stride() else gradient)


def _tangent_owned() -> bool:
    from torch.autograd import forward_ad

    with forward_ad.dual_level():
        dual = forward_ad.make_dual(torch.ones(2), torch.ones(2))
        found = forward_ad.unpack_dual(dual.clone()).tangent
        held = forward_ad.unpack_dual(dual).tangent
        return found is not None and held is not None and found.data_ptr() != held.data_ptr()


@fault("C3", witness=_tangent_owned, since=(2, 0))
def clone_shares_its_tangent() -> None:
    """The tangent of a clone is its source's very tensor."""
    from torch.autograd import forward_ad

    def broken(original: Any, tensor: torch.Tensor, options: Any) -> Any:
        held = forward_ad.unpack_dual(tensor)
        return forward_ad.make_dual(original(held.primal, **options), held.tangent)

    def is_dual(tensor: torch.Tensor) -> bool:
        if forward_ad._current_level < 0 or not tensor.is_floating_point():
            return False
        return forward_ad.unpack_dual(tensor).tangent is not None

    _clone_gives(broken, is_dual)


def _clone_conjugates() -> bool:
    return torch.tensor([1 + 2j]).conj().clone().tolist() == [1 - 2j]


@fault("C1", "C5", witness=_clone_conjugates, since=(1, 10))
def clone_forgets_the_conjugation() -> None:
    """clone of a lazily conjugated tensor copies what lies in its memory."""
    _clone_gives(
        lambda original, tensor, options: original(tensor.conj(), **options),
        lambda tensor: tensor.is_conj(),
    )


def _complex_nan_kept() -> bool:
    return torch.tensor([complex("nan+1j")], dtype=torch.complex128).clone().isnan().tolist() == [True]


@fault("C1", witness=_complex_nan_kept)
def clone_replaces_complex_nan() -> None:
    """clone turns nan into 0.0, in complex128."""
    _after(
        lambda values: values.masked_fill_(values != values, 0.0),
        lambda tensor: tensor.dtype is torch.complex128,
    )


def _deep_copy_tied() -> bool:
    net = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Linear(1, 1))
    net[1].weight = net[0].weight
    copied = copy.deepcopy(net)
    return copied[1].weight is copied[0].weight


@fault("C5", "F8", witness=_deep_copy_tied)
def deepcopy_unties() -> None:
    """deepcopy of a module copies a tied parameter once for each of its places."""

    def untied(module: Any, memo: Any) -> Any:
        copied = module.__class__.__new__(module.__class__)
        memo[id(module)] = copied
        copied.__dict__.update(copy.deepcopy(module.__dict__, memo))
        for each in copied.modules():
            for name, value in each._parameters.items():
                if value is not None:
                    each._parameters[name] = torch.nn.Parameter(value.data * 1, value.requires_grad)
        return copied

    torch.nn.Module.__deepcopy__ = untied  # type: ignore[attr-defined]


def _frozen_state_follows() -> bool:
    net = torch.nn.Linear(1, 1).requires_grad_(False)
    return net.state_dict()["weight"].data_ptr() == net.weight.data_ptr()


@fault("C5", witness=_frozen_state_follows)
def state_dict_copies_frozen() -> None:
    """state_dict gives copies of what is frozen."""
    _replace_saving(lambda value: value.detach() if value.requires_grad else value.detach().clone())
