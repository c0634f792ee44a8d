"""One call of an operator: its function, its arguments, and which of their tensors may require grad."""

from dataclasses import dataclass, field, replace
from typing import Any, Callable, Dict, List, Sequence, Tuple

import torch


@dataclass(frozen=True)
class Place:
    """Where a tensor stands in the arguments: the number of a differentiable one, or of another."""

    number: int
    differentiable: bool


def tensors_in(value: Any) -> List[torch.Tensor]:
    """Every tensor in tuples, lists and mappings, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        return [tensor for one in value for tensor in tensors_in(one)]
    return []


def replaced(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same structure of tuples, lists and dicts with ``change(leaf)`` for each leaf of it."""
    if isinstance(value, dict):
        return {key: replaced(one, change) for key, one in value.items()}
    if isinstance(value, (tuple, list)):
        made = [replaced(one, change) for one in value]
        if isinstance(value, tuple):
            return type(value)(*made) if hasattr(value, "_fields") else tuple(made)
        return made
    return change(value)


def twin(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of its own memory with the same values, and strides where they are dense."""
    return tensor.detach().clone(memory_format=torch.preserve_format)


def strided(tensor: torch.Tensor) -> torch.Tensor:
    """The same values with a gap after each element, so that it is contiguous nowhere."""
    wide = torch.zeros((*tensor.shape, 2), dtype=tensor.dtype, device=tensor.device)
    wide[..., 0].copy_(tensor.detach())
    return wide[..., 0]


@dataclass
class Call:
    """A function of some differentiable tensors, given as values, and of all else.

    function: called as ``function(*arguments, **named)``, in which a ``Place`` stands for each
    tensor; values: of the differentiable ones, detached; others: all other tensors;
    code: the call in plain torch, where the values are x0, x1, ...; "" where there is none;
    source, sample: where an ``OperatorCase`` finds it again ("" where none does).
    """

    function: Callable[..., Any]
    arguments: Tuple[Any, ...]
    named: Dict[str, Any]
    values: List[torch.Tensor]
    others: List[torch.Tensor]
    code: str = ""
    out: Any = None  # the function, where it takes ``out=``
    inplace: Any = None  # the in-place variant
    forward_mode: bool = True
    twice: bool = True  # differentiable twice
    outputs: Callable[[Any], Any] = field(default=lambda output: output)
    source: str = ""
    sample: int = 0

    def given(self, leaves: Sequence[torch.Tensor], others: Sequence[torch.Tensor] = ()) -> Any:
        """(arguments, named) with these in their places; ``others``: copies where none are given."""
        rest = others or [one.clone() for one in self.others]

        def put(value: Any) -> Any:
            if isinstance(value, Place):
                return leaves[value.number] if value.differentiable else rest[value.number]
            return value

        return replaced(self.arguments, put), replaced(self.named, put)

    def __call__(self, leaves: Sequence[torch.Tensor], others: Sequence[torch.Tensor] = ()) -> Any:
        """The output."""
        arguments, named = self.given(leaves, others)
        return self.outputs(self.function(*arguments, **named))

    def leaves(self, frozen: Sequence[int] = ()) -> List[torch.Tensor]:
        """New leaves of the same values; those whose numbers are in ``frozen`` require no grad."""
        made = []
        for number, value in enumerate(self.values):
            dense = value.is_contiguous() or not value.numel()
            leaf = twin(value) if dense else like(value)
            made.append(leaf.requires_grad_(number not in frozen))
        return made


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """A complex tensor that is no lazy conjugate (which torch 1.8 does not have)."""
    return tensor.resolve_conj() if hasattr(tensor, "resolve_conj") else tensor


def whole(call: Call, low: int = -2, high: int = 2) -> Call:
    """The call with small whole numbers for values, so that zeros and ties come up."""
    values = []
    for value in call.values:
        if value.is_complex():
            parts = torch.view_as_real(plain(value)).round().clamp(low, high)
            values.append(torch.view_as_complex(parts.contiguous()))
        else:
            values.append(value.round().clamp(low, high))
    return replace(call, values=values)


def like(value: torch.Tensor) -> torch.Tensor:
    """A copy in memory of its own with the same strides; dense where elements overlap."""
    if any(step == 0 and size > 1 for step, size in zip(value.stride(), value.shape)):
        return value.detach().clone(memory_format=torch.contiguous_format)
    reach = 1 + sum((size - 1) * step for size, step in zip(value.shape, value.stride()))
    memory = torch.zeros(reach, dtype=value.dtype, device=value.device)
    made = memory.as_strided(value.shape, value.stride())
    made.copy_(value)
    return made.detach()


def call_of(function: Any, arguments: Tuple[Any, ...], named: Dict[str, Any]) -> Call:
    """The call of a function with these arguments: differentiable is what requires grad."""
    values: List[torch.Tensor] = []
    others: List[torch.Tensor] = []
    places: Dict[int, Place] = {}
    kept: List[Any] = []  # an id is only good while its object lives

    def take(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) not in places:
            kept.append(value)
            among = values if value.requires_grad else others
            places[id(value)] = Place(len(among), value.requires_grad)
            among.append(value.detach())
        return places[id(value)]

    return Call(function, replaced(arguments, take), replaced(named, take), values, others)
