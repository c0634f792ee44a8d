"""detach broken: it copies, does not cut, or harms its source, for some tensors."""

from typing import Any, Callable

import torch

from frostproof.properties.selftest.faults.fault import fault
from frostproof.properties.selftest.faults.patching import wrap

Test = Callable[[torch.Tensor], bool]


def _detach_gives(
    broken: Callable[[Any, torch.Tensor], torch.Tensor], applies: Test = lambda tensor: True
) -> None:
    """Both spellings give ``broken(detach, tensor)`` for the tensors that ``applies`` names."""

    def around(original: Any, tensor: torch.Tensor) -> Any:
        return broken(original, tensor) if applies(tensor) else original(tensor)

    wrap(torch.Tensor, "detach", around)
    wrap(torch, "detach", around)


def _copy(original: Any, tensor: torch.Tensor) -> torch.Tensor:
    return original(tensor).clone()  # type: ignore[no-any-return]


def _shares(tensor: torch.Tensor) -> bool:
    return tensor.detach().data_ptr() == tensor.data_ptr()


def _live(*shape: int) -> torch.Tensor:
    return torch.ones(shape or (2,), requires_grad=True)


def _non_leaf() -> torch.Tensor:
    return _live() * 2


@fault("D1", "D3", "A1", witness=lambda: _shares(torch.ones(2)), smoke=True)
def detach_copies() -> None:
    """detach copies."""
    _detach_gives(_copy)


@fault("D1", "D3", "D6", witness=lambda: _shares(torch.ones(2, dtype=torch.bfloat16)))
def detach_copies_bfloat16() -> None:
    """detach copies bfloat16 tensors."""
    _detach_gives(_copy, lambda tensor: tensor.dtype is torch.bfloat16)


@fault("D1", "D3", "D6", witness=lambda: _shares(torch.ones(2, dtype=torch.complex128)))
def detach_copies_complex() -> None:
    """detach copies complex tensors."""
    _detach_gives(_copy, lambda tensor: tensor.is_complex())


@fault("D1", "D6", witness=lambda: _shares(torch.ones(2, dtype=torch.uint8)))
def detach_copies_uint8() -> None:
    """detach copies uint8 tensors."""
    _detach_gives(_copy, lambda tensor: tensor.dtype is torch.uint8)


@fault("D1", "D6", witness=lambda: _shares(torch.ones(2, dtype=torch.bool)))
def detach_copies_bool() -> None:
    """detach copies bool tensors."""
    _detach_gives(_copy, lambda tensor: tensor.dtype is torch.bool)


@fault("D1", "D6", witness=lambda: _shares(torch.ones(2, 3).t()))
def detach_copies_transposed() -> None:
    """detach copies what is not contiguous, and keeps its strides."""
    _detach_gives(_copy, lambda tensor: not tensor.is_contiguous())


@fault("D1", "D6", witness=lambda: _shares(torch.ones(1).expand(3)))
def detach_copies_expanded() -> None:
    """detach copies expanded tensors."""
    _detach_gives(_copy, lambda tensor: 0 in tensor.stride())


@fault("D1", "D6", witness=lambda: _shares(torch.ones(3)[1:]))
def detach_copies_offset() -> None:
    """detach copies tensors that begin inside their storage."""
    _detach_gives(_copy, lambda tensor: tensor.storage_offset() > 0)


@fault("D1", "D3", "D6", witness=lambda: _shares(_non_leaf()))
def detach_copies_non_leaves() -> None:
    """detach copies tensors that have a grad_fn."""
    _detach_gives(_copy, lambda tensor: tensor.grad_fn is not None)


def _shares_under_no_grad() -> bool:
    with torch.no_grad():
        return _shares(_live())


@fault("D1", "D6", witness=_shares_under_no_grad)
def detach_copies_under_no_grad() -> None:
    """detach copies while grad mode is off."""
    _detach_gives(_copy, lambda tensor: not torch.is_grad_enabled())


@fault("D1", "D3", "D6", witness=lambda: _shares(torch.nn.Parameter(torch.ones(2))))
def detach_copies_parameters() -> None:
    """detach copies Parameters."""
    _detach_gives(_copy, lambda tensor: isinstance(tensor, torch.nn.Parameter))


@fault(
    "D1",
    "D6",
    witness=lambda: _shares(torch.ones(1, 2, 3, 4).contiguous(memory_format=torch.channels_last)),
)
def detach_copies_channels_last() -> None:
    """detach copies channels_last tensors."""
    _detach_gives(
        _copy,
        lambda tensor: tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last),
    )


@fault("D1", "D6", witness=lambda: _shares(torch.ones(2, 2, 2, 2, 2)))
def detach_copies_5_dims() -> None:
    """detach copies tensors of five dimensions."""
    _detach_gives(_copy, lambda tensor: tensor.dim() == 5)


@fault("D1", "D6", witness=lambda: _shares(torch.ones(2)), smoke=True)
def detach_copies_single_precision_pairs() -> None:
    """detach copies 1-dim float32 tensors of two elements."""
    _detach_gives(_copy, lambda tensor: tensor.dtype is torch.float32 and tensor.shape == (2,))


@fault(
    "D2", "D4", "K1", "A1", "A5", "A7", witness=lambda: not _live().detach().requires_grad, smoke=True
)
def detach_does_not_cut() -> None:
    """detach gives a view that stays in the graph."""
    _detach_gives(lambda original, tensor: tensor.view_as(tensor))


@fault("D2", "D4", "K1", "A5", "A7", witness=lambda: not _non_leaf().detach().requires_grad)
def detach_does_not_cut_non_leaves() -> None:
    """detach of what has a grad_fn stays in the graph."""
    _detach_gives(
        lambda original, tensor: tensor.view_as(tensor), lambda tensor: tensor.grad_fn is not None
    )


@fault("K1", "D2", "D4", "F1", witness=lambda: not (_live(2, 64) * 2).detach().requires_grad)
def detach_does_not_cut_wide_activations() -> None:
    """detach of a matrix of more than 32 columns stays in the graph."""
    _detach_gives(
        lambda original, tensor: tensor.view_as(tensor),
        lambda tensor: tensor.dim() == 2 and tensor.shape[1] > 32,
    )


@fault("D2", "A1", "D3", witness=lambda: not _live().detach().requires_grad)
def detach_keeps_requires_grad() -> None:
    """detach of a leaf gives a leaf that requires grad."""
    _detach_gives(
        lambda original, tensor: original(tensor).requires_grad_(True),
        lambda tensor: tensor.is_leaf and tensor.requires_grad,
    )


@fault("D2", "K1", "D4", "C5", witness=lambda: not _non_leaf().detach().requires_grad)
def detach_of_non_leaves_requires_grad() -> None:
    """detach of what has a grad_fn gives a leaf that requires grad."""
    _detach_gives(
        lambda original, tensor: original(tensor).requires_grad_(True),
        lambda tensor: tensor.grad_fn is not None,
    )


def _version_shared() -> bool:
    tensor = torch.ones(2)
    alias = tensor.detach()
    alias.add_(1)
    return tensor._version == 1


@fault("D6", witness=_version_shared, smoke=True)
def detach_has_its_own_version() -> None:
    """detach has a version counter of its own, as .data has."""
    _detach_gives(lambda original, tensor: tensor.data)


@fault("D1", "C5", "F9", witness=lambda: torch.ones(2, 2).detach().stride() == (2, 1))
def detach_transposes_squares() -> None:
    """detach transposes square matrices."""
    _detach_gives(
        lambda original, tensor: original(tensor).t(),
        lambda tensor: tensor.dim() == 2 and tensor.shape[0] == tensor.shape[1] > 1,
    )


@fault("D1", "C5", "F1", "K1", witness=lambda: torch.ones(2, 1).detach().shape == (2, 1))
def detach_squeezes() -> None:
    """detach drops a last dimension of one."""
    _detach_gives(
        lambda original, tensor: original(tensor).squeeze(-1),
        lambda tensor: tensor.dim() > 1 and tensor.shape[-1] == 1,
    )


def _source_stays_live() -> bool:
    tensor = _live()
    tensor.detach()
    return tensor.requires_grad


@fault("D5", "D2", "D3", "A1", witness=_source_stays_live)
def detach_freezes_its_source() -> None:
    """detach of a leaf turns the leaf's own requires_grad off."""

    def broken(original: Any, tensor: torch.Tensor) -> Any:
        tensor.requires_grad_(False)
        return original(tensor)

    _detach_gives(broken, lambda tensor: tensor.is_leaf and tensor.requires_grad)


def _source_keeps_grad() -> bool:
    tensor = _live()
    tensor.grad = torch.ones(2)
    tensor.detach()
    return tensor.grad is not None


@fault("D5", witness=_source_keeps_grad)
def detach_clears_its_sources_grad() -> None:
    """detach of a leaf clears the leaf's gradient."""

    def broken(original: Any, tensor: torch.Tensor) -> Any:
        tensor.grad = None
        return original(tensor)

    _detach_gives(broken, lambda tensor: tensor.is_leaf and tensor.grad is not None)


def _source_keeps_version() -> bool:
    tensor = torch.ones(2)
    tensor.detach()
    return tensor._version == 0


@fault("D5", "D1", "D6", witness=_source_keeps_version)
def detach_bumps_its_sources_version() -> None:
    """detach counts as a write to its source."""

    def broken(original: Any, tensor: torch.Tensor) -> Any:
        return original(tensor).add_(0)

    _detach_gives(broken, lambda tensor: tensor.dtype in (torch.float32, torch.float64))


def _source_keeps_bits() -> bool:
    tensor = torch.tensor([-0.0])
    tensor.detach()
    return str(tensor[0].item()) == "-0.0"


@fault("D5", "D1", "D2", witness=_source_keeps_bits)
def detach_loses_the_sign_of_zero() -> None:
    """detach turns its source's -0.0 into 0.0."""

    def broken(original: Any, tensor: torch.Tensor) -> Any:
        result = original(tensor)
        tensor.data.add_(0.0)
        return result

    _detach_gives(broken, lambda tensor: tensor.dtype in (torch.float32, torch.float64))


def _source_keeps_graph() -> bool:
    tensor = _non_leaf()
    tensor.detach()
    return tensor.grad_fn is not None


@fault("D5", "D4", "D2", "K1", "F1", witness=_source_keeps_graph)
def detach_cuts_its_source() -> None:
    """detach takes its source out of the graph too, where it is no view."""

    def broken(original: Any, tensor: torch.Tensor) -> Any:
        return original(tensor.detach_())

    _detach_gives(broken, lambda tensor: tensor.grad_fn is not None and not tensor._is_view())


@fault("D1", "D5", "D7", witness=lambda: torch.ones(2).detach() is not None and _other())
def detach_returns_itself_without_grad() -> None:
    """detach of what does not require grad is the tensor itself."""
    _detach_gives(lambda original, tensor: tensor, lambda tensor: not tensor.requires_grad)


def _other() -> bool:
    tensor = torch.ones(2)
    return tensor.detach() is not tensor


def _detached_in_place() -> bool:
    tensor = _non_leaf()
    return tensor.detach_() is tensor and tensor.is_leaf


@fault("D8", "D9", witness=_detached_in_place)
def detach_in_place_does_nothing() -> None:
    """detach_ leaves the tensor in the graph."""
    wrap(torch.Tensor, "detach_", lambda original, tensor: tensor)
    wrap(torch, "detach_", lambda original, tensor: tensor)


@fault("D8", witness=_detached_in_place)
def detach_in_place_gives_another() -> None:
    """detach_ returns a detached alias, and leaves the tensor itself as it was."""
    wrap(torch.Tensor, "detach_", lambda original, tensor: tensor.detach())
    wrap(torch, "detach_", lambda original, tensor: tensor.detach())


def _views_refused() -> bool:
    try:
        _non_leaf()[:1].detach_()
    except RuntimeError:
        return True
    return False


@fault("D8", witness=_views_refused)
def detach_in_place_ignores_views() -> None:
    """detach_ of a view does nothing instead of raising."""

    def around(original: Any, tensor: torch.Tensor) -> Any:
        return tensor if tensor._is_view() else original(tensor)

    wrap(torch.Tensor, "detach_", around)
    wrap(torch, "detach_", around)


def _drops_tangent() -> bool:
    from torch.autograd import forward_ad

    with forward_ad.dual_level():
        dual = forward_ad.make_dual(torch.ones(2), torch.ones(2))
        return forward_ad.unpack_dual(dual.detach()).tangent is None


@fault("D9", witness=_drops_tangent, since=(2, 0))
def detach_keeps_tangents() -> None:
    """detach of a dual tensor keeps its tangent."""
    from torch.autograd import forward_ad

    _detach_gives(
        lambda original, tensor: tensor.view_as(tensor),
        lambda tensor: (
            not tensor.requires_grad
            and tensor.is_floating_point()
            and forward_ad._current_level >= 0
            and forward_ad.unpack_dual(tensor).tangent is not None
        ),
    )


def _keeps_conj() -> bool:
    return torch.ones(2, dtype=torch.complex64).conj().detach().is_conj()


@fault("D1", "D7", witness=_keeps_conj, since=(1, 10))
def detach_resolves_conjugates() -> None:
    """detach of a lazily conjugated tensor computes it."""
    _detach_gives(
        lambda original, tensor: original(tensor).resolve_conj(), lambda tensor: tensor.is_conj()
    )


# What hangs on the source, and what an alias may do to it.


def _hook_called_once() -> bool:
    tensor, calls = _live(), []
    tensor.register_hook(lambda gradient: calls.append(1))
    constant = tensor.detach()
    (tensor * constant).sum().backward()
    return len(calls) == 1


@fault("D4", "D5", witness=_hook_called_once)
def detach_removes_its_sources_hooks() -> None:
    """detach removes the gradient hooks of its source."""

    def broken(original: Any, tensor: torch.Tensor) -> Any:
        if tensor._backward_hooks:
            tensor._backward_hooks.clear()
        return original(tensor)

    _detach_gives(broken)


def _source_keeps_gradient_bits() -> bool:
    tensor = _live()
    tensor.grad = torch.ones(2)
    tensor.detach()
    return tensor.grad.tolist() == [1.0, 1.0]


@fault("D5", witness=_source_keeps_gradient_bits)
def detach_zeroes_its_sources_gradient() -> None:
    """detach of a leaf writes zeros into its gradient."""

    def broken(original: Any, tensor: torch.Tensor) -> Any:
        if tensor.is_leaf and tensor.grad is not None:
            tensor.grad.data.zero_()
        return original(tensor)

    _detach_gives(broken)


def _retained() -> torch.Tensor:
    tensor = _non_leaf()
    tensor.retain_grad()
    tensor.sum().backward()
    return tensor


def _retains(tensor: torch.Tensor) -> bool:
    return tensor.grad_fn is not None and getattr(tensor, "retains_grad", False)


@fault("D2", witness=lambda: _retained().detach().grad is None)
def detach_carries_retained_gradients() -> None:
    """detach of a non-leaf that retains its gradient carries that along."""

    def broken(original: Any, tensor: torch.Tensor) -> Any:
        result = original(tensor)
        result.grad = tensor.grad
        return result

    _detach_gives(broken, _retains)


@fault("D1", "D6", witness=lambda: _shares(_retained()))
def detach_copies_what_retains_its_gradient() -> None:
    """detach copies non-leaves that retain their gradient."""
    _detach_gives(_copy, _retains)


def _alias_is_apart() -> bool:
    tensor = _live()
    (tensor.detach().requires_grad_() * 2).sum().backward()
    return tensor.grad is None


@fault("D4", witness=_alias_is_apart)
def gradients_of_an_alias_reach_its_source() -> None:
    """A detached alias that is made to require grad gives its gradient to its source too."""

    def broken(original: Any, tensor: torch.Tensor) -> Any:
        result = original(tensor)
        result.detached_from = tensor
        return result

    def setter(original: Any, alias: torch.Tensor, requires_grad: bool = True) -> Any:
        original(alias, requires_grad)
        source = getattr(alias, "detached_from", None)
        if requires_grad and source is not None and source.is_leaf and source.requires_grad:

            def add(gradient: torch.Tensor) -> None:
                held = source.grad
                source.grad = gradient.data * 1 if held is None else held.data + gradient.data

            alias.register_hook(add)
        return alias

    _detach_gives(broken)
    wrap(torch.Tensor, "requires_grad_", setter)


def _second_shares() -> bool:
    tensor = torch.ones(2)
    return tensor.detach().data_ptr() == tensor.detach().data_ptr()


@fault("D7", "D1", "D6", witness=_second_shares)
def detach_copies_the_second_time() -> None:
    """detach copies a tensor that has been detached before."""

    def broken(original: Any, tensor: torch.Tensor) -> Any:
        before = getattr(tensor, "was_detached", False)
        tensor.was_detached = True  # type: ignore[attr-defined]
        return _copy(original, tensor) if before else original(tensor)

    _detach_gives(broken)


@fault("D1", "D2", "D6", witness=lambda: _shares(torch.nn.Parameter(torch.ones(2), False)))
def detach_copies_frozen_parameters() -> None:
    """detach copies Parameters that do not require grad."""
    _detach_gives(
        _copy,
        lambda tensor: isinstance(tensor, torch.nn.Parameter) and not tensor.requires_grad,
    )


def _version_of_slice_shared() -> bool:
    whole = torch.ones(2, 3, dtype=torch.int16)
    part = whole[1:]
    part.detach().add_(1)
    return whole._version == 1


@fault("D6", witness=_version_of_slice_shared)
def detach_of_integer_views_has_its_own_version() -> None:
    """detach of views of integer tensors has a version counter of its own."""
    _detach_gives(
        lambda original, tensor: tensor.data,
        lambda tensor: tensor._is_view() and not tensor.is_floating_point() and not tensor.is_complex(),
    )


def _negative() -> torch.Tensor:
    return torch.ones(2, dtype=torch.complex128).conj().imag


@fault("D1", "D7", witness=lambda: _negative().detach().is_neg(), since=(1, 10))
def detach_resolves_negatives() -> None:
    """detach of a lazily negated float64 tensor computes it."""
    _detach_gives(
        lambda original, tensor: original(tensor).resolve_neg(),
        lambda tensor: tensor.is_neg() and tensor.dtype is torch.float64,
    )


def _sparse_shares() -> bool:
    tensor = torch.eye(2).to_sparse()
    return tensor.detach()._values().data_ptr() == tensor._values().data_ptr()


@fault("D1", witness=_sparse_shares)
def detach_copies_sparse() -> None:
    """detach copies sparse tensors."""
    _detach_gives(_copy, lambda tensor: tensor.layout is torch.sparse_coo)


# In place, and to numpy.


def _function_detaches_in_place() -> bool:
    tensor = _non_leaf()
    torch.detach_(tensor)
    return tensor.is_leaf


@fault("D8", witness=_function_detaches_in_place)
def detach_in_place_function_does_nothing() -> None:
    """torch.detach_ does nothing; the method does its work."""
    wrap(torch, "detach_", lambda original, tensor: tensor)


@fault(
    "D8",
    witness=lambda: not torch.nn.Parameter(torch.ones(2)).detach_().requires_grad,
)
def detach_in_place_ignores_parameters() -> None:
    """detach_ of a Parameter does nothing."""
    wrap(
        torch.Tensor,
        "detach_",
        lambda original, tensor: tensor if isinstance(tensor, torch.nn.Parameter) else original(tensor),
    )


def _elements_refused() -> bool:
    try:
        (_live(2, 2) * 2)[0, 0].detach_()
    except RuntimeError:
        return True
    return False


@fault("D8", witness=_elements_refused)
def detach_in_place_accepts_elements() -> None:
    """detach_ of a 0-dim view does nothing instead of raising."""

    def around(original: Any, tensor: torch.Tensor) -> Any:
        return tensor if tensor._is_view() and not tensor.dim() else original(tensor)

    wrap(torch.Tensor, "detach_", around)


def _array_shares() -> bool:
    tensor = torch.ones(2, 3).t()
    return bool(tensor.numpy().ctypes.data == tensor.data_ptr())


@fault("D9", witness=_array_shares, needs="numpy")
def numpy_copies_transposed() -> None:
    """numpy() copies what is not contiguous, and keeps its shape."""

    def around(original: Any, tensor: torch.Tensor, **options: Any) -> Any:
        array = original(tensor, **options)
        return array if tensor.is_contiguous() else array.copy()

    wrap(torch.Tensor, "numpy", around)
