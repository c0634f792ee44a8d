"""LBFGS without a line search, written from its published recursion, and a bowl to run it in."""

from typing import Callable, List, Tuple

import torch

from frostproof.properties.harness.core.bits import read_bits
from frostproof.properties.harness.core.checks import check_same_bits
from frostproof.properties.harness.reference import oracle
from frostproof.strategies import OptimizerScenario, OptimizerSpec
from frostproof.strategies.optimizer_scenarios import PARAMETER_SHAPES


def lbfgs_steps(dtype: torch.dtype) -> int:
    """How many steps can be followed: differences of rounded gradients soon differ altogether."""
    return 3 if dtype is torch.float64 else 1


def lbfgs_tolerance(dtype: torch.dtype) -> float:
    """What rounding may do in that time, absolute and relative."""
    return 1e-9 if dtype is torch.float64 else 2e-3


class LBFGS:
    """One flat float64 vector; stops as torch documents: by iterations and evaluations.

    The tolerances on gradient and change are not modelled: a run is followed only until it
    comes ``near_the_bottom``, where they decide.
    """

    def __init__(self, rate: float, iterations: int, history: int) -> None:
        self.rate, self.iterations, self.history = rate, iterations, history
        self.pairs: List[Tuple[torch.Tensor, torch.Tensor]] = []  # (change, change of gradient)
        self.moved = self.previous = torch.zeros(0, dtype=torch.float64)
        self.count = 0
        self.scale = 1.0
        self.near_the_bottom = False

    def _direction(self, gradient: torch.Tensor) -> torch.Tensor:
        if self.count:
            turn = gradient - self.previous
            if float(turn @ self.moved) > 1e-10:
                self.pairs = [*self.pairs, (self.moved, turn)][-self.history :]
                self.scale = float(turn @ self.moved) / float(turn @ turn)
        direction = -gradient
        parts = []
        for moved, turn in reversed(self.pairs):
            part = float(moved @ direction) / float(turn @ moved)
            direction = direction - part * turn
            parts.append(part)
        direction = direction * self.scale
        for (moved, turn), part in zip(self.pairs, reversed(parts)):
            direction = direction + moved * (part - float(turn @ direction) / float(turn @ moved))
        return direction

    def step(self, point: torch.Tensor, slope: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """The point after one step: several iterations, of at most 5/4 as many evaluations."""
        evaluations = 1
        for iteration in range(1, self.iterations + 1):
            gradient = slope(point)
            self.near_the_bottom |= float(gradient.abs().max()) < 1e-3
            direction = self._direction(gradient)
            first = self.rate * min(1.0, 1 / float(gradient.abs().sum()))
            self.moved = direction * (self.rate if self.count else first)
            self.previous = gradient
            self.count += 1
            point = point + self.moved
            evaluations += iteration < self.iterations
            if evaluations >= self.iterations * 5 // 4:
                break
        return point


class Bowl:
    """Parameters of a loss that is a sum of c * (x^2 / 2 + x^4 / 4), one of them frozen perhaps."""

    def __init__(self, count: int, seed: int, frozen: int, device: str, dtype: torch.dtype) -> None:
        flags = tuple(place == frozen for place in range(count + 1))
        self.scenario = OptimizerScenario(
            OptimizerSpec("LBFGS"), PARAMETER_SHAPES[: count + 1], flags, seed=seed
        )
        self.parameters = self.scenario.parameters(device, dtype)
        self.bits = [read_bits(parameter) for parameter in self.parameters]
        generator = torch.Generator()
        generator.manual_seed(seed)
        size = sum(parameter.numel() for parameter in self.parameters)
        steep = 0.5 + torch.rand(size, generator=generator, dtype=torch.float64)
        live = torch.cat([torch.full((p.numel(),), float(p.requires_grad)) for p in self.parameters])
        self.steep = (steep * 16).round() / 16 * live  # exact in every dtype

    def point(self) -> torch.Tensor:
        """All values, flat, float64."""
        return torch.cat([oracle.as_float64(parameter).flatten() for parameter in self.parameters])

    def slope(self, point: torch.Tensor) -> torch.Tensor:
        """The gradient at a point; zero where frozen."""
        return self.steep * (point + point**3)

    def loss(self) -> float:
        """The loss here, of the live parameters."""
        point = self.point()
        return float((self.steep * (point**2 / 2 + point**4 / 4)).sum())

    def closure(self) -> float:
        """Sets the gradients of the live parameters; the loss."""
        start = 0
        slopes = self.slope(self.point())
        for parameter in self.parameters:
            part = slopes[start : start + parameter.numel()].view(parameter.shape)
            start += parameter.numel()
            parameter.grad = None
            if parameter.requires_grad:
                parameter.grad = part.to(device=parameter.device, dtype=parameter.dtype)
        return self.loss()

    def check_frozen(self) -> None:
        """The frozen parameter has its bits."""
        for parameter, bits in zip(self.parameters, self.bits):
            if not parameter.requires_grad:
                check_same_bits(parameter, bits, "a frozen parameter under LBFGS")
