"""What random programs are drawn from: statements by kind, blocks, the inputs' dtypes and kinds."""

from dataclasses import dataclass
from functools import cache
from typing import Dict, FrozenSet, Tuple

from frostproof.strategies.statements import BY_KIND, COMMON, DENSE_WEIGHTS, WEIGHTS, Operation

DTYPES = ("float64", "float32", "complex128")
_DTYPES = (*DTYPES[:1] * 5, *DTYPES[1:2] * 2, DTYPES[2])  # as often as they are drawn
INPUT_LAYOUTS = ("contiguous", "transposed", "slice", "step", "expanded")
_LAYOUTS = (*INPUT_LAYOUTS[:1] * 6, *INPUT_LAYOUTS[1:])
INPUT_KINDS = (
    "live",  # a leaf that requires grad
    "frozen",  # a leaf that does not
    "result",  # made from a leaf that requires grad
    "parameter",  # of a module
    "frozen_parameter",
    "buffer",
    "same",  # another name of the first input's object
    "view_of",  # a view of the first input
    "detached_of",  # an alias of the first input outside the graph
    "neighbour",  # another slice of the first input's storage
)
_BLOCKS: Tuple[Tuple[str, ...], ...] = (
    *((),) * 14,
    ("no_grad",),
    ("no_grad",),
    ("no_grad",),
    ("enable_grad",),
    ("inference_mode",),
    ("set_grad_off",),
    ("no_grad", "enable_grad"),
    ("inference_mode", "inference_off"),
)


@dataclass(frozen=True)
class Words:
    """What programs are drawn from: statements by kind, blocks, the inputs' dtypes and kinds.

    dense: for programs that are; kinds: each as often as it is drawn; common: what is in COMMON
    of them; blocks: names of BLOCKS, inside each other, likewise.
    """

    dense: bool
    kinds: Tuple[str, ...]
    by_kind: Dict[str, Tuple[Operation, ...]]
    common: Dict[str, Tuple[Operation, ...]]
    blocks: Tuple[Tuple[str, ...], ...]
    dtypes: Tuple[str, ...]
    inputs: Tuple[str, ...]
    layouts: Tuple[str, ...]


@cache
def words(without: FrozenSet[str] = frozenset(), dense: bool = False) -> Words:
    """Everything but the statements, kinds, blocks, dtypes, kinds and layouts of inputs named.

    dense: for programs that are: see ``programs``.
    """
    weights = DENSE_WEIGHTS if dense else WEIGHTS
    left = {
        kind: tuple(each for each in BY_KIND[kind] if each.name not in without)
        for kind in weights
        if kind not in without
    }
    blocks = (*((),) * 14 * dense, *(("no_grad", "enable_grad"),) * dense, *_BLOCKS)
    kinds = tuple(kind for kind in INPUT_KINDS if kind not in without)
    if dense:  # results can be written to, and still have a gradient
        kinds += tuple(kind for kind in ("result",) * 5 + ("frozen",) * 2 if kind in kinds)
    return Words(
        dense,
        tuple(kind for kind, found in left.items() if found for _ in range(weights[kind])),
        left,
        {
            kind: tuple(each for each in found for _ in range(COMMON.get(each.name, 0)))
            for kind, found in left.items()
        },
        tuple(names for names in blocks if not names or not without & {*names, "block"}),
        tuple(dtype for dtype in _DTYPES if dtype not in without),
        kinds,
        tuple(layout if layout not in without else INPUT_LAYOUTS[0] for layout in _LAYOUTS),
    )
