"""Turns a described run into a live one: net, frozen parameters, optimizer, data, steps."""

from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional

import torch

from frostproof.properties.harness.core.bits import read_bits
from frostproof.properties.harness.core.checks import check, snapshot
from frostproof.properties.harness.running import workarounds
from frostproof.strategies import TrainingRun
from frostproof.strategies.capabilities import require


def freeze(parameters: Mapping[str, torch.Tensor], names: Iterable[str], how: str) -> None:
    """Set requires_grad to False on the named parameters, as users do."""
    for name in names:
        if how == "method":
            parameters[name].requires_grad_(False)
        else:
            parameters[name].requires_grad = False


class Trainer:
    """A live run on one device and dtype.

    named: parameters by name; before: their bits at the start, or only of those that must
    stay where ``stays`` is True; optimizer: built after freezing, as the description lists
    and groups the parameters.
    """

    def __init__(
        self,
        run: TrainingRun,
        device: str,
        dtype: torch.dtype,
        *,
        listed: Optional[str] = None,
        order: Callable[[List[str]], List[str]] = list,
        options: Optional[Dict[str, Any]] = None,
        stays: bool = False,
    ) -> None:
        self.run = run
        self.network = run.network.build(device, dtype)
        self.named: Dict[str, torch.nn.Parameter] = dict(self.network.named_parameters())
        freeze(self.named, run.frozen, run.freezing)
        moves = run.gets_gradient() if stays else frozenset()
        self.before: Dict[str, bytes] = snapshot(
            {name: parameter for name, parameter in self.named.items() if name not in moves}
        )
        self.inputs, self.targets = run.data(device, dtype)
        self.listed = order(self._listed(run.listed if listed is None else listed))
        spec = run.optimizer
        if options:
            spec = type(spec)(spec.name, tuple(sorted({**dict(spec.options), **options}.items())))
        self.spec = workarounds.sound(spec, device, dtype)
        self.optimizer = self.build_optimizer()

    def build_optimizer(self) -> torch.optim.Optimizer:
        """A fresh optimizer over the listed parameters, in the run's groups."""
        parameters = [self.named[name] for name in self.listed]
        split = len(parameters) // 2
        if self.run.groups > 1 and split:
            return self.spec.build([{"params": parameters[:split]}, {"params": parameters[split:]}])
        return self.spec.build(parameters)

    def _listed(self, listed: str) -> List[str]:
        names = list(self.run.network.parameter_names())
        if self.run.optimizer.matrices_only:
            names = [name for name in names if self.named[name].dim() == 2]
        if listed == "trainable":
            frozen = frozenset(self.run.frozen)
            # an optimizer refuses an empty list: where all are frozen, they are listed
            names = [name for name in names if name not in frozen] or names
        return names

    def output(self) -> torch.Tensor:
        """The net's output with the run's cuts: (batch, last width)."""
        cuts = self.run.cuts
        result: torch.Tensor = self.network(self.inputs, cuts=cuts.positions, cut_by=cuts.by)
        return result

    def loss(self) -> torch.Tensor:
        """Mean squared error against the targets, 0-dim."""
        require("mse_loss", self.targets.device, self.targets.dtype)
        return torch.nn.functional.mse_loss(self.output(), self.targets)

    def clear(self) -> None:
        """Clear gradients as the description says."""
        if self.run.clearing != "keep":
            self.optimizer.zero_grad(set_to_none=self.run.clearing == "none")

    def backward(self) -> None:
        """Forward and backward; nothing where no parameter can get a gradient."""
        self._differentiate(self.loss())

    def _differentiate(self, loss: torch.Tensor) -> None:
        __tracebackhide__ = True
        live = self.run.gets_gradient()
        check(
            loss.requires_grad == bool(live or self.inputs.requires_grad),
            f"the loss requires grad: {loss.requires_grad}; live and reached are {sorted(live)}",
        )
        if loss.requires_grad:
            loss.backward()

    def closure(self) -> torch.Tensor:
        """What LBFGS calls: clear, forward, backward, the loss."""
        self.clear()
        loss = self.loss()
        self._differentiate(loss)
        return loss

    def step(self) -> None:
        """One training step: clear, forward, backward, optimizer step."""
        if self.spec.needs_closure:
            self.optimizer.step(self.closure)  # type: ignore[arg-type]
        else:
            self.clear()
            self.backward()
            self.apply()

    def apply(self) -> None:
        """The optimizer's step."""
        workarounds.step(self.optimizer)

    def train(self) -> "Trainer":
        """All the steps of the run; returns itself."""
        for _ in range(self.run.steps):
            self.step()
        return self

    def bits(self) -> Dict[str, bytes]:
        """The parameters' bits now."""
        return snapshot(self.named)

    def gradient_bits(self) -> Dict[str, Optional[bytes]]:
        """The gradients' bits now; None where there is none."""
        return {
            name: None if parameter.grad is None else read_bits(parameter.grad)
            for name, parameter in self.named.items()
        }
