"""One call of an operator on trial: its gradients by every route, each compared with the first."""

import itertools
from typing import Iterator, List, Optional, Sequence, Tuple

import torch

from frostproof.properties.harness.core.bits import read_bits
from frostproof.properties.harness.machine import accelerators
from frostproof.properties.harness.operators.comparison import (
    ROUNDED,
    SAME,
    difference,
)
from frostproof.strategies.operator_calls import Call, tensors_in
from frostproof.strategies.operator_database import quiet

Gradients = List[Optional[torch.Tensor]]
# How torch says that it does not offer something.
ABSENT = (
    "not implemented",
    "does not support",
    "not supported",
    "unsupported",
    "not currently support",
    "no kernel",
    "not yet implemented",
    "unexpected keyword argument 'out'",
)
OURS = ("internal assert", "please report a bug", "undefined", "should not happen", "expected to get")


def offered(problem: BaseException) -> bool:
    """Whether an error is not one by which torch says that it does not offer something."""
    said = str(problem).lower()
    absent = isinstance(problem, NotImplementedError) or any(word in said for word in ABSENT)
    return not absent or any(word in said for word in OURS[:2])


def weights_of(outputs: Sequence[torch.Tensor]) -> List[torch.Tensor]:
    """What each output is multiplied with: small binary fractions, no two neighbours alike."""
    made = []
    for place, output in enumerate(outputs):
        numbers = torch.arange(output.numel(), dtype=torch.float64)
        values = (numbers * 7 + 3 + place).remainder(11).sub(5.5).div(4).reshape(output.shape)
        if output.dtype.is_complex:
            values = torch.complex(values, values.flip(0) if values.dim() else values)
        made.append(values.to(output.device, output.dtype))
    return made


class Problem(Exception):
    """What broke a law: its id, and a sentence. mode: the law's name among those of operators."""

    mode = ""

    def __init__(self, law: str, route: str, sentence: str) -> None:
        super().__init__(sentence)
        self.law = law
        self.route = route
        self.sentence = sentence


class Trial:
    """A call, its output and gradients with nothing frozen.

    found: every problem so far; checks: how many comparisons were made; roundings: the routes that
    agreed but for rounding where bits were expected.
    """

    def __init__(self, call: Call) -> None:
        self.call = call
        self.found: List[Problem] = []
        self.checks = 0
        self.absent: List[str] = []
        with quiet():
            self.leaves = call.leaves()
            self.before = [read_bits(leaf) for leaf in self.leaves]
            self.outputs = self.run(self.leaves)
            self.learns = [place for place, one in enumerate(self.outputs) if one.requires_grad]
            self.weights = weights_of([self.outputs[place] for place in self.learns])
            self.bits = [read_bits(one) for one in self.outputs]
            self.gradients = self.backward(self.outputs, self.leaves, keep=True)

    @property
    def count(self) -> int:
        """How many tensors may be frozen."""
        return len(self.call.values)

    def run(
        self, leaves: Sequence[torch.Tensor], others: Sequence[torch.Tensor] = ()
    ) -> List[torch.Tensor]:
        """The output's tensors; the same random numbers each time."""
        accelerators.seed(0)
        return tensors_in(self.call(leaves, others))

    def backward(
        self, outputs: Sequence[torch.Tensor], leaves: Sequence[torch.Tensor], keep: bool = False
    ) -> Gradients:
        """``autograd.grad`` of the weighted outputs by the leaves that require grad; else None."""
        return self.grad(outputs, [leaf for leaf in leaves], keep=keep)

    def weighted(self, outputs: Sequence[torch.Tensor]) -> List[Tuple[torch.Tensor, torch.Tensor]]:
        """The outputs that backward can begin at, each with its weight."""
        pairs = zip((outputs[place] for place in self.learns), self.weights)
        return [(output, weight) for output, weight in pairs if output.requires_grad]

    def grad(
        self,
        outputs: Sequence[torch.Tensor],
        leaves: Sequence[torch.Tensor],
        keep: bool = False,
        create: bool = False,
    ) -> Gradients:
        live = [leaf for leaf in leaves if leaf.requires_grad]
        pairs = self.weighted(outputs)
        if not live or not pairs:
            return [None] * len(leaves)
        accelerators.seed(1)
        found = iter(
            torch.autograd.grad(
                [one for one, _ in pairs],
                live,
                [weight for _, weight in pairs],
                retain_graph=keep or create,
                create_graph=create,
                allow_unused=True,
            )
        )
        return [next(found) if leaf.requires_grad else None for leaf in leaves]

    def expect(self, law: str, route: str, condition: bool, sentence: str) -> bool:
        """Count one comparison, and keep the problem where it does not hold."""
        self.checks += 1
        if not condition:
            self.found.append(Problem(law, route, sentence))
        return condition

    def agree(
        self,
        law: str,
        route: str,
        actual: Optional[torch.Tensor],
        expected: Optional[torch.Tensor],
        what: str,
        exact: bool = True,
    ) -> None:
        """Two gradients are the same: in bits, or but for rounding. None is a gradient of zeros."""
        if actual is None or expected is None:
            one = actual if expected is None else expected
            zero = one is None or not bool(
                one.detach().count_nonzero() if one.layout is torch.strided else one._nnz()
            )
            side = "None" if actual is None else "a gradient"
            self.expect(
                law, route, zero, f"{what}: {side}, where the other is not and holds more than zeros"
            )
            return
        said = difference(actual, expected)
        good = said == SAME or (said == ROUNDED and not exact)
        if said == ROUNDED and exact:
            said = "the bits of another rounding"
            route = f"{route}, rounding"
        self.expect(law, route, good, f"{what}: {said}")

    def agree_all(
        self, law: str, route: str, found: Gradients, frozen: Sequence[int] = (), exact: bool = True
    ) -> None:
        """Each gradient of what is not frozen agrees with that of backward with nothing frozen."""
        for number in range(self.count):
            if number not in frozen:
                self.agree(
                    law,
                    route,
                    found[number],
                    self.gradients[number],
                    f"gradient of x{number} {route}",
                    exact,
                )

    def masks(self, most: int = 6) -> Iterator[Tuple[int, ...]]:
        """What to freeze: each alone, each but one, and all."""
        numbers = range(self.count)
        alone = [(number,) for number in numbers]
        but_one = [tuple(other for other in numbers if other != number) for number in numbers]
        whole = [mask for mask in dict.fromkeys(itertools.chain(alone, but_one)) if mask]
        return iter(whole[:most])
