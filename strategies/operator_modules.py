"""The modules that torch itself lists for its tests, as calls of their parameters and inputs.

Like the database of operators: torch's own, internal, without promises, and read at call time.
"""

import copy
from dataclasses import dataclass
from functools import cache
from typing import Any, Dict, List, Sequence, Tuple

import torch

from frostproof.strategies.operator_calls import Call, Place, call_of, replaced, tensors_in
from frostproof.strategies.operator_database import loaded, quiet

LARGEST = 60_000  # elements of all parameters and inputs of a sample


@dataclass
class ModuleCall(Call):
    """A call whose first values are the parameters of a module, and stay parameters.

    parameters: how many of the values are; buffers: their values before the call; training: the
    mode. Every call runs a new copy of the module; its outputs are the module's, then its buffers.
    """

    parameters: int = 0
    buffers: Tuple[torch.Tensor, ...] = ()
    training: bool = True

    def leaves(self, frozen: Sequence[int] = ()) -> List[torch.Tensor]:
        """New leaves of the same values, parameters first; those in ``frozen`` require no grad."""
        made = super().leaves(frozen)
        held: List[torch.Tensor] = [
            torch.nn.Parameter(leaf.detach(), number not in frozen)
            for number, leaf in enumerate(made[: self.parameters])
        ]
        return held + made[self.parameters :]


def _read() -> Dict[str, Any]:
    from torch.testing._internal.common_modules import module_db

    found = {str(info.name): info for info in module_db}
    next(iter(found.values())).supported_dtypes("cpu")
    return found


@cache
def _load() -> Tuple[Dict[str, Any], str]:
    return loaded("module", _read)


def problem() -> str:
    """Why there is no database here, in one sentence; "" where there is one."""
    return _load()[1]


def modules(device: str, dtype: torch.dtype) -> List[str]:
    """The names of those that torch lists for a dtype; sorted, the same in every process."""
    kind = torch.device(device).type
    return sorted(name for name, info in _load()[0].items() if dtype in info.supported_dtypes(kind))


def calls(
    name: str, device: str, dtype: torch.dtype, training: bool, most: int = 10**9, seed: int = 0
) -> List[ModuleCall]:
    """The samples of a module as calls, spread evenly from one by seed where there are too many.

    Left out: samples without a call, what has nothing to train, and what is large.
    """
    info = _load()[0][name]
    with quiet():
        samples = info.module_inputs_func(
            info, device=device, dtype=dtype, requires_grad=True, training=training
        )
        samples = [one for one in samples if one.forward_input is not None]
        if len(samples) > most:
            chosen = [(seed + place * len(samples) // most) % len(samples) for place in range(most)]
            samples = [samples[place] for place in chosen]
        made = [_call(info, sample, device, dtype, training) for sample in samples]
    return [one for one in made if one.values and _size(one) <= LARGEST]


def _size(call: Call) -> int:
    return sum(one.numel() for one in [*call.values, *call.others])


def _call(info: Any, sample: Any, device: str, dtype: torch.dtype, training: bool) -> ModuleCall:
    constructor, forward = sample.constructor_input, sample.forward_input
    template = info.module_cls(*constructor.args, **constructor.kwargs)
    template.to(device, dtype).train(training)
    if info.is_lazy:  # the first call makes its parameters
        template(*copied(forward.args), **copied(forward.kwargs))
    places = [name for name, _ in template.named_parameters()]
    live = [one.requires_grad_() for one in template.parameters()]

    def run(parameters: Sequence[torch.Tensor], *arguments: Any, **named: Any) -> Any:
        module = copy.deepcopy(template)
        for place, parameter in zip(places, parameters):
            path, _, name = place.rpartition(".")
            setattr(module.get_submodule(path), name, parameter)
        output = module(*arguments, **named)
        return [*tensors_in(output), *(buffer for _, buffer in module.named_buffers())]

    plain = call_of(run, (tuple(live), *forward.args), dict(forward.kwargs))
    return ModuleCall(
        plain.function,
        plain.arguments,
        plain.named,
        plain.values,
        plain.others,
        written(info, constructor, plain, training),
        parameters=len(places),
        buffers=tuple(buffer.detach().clone() for buffer in template.buffers()),
        training=training,
    )


def copied(value: Any) -> Any:
    """The same structure with a detached copy of each tensor."""
    return replaced(value, lambda one: one.detach().clone() if isinstance(one, torch.Tensor) else one)


def written(info: Any, constructor: Any, call: Call, training: bool) -> str:
    """The call as code, with x0, x1, ... for the values, parameters first."""

    class Raw(str):
        def __repr__(self) -> str:
            return str(self)

    def name(value: Any) -> Any:
        if isinstance(value, Place):
            return Raw(f"{'x' if value.differentiable else 'y'}{value.number}")
        return value

    def short(value: Any) -> str:
        inner = isinstance(value, torch.nn.Module)
        return f"torch.nn.{type(value).__name__}(...)" if inner else repr(value)

    made = [short(one) for one in constructor.args]
    made += [f"{key}={short(value)}" for key, value in constructor.kwargs.items()]
    given = [repr(replaced(one, name)) for one in call.arguments[1:]]
    given += [f"{key}={replaced(one, name)!r}" for key, one in call.named.items()]
    mode = "" if training else ".eval()"
    return f"torch.{info.name}({', '.join(made)}){mode}({', '.join(given)})"
