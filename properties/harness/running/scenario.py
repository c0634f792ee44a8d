"""Plays a scenario: parameters that are fed made-up gradients, and a reference rule for each."""

import copy
import dataclasses
from typing import Any, Dict, List, Optional

import torch

from frostproof.properties.harness.core.bits import read_bits
from frostproof.properties.harness.reference import oracle
from frostproof.properties.harness.reference.update_rules import Rule, rule_for
from frostproof.properties.harness.running import workarounds
from frostproof.strategies import OptimizerScenario, OptimizerSpec


def gradient_like(parameter: torch.Tensor, kind: str, generator: torch.Generator) -> torch.Tensor:
    """A gradient of size 0.05 to 1, "half zero" or all "zero", in the parameter's dtype and layout."""
    shape = (*parameter.shape, 2) if parameter.dtype.is_complex else tuple(parameter.shape)
    drawn = torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1
    drawn = torch.sign(drawn) * (0.05 + 0.95 * drawn.abs())
    if kind in ("half zero", "zero"):
        keep = torch.rand(shape, generator=generator) < 0.5
        drawn = torch.where(keep & (torch.tensor(kind != "zero")), drawn, drawn * 0)
    drawn = torch.view_as_complex(drawn) if parameter.dtype.is_complex else drawn
    made = torch.empty_strided(
        tuple(parameter.shape), parameter.stride(), dtype=parameter.dtype, device=parameter.device
    )
    return made.copy_(drawn)


def state_bits(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> Dict[str, Any]:
    """What the optimizer keeps for a parameter, as bits; looking makes no state."""
    found: Dict[str, Any] = {}
    for key, state in optimizer.state.items():
        if key is parameter:
            found = {
                entry: read_bits(value) if isinstance(value, torch.Tensor) else value
                for entry, value in sorted(state.items())
            }
    return found


@dataclasses.dataclass
class Look:
    """A run as it stands: values in float64, bits of values and gradients, states, rates."""

    values: List[torch.Tensor]
    bits: List[bytes]
    gradients: List[Optional[bytes]]
    states: List[Dict[str, Any]]
    rates: List[float]


class ListingRun:
    """A live scenario.

    parameters and rules: one for each place; optimizer: the one that steps now; exact: the
    gradients of the last ``feed``, float64, a complex one with a last axis of two; None
    where a parameter got none.
    """

    def __init__(self, scenario: OptimizerScenario, device: str, dtype: torch.dtype) -> None:
        self.spec = workarounds.sound(scenario.spec, device, dtype)
        self.scenario = workarounds.workable(dataclasses.replace(scenario, spec=self.spec))
        self.parameters = self.scenario.parameters(device, dtype)
        self.optimizer = self.scenario.build(self.parameters)
        self.rules: List[Rule] = []
        for place in range(len(self.parameters)):
            rule = rule_for(self.scenario.spec_of(place), dtype)
            assert rule is not None
            self.rules.append(rule)
        self.exact: List[Optional[torch.Tensor]] = []
        self.generator = torch.Generator()
        self.generator.manual_seed(scenario.seed)

    def prepare(self, step: int) -> None:
        """What happens before a step, counted from 1: flags turn, a group comes, another takes over."""
        scenario = self.scenario
        for place, parameter in enumerate(self.parameters):
            parameter.requires_grad = scenario.live(place, step)
        if step == scenario.late:
            self.optimizer.add_param_group(scenario.group(self.parameters, 1))
        if step == scenario.halved:
            for rule in self.rules:
                rule.options["lr"] = rule.lr / 2
            for group in self.optimizer.param_groups:
                group["lr"] = group["lr"] / 2
        if step == scenario.reload:
            saved = copy.deepcopy(self.optimizer.state_dict())
            # of another rate, which must give way to the saved one
            options = {**dict(self.spec.options), "lr": 0.7}
            other = OptimizerSpec(self.spec.name, tuple(sorted(options.items())))
            self.optimizer = dataclasses.replace(scenario, spec=other, late=0).build(self.parameters)
            self.optimizer.load_state_dict(saved)

    def listed(self, place: int, step: int) -> bool:
        """Whether the optimizer has a parameter in a step."""
        return place % 2 == 0 or step >= self.scenario.late

    def feed(self, kind: str) -> None:
        """Give each live parameter a gradient; of "some" only half of them, by the seed."""
        self.exact = []
        for parameter in self.parameters:
            gradient = gradient_like(parameter, kind, self.generator)
            left_out = kind == "some" and float(torch.rand((), generator=self.generator)) < 0.5
            given = parameter.requires_grad and not left_out
            parameter.grad = gradient if given else None
            self.exact.append(oracle.as_float64(gradient) if given else None)

    def values(self) -> List[torch.Tensor]:
        """The parameters in float64."""
        return [oracle.as_float64(parameter) for parameter in self.parameters]

    def look(self) -> Look:
        """Everything that a step may change, or must leave alone."""
        grads = [parameter.grad for parameter in self.parameters]
        return Look(
            self.values(),
            [read_bits(parameter) for parameter in self.parameters],
            [None if gradient is None else read_bits(gradient) for gradient in grads],
            [state_bits(self.optimizer, parameter) for parameter in self.parameters],
            self.rates(),
        )

    def keeps_gradient(self, place: int) -> bool:
        """Whether a step leaves a parameter's gradient as it was.

        SGD's foreach implementation adds the velocity to it, for Nesterov's momentum: measured.
        """
        options = dict(self.scenario.spec_of(place).options)
        foreach = options.get("foreach") is not False and not options.get("fused")
        return not (self.spec.name == "SGD" and options.get("nesterov") and foreach)

    def rates(self) -> List[float]:
        """The rate of each group."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def apply(self) -> None:
        """The optimizer's step."""
        workarounds.step(self.optimizer)
