"""Eager mode broken where only a program of several statements shows it."""

from typing import Any, Callable, Sequence

import torch

from frostproof.properties.selftest.faults.fault import fault
from frostproof.properties.selftest.faults.patching import wrap


def _live(*values: float) -> torch.Tensor:
    return torch.tensor(values or (1.0, 2.0), requires_grad=True)


def _slope(function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The gradient of a sum at (1, 2)."""
    leaf = _live()
    made = function(leaf).sum()
    if not made.requires_grad:
        return None
    made.backward()
    return None if leaf.grad is None else leaf.grad.tolist()


def _raises(action: Callable[[], Any]) -> bool:
    try:
        action()
    except RuntimeError:
        return True
    return False


def _written_late(leaf: torch.Tensor) -> torch.Tensor:
    middle = leaf * 1
    made = middle * middle
    middle.add_(1)
    return made


@fault("P2", witness=lambda: _raises(lambda: _slope(_written_late)))
def products_of_one_tensor_save_copies() -> None:
    """x * x saves a copy, so that backward misses a write to x in between."""

    def around(original: Any, tensor: torch.Tensor, other: Any) -> Any:
        return original(tensor.clone(), tensor.clone()) if other is tensor else original(tensor, other)

    wrap(torch.Tensor, "__mul__", around)


def _view_of_view_version() -> bool:
    base = torch.zeros(4)
    base[1:][1:].add_(1)
    return base._version == 1


@fault("P2", witness=_view_of_view_version)
def writes_to_a_view_of_a_view_are_not_counted() -> None:
    """add_ on a view with an offset leaves its base's version as it was."""

    def around(original: Any, tensor: torch.Tensor, *rest: Any, **options: Any) -> Any:
        if tensor._is_view() and tensor.storage_offset() and not tensor.requires_grad:
            original(tensor.data, *rest, **options)
            return tensor
        return original(tensor, *rest, **options)

    for name in ("add_", "mul_", "__iadd__", "__imul__", "relu_", "copy_"):
        wrap(torch.Tensor, name, around)


def _assigned(leaf: torch.Tensor) -> torch.Tensor:
    made = torch.zeros(2, 2)
    made[0] = leaf
    return made


@fault("P2", "D4", witness=lambda: _slope(_assigned) == [1.0, 1.0])
def assignment_to_a_row_cuts() -> None:
    """x[0] = y is y's value without its history."""

    def around(original: Any, tensor: torch.Tensor, key: Any, value: Any) -> None:
        live = isinstance(value, torch.Tensor) and isinstance(key, int)
        original(tensor, key, value.detach() if live else value)

    wrap(torch.Tensor, "__setitem__", around)


def _second_half(leaf: torch.Tensor) -> torch.Tensor:
    return (leaf * 1).chunk(2)[1]


@fault("P2", witness=lambda: _slope(_second_half) == [0.0, 1.0])
def the_second_chunk_is_cut() -> None:
    """chunk gives its later parts without history."""

    def around(original: Any, tensor: torch.Tensor, *rest: Any) -> Any:
        first, *others = original(tensor, *rest)
        return (first, *(each.detach() for each in others))

    wrap(torch.Tensor, "chunk", around)


def _unbound() -> bool:
    base = torch.zeros(2)
    base.unbind()[1].add_(1)
    return base.tolist() == [0.0, 1.0]


@fault("P2", witness=_unbound)
def unbind_copies() -> None:
    """unbind gives copies: writes to them do not reach their base."""

    def around(original: Any, tensor: torch.Tensor, *rest: Any) -> Any:
        return tuple(each.clone() for each in original(tensor, *rest))

    wrap(torch.Tensor, "unbind", around)


def _zeroed(leaf: torch.Tensor) -> torch.Tensor:
    middle = leaf * 3
    middle.zero_()
    return middle


@fault("P2", witness=lambda: _slope(_zeroed) == [0.0, 0.0])
def zero_keeps_the_gradient() -> None:
    """zero_ of a result still passes its gradient."""

    def around(original: Any, tensor: torch.Tensor) -> Any:
        original(tensor.data)
        tensor.add_(0)
        return tensor

    wrap(torch.Tensor, "zero_", around)


def _filled(leaf: torch.Tensor) -> torch.Tensor:
    middle = leaf * 3
    middle.add_(1)
    middle.fill_(3)
    return middle


@fault("P2", witness=lambda: _slope(_filled) == [0.0, 0.0])
def fill_after_a_write_keeps_the_gradient() -> None:
    """fill_ of a result that was written to before still passes its gradient."""

    def around(original: Any, tensor: torch.Tensor, value: Any) -> Any:
        if tensor._version and tensor.requires_grad and not tensor.is_leaf:
            original(tensor.data, value)
            return tensor.add_(0)
        return original(tensor, value)

    wrap(torch.Tensor, "fill_", around)


def _grad_after(block: Any) -> bool:
    with torch.no_grad():
        with block():
            pass
        return not torch.is_grad_enabled()


@fault("P2", "K1", witness=lambda: _grad_after(torch.enable_grad))
def enable_grad_inside_no_grad_stays() -> None:
    """enable_grad, entered under no_grad, does not give the mode back."""

    def around(original: Any, block: Any, *rest: Any) -> None:
        before = block.prev
        original(block, *rest)
        if not before:
            torch._C._set_grad_enabled(True)

    wrap(torch.enable_grad, "__exit__", around)


def _copied_row(leaf: torch.Tensor) -> torch.Tensor:
    made = leaf * 2
    made[:1].copy_(torch.ones(1))
    return made


@fault("P2", witness=lambda: _slope(_copied_row) == [0.0, 2.0])
def copies_into_a_view_keep_the_gradient() -> None:
    """copy_ into a view of a result keeps the old values' gradient."""

    def around(original: Any, tensor: torch.Tensor, other: torch.Tensor, *rest: Any) -> Any:
        if tensor._is_view() and tensor.requires_grad and not other.requires_grad:
            original(tensor.data, other, *rest)
            return tensor.add_(0)
        return original(tensor, other, *rest)

    wrap(torch.Tensor, "copy_", around)


def _twice(leaf: torch.Tensor) -> torch.Tensor:
    return torch.stack([leaf, leaf])


@fault("P2", witness=lambda: _slope(_twice) == [2.0, 2.0])
def stack_of_one_tensor_twice_counts_once() -> None:
    """stack of the same tensor twice passes one of its gradients."""

    def around(original: Any, tensors: Sequence[torch.Tensor], *rest: Any) -> Any:
        seen: list = []
        given = []
        for each in tensors:
            given.append(each.detach() if any(each is old for old in seen) else each)
            seen.append(each)
        return original(given, *rest)

    wrap(torch, "stack", around)


def _transposed_write() -> bool:
    base = torch.arange(6.0).reshape(2, 3)
    made = base.t().contiguous()
    made.add_(1)
    return base[0, 0].item() == 0.0


@fault("P2", witness=_transposed_write)
def contiguous_of_a_transposed_one_aliases() -> None:
    """contiguous of a transposed tensor is a view of it."""

    def around(original: Any, tensor: torch.Tensor, **options: Any) -> Any:
        if tensor.dim() == 2 and not tensor.is_contiguous():
            return tensor[...]
        return original(tensor, **options)

    wrap(torch.Tensor, "contiguous", around)


def _squeezed() -> bool:
    base = torch.zeros(2)
    base.squeeze().add_(1)
    return base.tolist() == [1.0, 1.0]


@fault("P2", witness=_squeezed)
def squeeze_of_nothing_copies() -> None:
    """squeeze copies where there is nothing to squeeze."""

    def around(original: Any, tensor: torch.Tensor, *rest: Any) -> Any:
        made = original(tensor, *rest)
        return made.clone() if made.shape == tensor.shape else made

    wrap(torch.Tensor, "squeeze", around)


def _put(leaf: torch.Tensor) -> torch.Tensor:
    made = torch.ones(2)
    made.index_put_((torch.tensor([0]),), leaf[:1])
    return made


@fault("P2", witness=lambda: _put(torch.ones(2)).tolist() == [1.0, 1.0])
def index_put_accumulates() -> None:
    """index_put_ adds to what is there."""

    def around(original: Any, tensor: torch.Tensor, indices: Any, value: Any, *rest: Any) -> Any:
        return original(tensor, indices, value, True)

    wrap(torch.Tensor, "index_put_", around)


def _detached_late() -> bool:
    leaf = _live()
    made = leaf * 2
    made.add_(1)
    return made.detach()._version == 1


@fault("P2", "D6", witness=_detached_late)
def detach_after_a_write_forgets_the_version() -> None:
    """detach of what was written to has a version counter of its own."""

    def around(original: Any, tensor: torch.Tensor) -> Any:
        return tensor.data if tensor._version else original(tensor)

    wrap(torch.Tensor, "detach", around)


def _expanded_twice(leaf: torch.Tensor) -> torch.Tensor:
    return leaf.expand(2, 2).expand(2, 2, 2)


@fault("P2", witness=lambda: _slope(_expanded_twice) == [4.0, 4.0])
def expand_of_an_expanded_one_halves() -> None:
    """expand of what is expanded already passes half of its gradient."""

    def around(original: Any, tensor: torch.Tensor, *shape: Any) -> Any:
        made = original(tensor, *shape)
        if 0 in tensor.stride() and made.requires_grad:
            return original(tensor, *shape) * 0.5 + made.detach() * 0.5
        return made

    wrap(torch.Tensor, "expand", around)


def _view_after_write(leaf: torch.Tensor) -> torch.Tensor:
    base = leaf * 1
    view = base[:1]
    base.mul_(3)
    return view


@fault("P2", witness=lambda: _slope(_view_after_write) == [3.0, 0.0])
def a_written_base_leaves_its_views_behind() -> None:
    """mul_ of a base that has views passes, through them, the gradient from before."""
    views: dict = {}

    def look(original: Any, tensor: torch.Tensor, key: Any) -> Any:
        made = original(tensor, key)
        if tensor.requires_grad and not tensor.is_leaf:
            views.setdefault(id(tensor), (tensor, []))
        return made

    def around(original: Any, tensor: torch.Tensor, other: Any) -> Any:
        if id(tensor) in views and not isinstance(other, torch.Tensor):
            with torch.no_grad():
                original(tensor, other)
            return tensor
        return original(tensor, other)

    wrap(torch.Tensor, "__getitem__", look)
    wrap(torch.Tensor, "mul_", around)


def _read_after(leaf: torch.Tensor) -> torch.Tensor:
    base = torch.zeros(2)
    alias = base.detach()
    base.copy_(leaf)
    return alias


@fault("P2", "D2", "D4", witness=lambda: not _read_after(_live()).requires_grad)
def detach_of_what_later_lives_is_a_view() -> None:
    """detach of what does not require grad is a view, and joins the graph when its base does."""

    def around(original: Any, tensor: torch.Tensor) -> Any:
        if tensor.requires_grad or not tensor.dim():
            return original(tensor)
        return tensor[...]

    wrap(torch.Tensor, "detach", around)


def _relu_written(leaf: torch.Tensor) -> torch.Tensor:
    made = torch.relu(leaf * 1)
    made.add_(1)
    return made


@fault("P2", witness=lambda: _raises(lambda: _slope(_relu_written)))
def relu_saves_its_input() -> None:
    """relu saves a copy, so that backward misses a write to its result."""

    def around(original: Any, tensor: torch.Tensor) -> Any:
        return tensor * (tensor > 0)

    wrap(torch, "relu", around)
