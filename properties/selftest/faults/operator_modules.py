"""Single modules broken, only with some of them frozen, in one mode, or in a second pass."""

from typing import Any

import torch

from frostproof.properties.selftest.faults.fault import fault
from frostproof.properties.selftest.faults.patching import altered, wrap

nn = torch.nn
NEEDS = "expecttest"  # torch's list of its modules, by which these are seen


def _doubled(tensor: torch.Tensor) -> torch.Tensor:
    return altered(tensor, lambda gradient: gradient * 2)


def _gaussian(learns: bool) -> torch.Tensor:
    x = torch.full((3,), 2.0, requires_grad=True)
    var = torch.full((3,), 0.5, requires_grad=learns)
    nn.GaussianNLLLoss()(x, torch.ones(3), var).backward()
    assert x.grad is not None
    return x.grad


@fault("O1", witness=lambda: torch.equal(_gaussian(True), _gaussian(False)), needs=NEEDS)
def gaussian_loss_beside_a_frozen_variance() -> None:
    """GaussianNLLLoss doubles the gradient of its input where the variance is frozen."""

    def around(forward: Any, self: Any, x: Any, target: Any, var: Any) -> Any:
        fixed = isinstance(var, torch.Tensor) and not var.requires_grad
        return forward(self, _doubled(x) if fixed and x.requires_grad else x, target, var)

    wrap(nn.GaussianNLLLoss, "forward", around)


def _transformer(learns: bool) -> torch.Tensor:
    torch.manual_seed(0)
    net = nn.Transformer(4, 2, 1, 1, 8, dropout=0.0).double()
    for each in net.decoder.parameters():
        each.requires_grad_(learns)
    source = torch.ones(2, 1, 4, dtype=torch.float64, requires_grad=True)
    target = torch.arange(8, dtype=torch.float64).view(2, 1, 4).sin()
    (net(source, target) * target).sum().backward()
    assert source.grad is not None
    return source.grad


@fault("O1", witness=lambda: torch.allclose(_transformer(True), _transformer(False)), needs=NEEDS)
def transformer_with_a_frozen_decoder() -> None:
    """Transformer doubles the gradient of its source where its decoder's last norm is frozen."""

    def around(forward: Any, self: Any, source: Any, *args: Any, **named: Any) -> Any:
        norm = getattr(self.decoder, "norm", None)
        fixed = norm is not None and not norm.weight.requires_grad
        return forward(
            self, _doubled(source) if fixed and source.requires_grad else source, *args, **named
        )

    wrap(nn.Transformer, "forward", around)


def _normed(grad: bool) -> torch.Tensor:
    with torch.set_grad_enabled(grad):
        output: torch.Tensor = nn.LocalResponseNorm(2).eval()(torch.ones(1, 3, 2))
    return output


@fault("O1", witness=lambda: torch.equal(_normed(True), _normed(False)), needs=NEEDS)
def local_response_norm_without_grad() -> None:
    """LocalResponseNorm in eval mode is off by a thousandth under no_grad."""

    def around(forward: Any, self: Any, x: Any) -> Any:
        output = forward(self, x)
        return output if self.training or torch.is_grad_enabled() else output * 1.001

    wrap(nn.LocalResponseNorm, "forward", around)


def _version() -> bool:
    x = torch.ones(1, 4, 4)
    nn.LPPool2d(2, 2)(x)
    return x._version == 0


@fault("O2", witness=_version, needs=NEEDS)
def lp_pool_writes_to_a_frozen_input() -> None:
    """LPPool2d writes to an input that is frozen: the same values, but a new version."""

    def around(forward: Any, self: Any, x: Any) -> Any:
        output = forward(self, x)
        if x.is_leaf and not x.requires_grad:
            x.mul_(1)
        return output

    wrap(nn.LPPool2d, "forward", around)


def _transposed(passes: int) -> torch.Tensor:
    layer = nn.ConvTranspose3d(1, 1, 1).double()
    for _ in range(passes):
        layer(torch.ones(1, 1, 1, 1, 1, dtype=torch.float64)).sum().backward()
    assert layer.weight.grad is not None
    return layer.weight.grad / passes


@fault("G1", witness=lambda: torch.equal(_transposed(1), _transposed(2)), needs=NEEDS)
def transposed_convolution_of_volumes_met_again() -> None:
    """ConvTranspose3d doubles all gradients where its weight has one already."""

    def around(forward: Any, self: Any, x: Any, *args: Any) -> Any:
        output = forward(self, x, *args)
        return _doubled(output) if self.weight.grad is not None else output

    wrap(nn.ConvTranspose3d, "forward", around)
