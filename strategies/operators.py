"""What to try of an operator: (operator, sample, what is frozen, how its values are changed)."""

from dataclasses import dataclass
from functools import cache
from typing import List, Optional, Tuple

import torch
from hypothesis import strategies as st

from frostproof.strategies import operator_database, operator_table
from frostproof.strategies.digits import Digits, read_as
from frostproof.strategies.operator_calls import Call, whole

TRANSFORMS = ("plain", "whole")
SOURCES = ("table", "database")


@dataclass(frozen=True)
class OperatorCase:
    """One call of an operator, as plain values.

    operator: its name in its source; sample: the number of the database's sample, or the seed of
    the table's values; frozen: numbers of the differentiable inputs; transform: "plain", or
    "whole" for small whole numbers with zeros and ties; source: "table" or "database".
    """

    operator: str
    sample: int = 0
    frozen: Tuple[int, ...] = ()
    transform: str = "plain"
    source: str = "table"

    def build(self, device: str, dtype: torch.dtype) -> Call:
        """The call, with all differentiable inputs live."""
        if self.source == "table":
            return operator_table.call(self.operator, device, dtype, self.transform, self.sample)
        call = operator_database.calls(self.operator, device, dtype)[self.sample]
        return whole(call) if self.transform == "whole" else call

    def code(self, device: str = "cpu", dtype: torch.dtype = torch.float32) -> List[str]:
        """A program in plain torch up to ``output``."""
        call = self.build(device, dtype)
        lines = ["import torch", "import torch.nn.functional as F"]
        for number, value in enumerate(call.values):
            grad = "" if number in self.frozen else ", requires_grad=True"
            lines.append(f"x{number} = torch.tensor({value.tolist()}, dtype={dtype}{grad})")
        for number, value in enumerate(call.others):
            lines.append(f"y{number} = torch.tensor({value.tolist()}, dtype={value.dtype})")
        return [*lines, f"output = {call.code or '...  # of the operator database, without a path'}"]


@cache
def operators(
    *, device: str = "cpu", dtype: torch.dtype = torch.float32, source: str = "table"
) -> st.SearchStrategy[OperatorCase]:
    """Cases of the operators that torch runs in a dtype on a device, with masks and transforms.

    source: "table", the common operators; "database", all that torch lists, with up to 16 samples
    each (raises LookupError where this torch has no database). Shrinks towards the first operator,
    its first sample, nothing frozen, the values as they are.
    """
    if source == "database" and operator_database.problem():
        raise LookupError(operator_database.problem())
    names = names_of(source, device, dtype)

    def read(digits: Digits) -> OperatorCase:
        name = names[digits.bits(2) % len(names)]
        sample, bits = digits.below(16), digits.bits(1)
        transform = digits.one_of(TRANSFORMS)
        if source == "table":
            count = len(operator_table.OPERATORS[name].shapes)
        else:
            calls = operator_database.calls(name, device, dtype)
            sample %= max(1, len(calls))
            count = len(calls[sample].values) if calls else 0
        frozen = tuple(number for number in range(count) if bits >> number & 1)
        return OperatorCase(name, sample, frozen if len(frozen) < count else (), transform, source)

    return read_as(5, read)


def names_of(source: str, device: str, dtype: torch.dtype) -> Tuple[str, ...]:
    """The operators of a source that run in a dtype on a device."""
    if source == "table":
        return operator_table.offered(device, dtype)[0]
    return tuple(operator_database.operators(device, dtype))


def missing(device: str, dtype: torch.dtype) -> Optional[str]:
    """What of the table this torch does not offer, in one sentence; None where it has all."""
    absent = operator_table.offered(device, dtype)[1]
    return (
        f"{len(absent)} of the table are not offered: {', '.join(sorted(absent))}" if absent else None
    )
