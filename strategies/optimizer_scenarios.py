"""Plain parameters in an optimizer, without a net: to be fed made-up gradients."""

from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import torch
from hypothesis import strategies as st

from frostproof.strategies.digits import Digits, read_as, reader_of
from frostproof.strategies.optimizers import (
    ABSENT,
    IMPLEMENTATIONS,
    OPTIMIZER_DIGITS,
    OptimizerSpec,
    constrained,
    optimizers,
    read_options,
)

# Matrices first: some optimizers take no others. Large ones reach faults that go by size.
PARAMETER_SHAPES: Tuple[Tuple[int, ...], ...] = (
    *((1, 1), (3, 2), (2, 5), (300, 2), (1, 210)),
    *((), (1,), (7,), (5000,), (48,), (3, 2, 4), (2, 3, 3, 2), (100,)),
)
MATRICES = 5  # so many of PARAMETER_SHAPES
GRADIENTS = ("ordinary", "ordinary", "half zero", "zero", "some")
SCENARIO_DIGITS = 32
OF_THE_OPTIMIZER = frozenset(("initial_accumulator_value",))  # no option of a group


@dataclass(frozen=True)
class OptimizerScenario:
    """An optimizer of two groups over plain parameters: the even ones, then the odd ones.

    shapes: of the parameters; frozen: a flag for each, at the start; second: options of the
    second group; steps: the kind of each step's gradients; seed: of the values; turns: for
    each parameter the step before which it is unfrozen, or frozen if it was not (0: never);
    late: the step before which the second group is added (0: from the start); reload: the
    step before which another optimizer takes over by load_state_dict (0: never); halved: the
    step before which every rate is halved (0: never); turned: matrices lie transposed in
    memory; tensor_rate: the rates are 0-dim float64 tensors.
    """

    spec: OptimizerSpec
    shapes: Tuple[Tuple[int, ...], ...] = ((1, 1), (3, 2))
    frozen: Tuple[bool, ...] = (False, False)
    second: Tuple[Tuple[str, Any], ...] = ()
    steps: Tuple[str, ...] = ("ordinary",)
    seed: int = 0
    turns: Tuple[int, ...] = ()
    late: int = 0
    reload: int = 0
    halved: int = 0
    turned: bool = False
    tensor_rate: bool = False

    def parameters(
        self, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> List[torch.nn.Parameter]:
        """Fresh parameters with values in [-1, 1), drawn on the CPU from ``seed`` alone."""
        generator = torch.Generator()
        generator.manual_seed(self.seed)
        found = []
        for shape, frozen in zip(self.shapes, self.frozen):
            parts = (*shape, 2) if dtype.is_complex else shape
            values = torch.rand(parts, generator=generator, dtype=torch.float64) * 2 - 1
            values = torch.view_as_complex(values) if dtype.is_complex else values
            values = values.to(device=device, dtype=dtype)
            if self.turned and len(shape) == 2:
                values = values.t().contiguous().t()
            parameter = torch.nn.Parameter(values)
            parameter.requires_grad = not frozen
            found.append(parameter)
        return found

    def live(self, place: int, step: int) -> bool:
        """Whether a parameter requires grad in a step, counted from 1."""
        turn = self.turns[place] if self.turns else 0
        return self.frozen[place] == (0 < turn <= step)

    def spec_of(self, place: int) -> OptimizerSpec:
        """The options that act on a parameter: those of its group."""
        if place % 2 == 0:
            return self.spec
        options = {**dict(self.spec.options), **dict(self.second)}
        return OptimizerSpec(self.spec.name, tuple(sorted(options.items())))

    def _rated(self, options: Dict[str, Any]) -> Dict[str, Any]:
        if self.tensor_rate and "lr" in options:
            return {**options, "lr": torch.tensor(options["lr"], dtype=torch.float64)}
        return options

    def group(self, parameters: Sequence[torch.nn.Parameter], number: int) -> Dict[str, Any]:
        """The first (0) or second (1) group of ``parameters()``."""
        more = self._rated(dict(self.second)) if number else {}
        return {"params": list(parameters[number::2]), **more}

    def build(self, parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """The live optimizer over ``parameters()``: of both groups, or of the first if one is late."""
        numbers = (0,) if self.late else (0, 1)
        options = tuple(self._rated(dict(self.spec.options)).items())
        spec = OptimizerSpec(self.spec.name, options)
        return spec.build([self.group(parameters, number) for number in numbers])


def options_beside(spec: OptimizerSpec, other: Mapping[str, Any]) -> Dict[str, Any]:
    """What a group may override of an optimizer's options: ``other``, made valid beside them."""
    ways = {option for way in IMPLEMENTATIONS.values() for option in way}
    own = {option: value for option, value in spec.options if option not in ways}
    given = {option: value for option, value in other.items() if value is not ABSENT}
    wanted = constrained(spec.name, {**own, **given})
    left_out = ways | OF_THE_OPTIMIZER
    return {option: value for option, value in wanted.items() if option not in left_out}


def _second(digits: Digits, spec: OptimizerSpec, dtype: torch.dtype) -> Dict[str, Any]:
    """Options of the second group: none, others of rate and decay, or another draw of all."""
    kind, rate, decay = digits.below(4), digits.one_of((0.05, 0.2, 0.003)), digits.below(2)
    other = read_options(digits, spec.name, dtype)
    if kind == 0:
        return {}
    if kind == 3:
        return options_beside(spec, other)
    more = {"weight_decay": 0.3} if decay and "weight_decay" in dict(spec.options) else {}
    return {"lr": rate, **more}


def optimizer_scenarios(
    *,
    names: Optional[Sequence[str]] = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> st.SearchStrategy[OptimizerScenario]:
    """Scenarios of optimizers that take several groups (not LBFGS).

    Shrink towards two small live parameters and one step of plain SGD.
    """
    optimizer = reader_of(optimizers(names=names, device=device, dtype=dtype))
    assert optimizer is not None

    def read(digits: Digits) -> OptimizerScenario:
        spec = optimizer.read(digits)
        shapes = PARAMETER_SHAPES[:MATRICES] if spec.matrices_only else PARAMETER_SHAPES
        count, steps = 2 + digits.below(3), 1 + digits.below(7)
        second = _second(digits, spec, dtype)
        seed = digits.bits(2)
        late, reload = digits.below(3), digits.below(3)
        late = digits.below(steps) + 1 if late == 2 and not spec.traits.eager_state else 0
        reload = digits.below(steps) + 1 if reload == 2 else 0
        if dtype is not torch.float32 and spec.traits.casts_state:
            reload = 0
        turned = digits.below(4) == 3
        return OptimizerScenario(
            spec,
            tuple(digits.one_of(shapes) for _ in range(count)),
            tuple(digits.below(4) == 3 for _ in range(count)),
            tuple(sorted(second.items())),
            tuple(digits.one_of(GRADIENTS) for _ in range(steps)),
            seed,
            tuple(max(0, digits.below(2 * steps) + 1 - steps) for _ in range(count)),
            late,
            reload if reload > late else 0,
            turned=turned,
        )

    return read_as(optimizer.size + SCENARIO_DIGITS + OPTIMIZER_DIGITS, read)
