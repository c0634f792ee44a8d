"""O1, O2 and O4: what is frozen, detached, cloned, moved or shared changes nothing else."""

from typing import Sequence, Tuple

import torch

from frostproof.properties.harness.core.bits import read_bits
from frostproof.properties.harness.machine import accelerators
from frostproof.properties.harness.operators.comparison import no_memory, overlap, storage
from frostproof.properties.harness.operators.trial import Trial
from frostproof.strategies.operator_calls import strided, tensors_in


def same(
    trial: Trial, law: str, route: str, actual: torch.Tensor, expected: torch.Tensor, exact: bool = True
) -> None:
    """Two outputs hold the same."""
    trial.agree(
        law, route.partition(":")[2].strip() or route, actual.detach(), expected.detach(), route, exact
    )


def frozen_neighbours(trial: Trial, masks: Sequence[Tuple[int, ...]]) -> None:
    """O1: frozen inputs get none; output and other gradients are as if nothing were frozen."""
    for mask in masks:
        route = f"with x{', x'.join(map(str, mask))} frozen"
        leaves = trial.call.leaves(mask)
        outputs = trial.run(leaves)
        for place, output in enumerate(outputs):
            same(trial, "O1", f"{route}: output", output, trial.outputs[place])
            if len(mask) == trial.count:
                trial.expect(
                    "O1", route, not output.requires_grad, f"output {place} requires grad {route}"
                )
        found = trial.grad(outputs, leaves)
        trial.agree_all("O1", route.split(" ")[0] + " frozen", found, mask)


def detached(trial: Trial, masks: Sequence[Tuple[int, ...]]) -> None:
    """O1: an input that is detached is a frozen one."""
    for mask in masks:
        leaves = trial.call.leaves()
        seen = [leaf.detach() if number in mask else leaf for number, leaf in enumerate(leaves)]
        found = trial.grad(trial.run(seen), leaves)
        for number in mask:
            trial.agree("O1", "detached", found[number], None, f"gradient of detached x{number}")
        trial.agree_all("O1", "detached", found, mask)


def cloned(trial: Trial) -> None:
    """O1: an input that is cloned, or seen through a view of all of it, changes nothing."""
    for route, change in (("cloned", torch.clone), ("viewed", lambda leaf: leaf.view_as(leaf))):
        leaves = trial.call.leaves()
        outputs = trial.run([change(leaf) for leaf in leaves])
        for place, output in enumerate(outputs):
            same(trial, "O1", f"with inputs {route}: output", output, trial.outputs[place])
        trial.agree_all("O1", route, trial.grad(outputs, leaves))


def layouts(trial: Trial) -> None:
    """O1: an input that is not contiguous gives the same gradients, but for rounding."""
    leaves = [strided(value).requires_grad_() for value in trial.call.values]
    outputs = trial.run(leaves)
    for place, output in enumerate(outputs):
        if place < len(trial.outputs):
            same(trial, "O1", "with gaps: output", output, trial.outputs[place], exact=False)
    trial.agree_all("O1", "with gaps", trial.grad(outputs, leaves), exact=False)


def without_grad(trial: Trial) -> None:
    """O1: under no_grad the output is the same, and requires no grad."""
    with torch.no_grad():
        leaves = trial.call.leaves()
        outputs = trial.run(leaves)
    for place, output in enumerate(outputs):
        same(trial, "O1", "under no_grad: output", output, trial.outputs[place])
        view = " of a view" * output._is_view()
        trial.expect(
            "O1",
            f"no_grad{view}",
            any(output is leaf for leaf in leaves) or not output.requires_grad,
            f"output {place} requires grad under no_grad",
        )


def inputs_stay(trial: Trial) -> None:
    """O2: inputs keep bits and version in forward and backward; a write bumps the version."""
    leaves, others = trial.call.leaves(), [one.clone() for one in trial.call.others]
    everything = [*leaves, *others]
    names = [f"x{n}" for n in range(len(leaves))] + [f"y{n}" for n in range(len(others))]
    before = [(read_bits(one), one._version) for one in everything]
    outputs = trial.run(leaves, others)
    trial.grad(outputs, leaves)
    for name, one, (bits, version) in zip(names, everything, before):
        moved, bumped = read_bits(one) != bits, one._version != version
        if name.startswith("x"):
            trial.expect("O2", "bits", not moved, f"{name} was changed by the call")
            trial.expect("O2", "version", not bumped, f"the version of {name} was bumped by the call")
        else:
            trial.expect(
                "O2", "hidden write", bumped or not moved, f"{name} was changed, its version was not"
            )


def sharing(trial: Trial) -> None:
    """O4: an output that shares memory with an input is that input, or a view of it."""
    leaves, others = trial.call.leaves(), [one.clone() for one in trial.call.others]
    accelerators.seed(0)
    everything = [*leaves, *others]
    arguments, named = trial.call.given(leaves, others)
    outputs = tensors_in(trial.call.function(*arguments, **named))
    for place, output in enumerate(outputs):
        for one in everything:
            if not no_memory(output) and storage(output) and storage(output) == storage(one):
                view = output is one or output._is_view()
                trial.expect(
                    "O4",
                    "sharing",
                    view,
                    f"output {place} shares the memory of an input but is no view",
                )
        for other in range(place):
            if overlap(output, outputs[other]) and output is not outputs[other]:
                view = output._is_view() or outputs[other]._is_view()
                trial.expect(
                    "O4",
                    "outputs",
                    view,
                    f"outputs {other} and {place} share memory, and none is a view",
                )
