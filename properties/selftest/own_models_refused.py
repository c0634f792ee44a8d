"""Models of a user that are refused in a sentence."""

from typing import Any, Callable

import torch
from torch import nn

from frostproof.properties.selftest.own_models import TwoLayers, refused, rows

Factory = Callable[..., Any]


@refused("must return (module, inputs)")
def only_a_module() -> Any:
    return TwoLayers()


@refused("must be an nn.Module")
def a_function_for_a_module() -> Any:
    return (lambda x: x), rows()


@refused("no parameters that could train")
def without_parameters() -> Any:
    return nn.ReLU(), rows()


@refused("lazy parameters")
def lazy_layer() -> Any:
    return nn.LazyLinear(3), rows()


@refused("forward pass or loss raised")
def wrong_width() -> Any:
    return TwoLayers(), rows(width=3)


@refused("does not require grad")
def loss_without_grad() -> Any:
    return TwoLayers(), rows(), lambda output: output.detach().sum()


@refused("must be a scalar")
def loss_that_is_no_scalar() -> Any:
    return TwoLayers(), rows(), lambda output: output


@refused("not deterministic")
def not_deterministic() -> Any:
    class Net(TwoLayers):
        calls = 0

        def forward(self, inputs: torch.Tensor) -> Any:
            Net.calls += 1
            return super().forward(inputs) * Net.calls

    return Net(), rows()


@refused("holds no floating tensor")
def integer_output() -> Any:
    class Net(TwoLayers):
        def forward(self, inputs: torch.Tensor) -> Any:
            return super().forward(inputs).argmax(1)

    return Net(), rows()


@refused("raised ValueError: no weights here")
def factory_that_raises() -> Any:
    raise ValueError("no weights here")


@refused("give the others defaults")
def factory_with_arguments(size: int) -> Any:
    return TwoLayers(), rows(size)


@refused("meta device")
def on_the_meta_device() -> Any:
    return nn.Linear(4, 4, device="meta"), rows()


@refused("loss depends on none of the parameters")
def parameters_that_are_never_used() -> Any:
    class Net(TwoLayers):
        def forward(self, inputs: torch.Tensor) -> Any:
            return inputs.requires_grad_(True) * 2

    return Net(), rows()


@refused("must return (module, inputs) or (module, inputs, loss), but returned NoneType")
def factory_that_returns_nothing() -> Any:
    TwoLayers()


@refused("returned a tuple of 4")
def factory_that_returns_too_much() -> Any:
    return TwoLayers(), rows(), rows(), rows()


@refused("must be a function loss(output)")
def loss_that_wants_targets() -> Any:
    return TwoLayers(), rows(), nn.MSELoss()


@refused("the loss is complex")
def loss_that_is_complex() -> Any:
    return TwoLayers(), rows(), lambda output: output.sum() * torch.tensor(1j)


@refused("backward raised RuntimeError")
def backward_that_fails() -> Any:
    class Net(TwoLayers):
        def forward(self, inputs: torch.Tensor) -> Any:
            output = super().forward(inputs).exp()
            return output.mul_(2) * output

    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, inputs: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return inputs * 2

        @staticmethod
        def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            raise RuntimeError("no gradient here")

    return Net(), rows(), lambda output: Broken.apply(output.sum())


@refused("all 1 of them are integer")
def integer_parameters_only() -> Any:
    net = nn.Module()
    net.register_parameter("codes", nn.Parameter(torch.arange(3), requires_grad=False))
    return net, rows()


@refused("raised SystemExit")
def factory_that_exits() -> Any:
    raise SystemExit(3)
