"""G1 and G2: what two backward passes leave, and whose memory it is."""

from typing import Sequence

import torch

from frostproof.properties.harness.machine import accelerators
from frostproof.properties.harness.operators.comparison import overlap
from frostproof.properties.harness.operators.trial import Trial


def accumulation(trial: Trial) -> None:
    """G1 G2: two passes leave twice the gradient, and no gradient shares memory with anything."""
    for scaled in (False, True):
        leaves = trial.call.leaves()
        route = "accumulated, scaled" if scaled else "accumulated"
        for turn in (1, 2):
            given = [weight.clone() for weight in trial.weights]
            outputs = trial.run(leaves)
            accelerators.seed(1)
            ends = [outputs[place] for place in trial.learns]
            if scaled:
                given = [weight / 2 for weight in given]
                ends = [end * 2 for end in ends]
            torch.autograd.backward(ends, given)
            if turn == 1:
                _owned(trial, route, leaves, outputs, [] if scaled else given)
        for number, leaf in enumerate(leaves):
            once = trial.gradients[number]
            twice = None if once is None else once.detach() + once.detach()
            trial.agree(
                "G1",
                route,
                leaf.grad,
                twice,
                f"gradient of x{number} after two passes",
                exact=not scaled,
            )


def partners(trial: Trial) -> None:
    """G1 G2: beside a second call of the same operator, two passes leave twice the gradient."""
    for frozen in ((), tuple(range(trial.count))):
        sides = [trial.call.leaves(), trial.call.leaves(frozen)]
        route = "beside a frozen partner" if frozen else "beside a partner"
        for turn in (1, 2):
            outputs = [trial.run(leaves) for leaves in sides]
            accelerators.seed(1)
            ends = [outputs[0][place] + outputs[1][place] for place in trial.learns]
            given = [weight / 2 for weight in trial.weights]
            torch.autograd.backward([end * 2 for end in ends], given)
            if turn == 1:
                _owned(trial, route, [*sides[0], *sides[1]], [*outputs[0], *outputs[1]], [])
        for leaves in sides[: 1 if frozen else 2]:
            for number, leaf in enumerate(leaves):
                once = trial.gradients[number]
                twice = None if once is None else once.detach() + once.detach()
                trial.agree(
                    "G1",
                    route,
                    leaf.grad,
                    twice,
                    f"gradient of x{number} after two passes {route}",
                    exact=False,
                )


def _owned(
    trial: Trial,
    route: str,
    leaves: Sequence[torch.Tensor],
    outputs: Sequence[torch.Tensor],
    given: Sequence[torch.Tensor],
) -> None:
    """No gradient shares memory with another, an input, an output or what backward was given."""
    named = [(f"x{n}", leaf.grad) for n, leaf in enumerate(leaves) if leaf.grad is not None]
    rest = [(f"x{n}", leaf) for n, leaf in enumerate(leaves)] + [("an output", one) for one in outputs]
    for place, (name, gradient) in enumerate(named):
        for other, one in named[:place]:
            trial.expect(
                "G2",
                route,
                not overlap(gradient, one),
                f"the gradients of {other} and {name} share memory",
            )
        for other, one in rest:
            trial.expect(
                "G2",
                route,
                not overlap(gradient, one.detach()),
                f"the gradient of {name} shares memory with {other}",
            )
        for one in given:
            trial.expect(
                "G2",
                f"{route}, given",
                not overlap(gradient, one),
                f"the gradient of {name} shares memory with what backward was given",
            )
