"""O4: outputs that are given, and operators in place, are as those of the plain call."""

from typing import Tuple

import torch

from frostproof.properties.harness.core.bits import read_bits
from frostproof.properties.harness.machine import accelerators
from frostproof.properties.harness.operators.comparison import storage
from frostproof.properties.harness.operators.masks import same
from frostproof.properties.harness.operators.trial import Trial
from frostproof.strategies.operator_calls import strided, tensors_in


def _place(tensor: torch.Tensor) -> Tuple[int, Tuple[int, ...]]:
    """Where it lies: its memory, and the strides of the dimensions that have any."""
    steps = zip(tensor.stride(), tensor.shape)
    return storage(tensor), tuple(step for step, size in steps if size > 1) if tensor.numel() else ()


def given_out(trial: Trial) -> None:
    """O4: ``out=`` gives what the plain call gives, and refuses what requires grad."""
    if trial.call.out is None:
        return
    with torch.no_grad():
        leaves = trial.call.leaves()
        arguments, named = trial.call.given(leaves)
        accelerators.seed(0)
        plain = trial.call.out(*arguments, **named)
        if not isinstance(plain, torch.Tensor):
            return
        for route in ("out=", "out= with gaps"):
            out = (
                torch.full_like(plain, 7).contiguous()
                if route == "out="
                else strided(torch.full_like(plain, 7))
            )
            was = _place(out)
            accelerators.seed(0)
            made = trial.call.out(*arguments, **named, out=out)
            same(trial, "O4", f"{route}: output", out, plain, exact=route == "out=")
            trial.expect("O4", route, made is out, f"{route} returns another object")
            trial.expect(
                "O4",
                route,
                _place(out) == was,
                f"{route} moved the memory of what it was given",
            )
    leaves = trial.call.leaves()
    arguments, named = trial.call.given(leaves)
    accelerators.seed(0)
    try:
        made = trial.call.out(*arguments, **named, out=torch.empty_like(plain))
        learns = made.requires_grad
        if learns:
            found = trial.grad([made], leaves)
    except RuntimeError as refused:
        said = str(refused)
        words = ("out=", "differentiation", "requires grad", "derivative for", "does not require grad")
        trial.expect(
            "O4",
            "out= refuses",
            any(word in said for word in words),
            f"out= with what requires grad says: {said[:200]}",
        )
    else:
        if learns and len(trial.learns) == 1:
            trial.agree_all("O4", "out= with a graph", found, exact=False)
        elif trial.learns:
            trial.expect(
                "O4",
                "out= refuses",
                False,
                "out= with what requires grad cuts the graph without a word",
            )


def in_place(trial: Trial) -> None:
    """O4: the in-place variant gives the output and gradients of the plain call, for every mask."""
    if trial.call.inplace is None or trial.count == 0:
        return
    first = trial.call.arguments[0]
    if not getattr(first, "differentiable", False):
        return
    if (
        len(trial.outputs) != 1
        or trial.outputs[0].shape != trial.call.values[first.number].shape
        or trial.outputs[0].dtype is not trial.call.values[first.number].dtype
    ):
        return
    for mask in ((), (first.number,)):
        if len(mask) == trial.count:
            continue
        leaves = trial.call.leaves(mask)
        seen = list(leaves)
        seen[first.number] = leaves[first.number].clone()
        arguments, named = trial.call.given(seen)
        target = arguments[0]
        version = target._version
        accelerators.seed(0)
        output = trial.call.inplace(*arguments, **named)
        trial.expect("O4", "in place", output is target, "the in-place variant returns another object")
        trial.expect(
            "O2",
            "in place version",
            target._version > version
            or read_bits(target) == read_bits(trial.call.values[first.number]),
            "the in-place variant did not bump the version",
        )
        same(trial, "O4", "in place: output", output, trial.outputs[0], exact=False)
        found = trial.grad(tensors_in(trial.call.outputs(output)), leaves)
        trial.agree_all("O4", "in place", found, mask, exact=False)
