"""Steps that go by the wrong memory: neighbours, gradients of other strides, versions."""

from typing import Any, List

import torch

from frostproof.properties.selftest.faults.fault import fault
from frostproof.properties.selftest.faults.patching import (
    after_step,
    around_step,
    around_update,
    live_of,
)


def _slice(foreach: bool = False, name: str = "SGD", gradient: str = "rows") -> List[float]:
    """All elements of a 2 x 3 storage after a step over its first two columns."""
    whole = torch.ones(2, 3)
    taken = torch.nn.Parameter(whole[:, :2])
    options = {"foreach": foreach} if foreach else {}
    optimizer = getattr(torch.optim, name)([taken], lr=0.5, **options)
    made = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    taken.grad = made if gradient == "rows" else made.t().contiguous().t()
    optimizer.step()
    return [round(value, 3) for value in whole.flatten().tolist()]


RIGHT = [0.5, 0.0, 1.0, -0.5, -1.0, 1.0]


@fault("M1", "M2", "F1", witness=lambda: _slice() == RIGHT)
def sgd_writes_the_next_column() -> None:
    """A step of SGD over a slice of columns writes the first element beside it."""

    def action(self: Any, group: Any) -> None:
        for each in live_of(group):
            if each.dim() > 1 and each.numel() and each.stride(0) > each.shape[1] * each.stride(1) > 0:
                place = each.storage_offset() + each.shape[1] * each.stride(1)
                each.data.as_strided((1,), (1,), place).add_(1e-3)

    after_step("SGD", action)


@fault("M1", "F3", witness=lambda: _slice(gradient="columns") == RIGHT)
def sgd_reads_gradients_in_their_memory_order() -> None:
    """SGD takes a gradient's elements in the order of its memory, whatever the parameter's strides."""

    def around(step: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        kept = []
        for group in self.param_groups:
            for each in live_of(group):
                gradient: Any = each.grad
                if gradient.layout is torch.strided and not gradient.is_contiguous():
                    if gradient.dim() == 2 and gradient.stride() == (1, gradient.shape[0]):
                        kept.append((each, gradient))
                        each.grad = gradient.t().contiguous().view(gradient.shape)
        try:
            return step(self, *args, **kwargs)
        finally:
            for each, gradient in kept:
                each.grad = gradient

    around_step("SGD", around)


def _refused() -> bool:
    whole = torch.ones(1, 2)
    made = torch.nn.Parameter(whole.expand(3, 2))
    made.grad = torch.ones(3, 2)
    try:
        torch.optim.SGD([made], lr=0.5).step()
    except RuntimeError:
        pass
    return whole.tolist() == [[1.0, 1.0]]


@fault("M1", witness=_refused)
def sgd_moves_what_it_refuses() -> None:
    """SGD refuses an expanded parameter after it has moved its memory."""

    def around(step: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            for group in self.param_groups:
                for each in live_of(group):
                    if each.numel() and 0 in each.stride() and max(each.shape) > 1:
                        each.data.as_strided((1,), (1,), each.storage_offset()).mul_(0.5)
        return step(self, *args, **kwargs)

    around_step("SGD", around)


def _bumps(foreach: bool) -> bool:
    made = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([made], lr=0.5, foreach=foreach)
    before = made._version
    made.grad = torch.ones(2)
    optimizer.step()
    return made._version > before


@fault("M3", "D6", witness=lambda: _bumps(True), since=(2, 0))
def foreach_adam_keeps_the_version() -> None:
    """The foreach implementation of Adam moves parameters without a bump of their version."""

    def around(update: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
        return update([each.data for each in params], *args, **kwargs)

    around_update("adam", "_multi_tensor_adam", around)
