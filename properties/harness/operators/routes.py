"""O3: every route to a gradient leads to the same one."""

import math
from typing import List, Sequence, Tuple

import torch

from frostproof.properties.harness.machine import accelerators
from frostproof.properties.harness.operators.comparison import SAME, bound, difference, inner, wide
from frostproof.properties.harness.operators.masks import same
from frostproof.properties.harness.operators.trial import Gradients, Trial, weights_of
from frostproof.strategies.operator_calls import tensors_in


def copying_hooks(trial: Trial) -> None:
    """O3: where all that is saved for backward is saved as a copy, the gradients are the same."""
    leaves = trial.call.leaves()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach().clone(), lambda t: t):
        outputs = trial.run(leaves)
    trial.agree_all("O3", "saved as copies", trial.grad(outputs, leaves))


def checkpointed(trial: Trial) -> None:
    """O3: a checkpointed call gives the same gradients."""
    from torch.utils.checkpoint import checkpoint

    leaves = trial.call.leaves()
    accelerators.seed(0)
    outputs = tensors_in(
        checkpoint(lambda *given: tuple(tensors_in(trial.call(given))), *leaves, use_reentrant=False)
    )
    trial.agree_all("O3", "checkpointed", trial.grad(outputs, leaves))


def graph_of_gradients(trial: Trial) -> None:
    """O3: with create_graph the gradients are the same, but for rounding."""
    leaves = trial.call.leaves()
    found = trial.grad(trial.run(leaves), leaves, create=True)
    trial.agree_all("O3", "create_graph", found, exact=False)


def functional(trial: Trial) -> None:
    """O3: torch.func.vjp gives the same gradients, but for rounding."""
    leaves = trial.call.leaves(range(trial.count))

    def learning(*given: torch.Tensor) -> Tuple[torch.Tensor, ...]:
        outputs = trial.run(given)
        return tuple(outputs[place] for place in trial.learns)

    pull = torch.func.vjp(learning, *leaves)[1]
    accelerators.seed(1)
    found = list(pull(tuple(trial.weights)))
    trial.agree_all("O3", "func.vjp", found, exact=False)


def forward_mode(trial: Trial) -> None:
    """O3: along a tangent of each input, and of all, the output moves as the gradients say."""
    if not trial.call.forward_mode:
        return
    from torch.autograd import forward_ad

    tangents = weights_of_inputs(trial)
    chosen = [tuple(range(trial.count))] + [(number,) for number in range(trial.count)] * (
        trial.count > 1
    )
    for live in chosen[:5]:
        with forward_ad.dual_level():
            leaves = trial.call.leaves(range(trial.count))
            given = [
                forward_ad.make_dual(leaf, tangents[number].clone()) if number in live else leaf
                for number, leaf in enumerate(leaves)
            ]
            outputs = trial.run(given)
            parts = [forward_ad.unpack_dual(outputs[place]) for place in trial.learns]
            ahead, size = 0.0, 0.0
            for part, weight in zip(parts, trial.weights):
                if part.tangent is not None:
                    ahead += inner(part.tangent, weight)
                    size += float((wide(part.tangent) * wide(weight)).abs().sum())
            for place, part in zip(trial.learns, parts):
                same(
                    trial,
                    "O3",
                    "in forward mode: output",
                    part.primal,
                    trial.outputs[place],
                    exact=False,
                )
        back = 0.0
        for number in live:
            gradient = trial.gradients[number]
            if gradient is not None:
                back += inner(gradient, tangents[number])
                size += float((wide(gradient) * wide(tangents[number])).abs().sum())
        if not (math.isfinite(ahead) and math.isfinite(back)):
            continue
        names = ", ".join(f"x{number}" for number in live)
        tolerance = 4 * max(bound(value.dtype) for value in trial.call.values) * max(size, 1.0)
        trial.expect(
            "O3",
            "forward mode",
            abs(ahead - back) <= tolerance,
            f"along a tangent of {names} forward mode says {ahead}, the gradients {back} "
            f"(allowed {tolerance:.2g})",
        )


def weights_of_inputs(trial: Trial) -> List[torch.Tensor]:
    """A tangent for each input."""
    return [weight.flip(0) if weight.dim() else weight for weight in weights_of(trial.call.values)]


def twice(trial: Trial, masks: Sequence[Tuple[int, ...]]) -> None:
    """O3: gradients of gradients do not depend on what is frozen beside them."""
    if not trial.call.twice:
        return
    for mask in masks:
        live = [number for number in range(trial.count) if number not in mask]
        if not live:
            continue
        second: List[Gradients] = []
        for frozen in ((), mask):
            leaves = trial.call.leaves(frozen)
            first = trial.grad(trial.run(leaves), leaves, create=True)
            ends = [
                (first[n], weight)
                for n, weight in zip(live, [weights_of_inputs(trial)[n] for n in live])
            ]
            pairs = [(one, weight) for one, weight in ends if one is not None and one.requires_grad]
            if not pairs:
                second.append([None] * len(live))
                continue
            second.append(
                list(
                    torch.autograd.grad(
                        [a for a, _ in pairs],
                        [leaves[n] for n in live],
                        [b for _, b in pairs],
                        allow_unused=True,
                    )
                )
            )
        for number, one, two in zip(live, second[1], second[0]):
            trial.agree(
                "O3",
                "double backward",
                one,
                two,
                f"second gradient of x{number} with {mask} frozen",
                exact=False,
            )


def without_effect(trial: Trial) -> None:
    """O3: an element that the output does not depend on has gradient zero."""
    for number, value in enumerate(trial.call.values):
        gradient = trial.gradients[number]
        if gradient is None or value.is_complex() or value.dtype is not torch.float64:
            continue
        if gradient.layout is not torch.strided or not 0 < value.numel() <= 12:
            continue
        if not all(bool(torch.isfinite(output).all()) for output in trial.outputs):
            continue
        least = 1e-9 * max(1.0, float(gradient.abs().max()))
        for place in range(value.numel()):
            slope = float(gradient.flatten()[place])
            if abs(slope) <= least:
                continue
            still = True
            for shift in (1e-3, -1e-3, 0.37):
                leaves = trial.call.leaves(range(trial.count))
                with torch.no_grad():
                    flat = torch.zeros(value.numel(), dtype=value.dtype, device=value.device)
                    flat[place] = shift
                    leaves[number].add_(flat.view(value.shape))
                    outputs = trial.run(leaves)
                still &= all(difference(a, b) == SAME for a, b in zip(outputs, trial.outputs))
                if not still:
                    break
            trial.expect(
                "O3",
                "no effect",
                not still,
                f"element {place} of x{number} has no effect on the output, but gradient {slope}",
            )
