"""For your own pytest suite: assertions on what is frozen, around any code.

from frostproof.properties.assertions import assert_frozen, assert_only_trains
"""

from contextlib import contextmanager
from typing import Any, Collection, Iterator, List, Mapping, Union

import torch

from frostproof.properties.harness.own.findings import named
from frostproof.properties.harness.own.recipe import flattened
from frostproof.properties.harness.own.watch import Watch, largest_change

Watched = Union[torch.nn.Module, torch.Tensor, Mapping[str, Any]]


def _check_watchable(watched: Any) -> None:
    if not isinstance(watched, (torch.nn.Module, torch.Tensor, Mapping)):
        raise TypeError(
            f"expected a module, a tensor or a mapping of them, got {type(watched).__name__}"
        )


@contextmanager
def assert_frozen(watched: Watched, *, buffers: bool = True) -> Iterator[None]:
    """The code inside changes no bit of a module, a tensor, or a mapping of them.

    buffers: a module's buffers too (BatchNorm's move in train mode). Raises
    AssertionError that names each tensor that moved and by how much, ValueError where
    there is nothing to watch.
    """
    _check_watchable(watched)
    skipped = set()
    if isinstance(watched, torch.nn.Module) and not buffers:
        skipped = {f".{name}" for name, _ in watched.named_buffers()}
    tensors = {name: t for name, t in flattened("", watched) if name not in skipped}
    if not tensors:
        raise ValueError("assert_frozen: nothing to watch: no parameters, buffers or tensors")
    watch = Watch()
    for name, tensor in tensors.items():
        watch.remember(name, tensor)
    yield
    now = dict(flattened("", watched))
    moved: List[str] = []
    for name, tensor in tensors.items():
        current = now.get(name, tensor)
        if watch.moved(name, current):
            change = largest_change(current, watch.bits[name])
            by = "" if change is None else f" (by {change:.3g} at most)"
            moved.append(f"{name.lstrip('.') or 'the tensor'}{by}")
    if moved:
        raise AssertionError(f"should be frozen, but moved: {named(moved)}")


@contextmanager
def assert_only_trains(module: torch.nn.Module, names: Collection[str]) -> Iterator[None]:
    """The code inside moves the named parameters, every one, and no other parameter.

    names: of parameters, or of submodules with all of their parameters. Raises
    AssertionError for what moved and should not and for what did not move and should,
    ValueError for a name that the module does not have.
    """
    parameters = dict(module.named_parameters())
    wanted = set()
    for name in names:
        inside = {known for known in parameters if known == name or known.startswith(f"{name}.")}
        if not inside:
            raise ValueError(
                f"assert_only_trains: no parameter or submodule {name!r}; there are "
                f"{named(list(parameters))}"
            )
        wanted |= inside
    watch = Watch()
    for name, parameter in parameters.items():
        watch.remember(name, parameter)
    yield
    now = dict(module.named_parameters())
    moved = {name for name in parameters if watch.moved(name, now.get(name, parameters[name]))}
    problems = []
    if moved - wanted:
        problems.append(f"moved, but should not: {named(sorted(moved - wanted))}")
    if wanted - moved:
        problems.append(f"did not move, but should: {named(sorted(wanted - moved))}")
    if problems:
        raise AssertionError("; ".join(problems))
