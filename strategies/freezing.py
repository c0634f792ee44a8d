"""Which parameters are frozen: masks over parameter names."""

from typing import List, Sequence, Tuple, Union

import torch
from hypothesis import strategies as st

from frostproof.strategies.digits import Digits, read_as
from frostproof.strategies.networks import MLP

Mask = Tuple[str, ...]


def layers_of(source: Union[MLP, torch.nn.Module]) -> List[Tuple[str, ...]]:
    """Parameter names, grouped by the layer or submodule that holds them."""
    if isinstance(source, MLP):
        seen: List[str] = []
        groups: List[Tuple[str, ...]] = []
        for names in source.parameters_by_layer():
            groups.append(tuple(name for name in names if name not in seen))
            seen.extend(groups[-1])
        return [group for group in groups if group]
    by_owner: dict = {}
    for name, _ in source.named_parameters():
        by_owner.setdefault(name.rpartition(".")[0], []).append(name)
    return [tuple(names) for names in by_owner.values()]


MASK_DIGITS = 9  # 6 of them one bit a name, for nets of up to 48 names


def mask_digits(count: int) -> int:
    """How many bytes ``read_mask`` takes for ``count`` names: as many for every small net."""
    return max(MASK_DIGITS, 3 + (count + 7) // 8)


def read_mask(digits: Digits, groups: Sequence[Tuple[str, ...]]) -> Mask:
    """A mask of the names in groups, from ``mask_digits(number of names)`` bytes."""
    names = [name for group in groups for name in group]
    count = len(names)
    kind, pick, bits = digits.below(11), digits.bits(2), digits.bits(mask_digits(count) - 3)
    if kind == 0:
        return ()
    if kind == 1:  # exactly one
        return (names[pick % count],)
    if kind == 2:  # one whole layer, the middle ones included
        return groups[pick % len(groups)]
    if kind == 3:  # a prefix of layers
        return tuple(name for group in groups[: pick % len(groups) + 1] for name in group)
    if kind == 4:
        return tuple(name for name in names if name.endswith("weight"))
    if kind == 5:
        return tuple(name for name in names if name.endswith("bias"))
    if kind == 6:  # all but one
        return tuple(name for index, name in enumerate(names) if index != pick % count)
    if kind == 7:
        return tuple(names)
    return tuple(name for index, name in enumerate(names) if bits >> index & 1)


def freeze_masks(source: Union[MLP, torch.nn.Module]) -> st.SearchStrategy[Mask]:
    """The names of the frozen parameters of an MLP description or of any module.

    None, one, a whole layer, a prefix of layers, only weights, only biases, all
    but one, all, and any subset each have real probability. Shrinks towards
    nothing frozen, then towards the first parameter alone.

    Raises ValueError for a module without parameters.
    """
    groups = layers_of(source)
    if not groups:
        raise ValueError("freeze_masks needs a module with at least one parameter")
    count = sum(len(group) for group in groups)
    return read_as(mask_digits(count), lambda digits: read_mask(digits, groups))
